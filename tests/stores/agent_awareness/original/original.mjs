// A session of agent-awareness, written for these tests from its claims.ts: same files, same lock protocol, same faults.
//
//   node original.mjs CLAIMS             reads commands from stdin, one JSON object a line, and prints one result each
//   node original.mjs CLAIMS --repaired  the same without the faults of the original (see `Lock`)
//   node original.mjs CLAIMS contend LOG SECONDS KEYS SEED MODE   contends for keys at random and writes a log; MODE is
//                                        original, repaired, or impatient (breaks locks by force after 15 ms, not 5 s)
//
// A command may name places at which the session pauses (stops): it prints {"paused": PLACE} there and goes on with the
// next line.  It may also shorten the time, in ms, after which the session breaks a lock by force (waits).

import { appendFileSync, readFileSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { hostname } from 'node:os';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';

const STALE_MS = 10_000;
const RETRY_MS = 20;
let maxWaitMs = 5_000;
const MINUTE_MS = 60_000;

const me = `${hostname()}:${process.pid}`;

let pauseAt = async () => {};
let logFault = () => {};
let logsLostLocks = false;

async function readJson(file) {
  // As in the original, a file that cannot be read or parsed counts as missing.
  return fs.readFile(file, 'utf8').then(JSON.parse).catch(() => null);
}

function isPidAlive(pid) {
  try {
    return process.kill(pid, 0);
  } catch (failure) {
    return failure.code === 'EPERM';
  }
}

const isExpired = (claim) => new Date(claim.expiresAt).getTime() < Date.now();
const isHolderDead = (claim) => claim.holder.startsWith(`${hostname()}:`) && !isPidAlive(claim.pid);
const isOurs = (claim) => claim.holder === me;

class Lock {
  // Repaired: it never breaks a lock.  Locks of dead owners are then left to mcp-claims.
  constructor(record, repaired) {
    this.record = record;
    this.path = `${record}.lock`;
    this.repaired = repaired;
  }

  async tryAcquire() {
    await fs.mkdir(this.record.slice(0, this.record.lastIndexOf('/')), { recursive: true });
    try {
      await fs.mkdir(this.path);
    } catch (failure) {
      if (failure.code === 'EEXIST') return false;
      throw failure;
    }
    await pauseAt('made');
    await fs.writeFile(`${this.path}/meta.json`, `${JSON.stringify({ pid: process.pid, createdAt: new Date() })}\n`);
    return true;
  }

  async release() {
    await fs.rm(this.path, { recursive: true, force: true });
  }

  // Returns why the original would break the lock, or undefined.
  async whyStale() {
    const meta = await readJson(`${this.path}/meta.json`);
    if (meta === null) {
      await pauseAt('no meta');
      const there = await fs.stat(this.path).catch(() => null);
      if (there === null) return 'gone'; // A fault: its owner has just released it.
      return Date.now() - there.mtimeMs > STALE_MS ? 'old' : undefined;
    }
    if (!isPidAlive(meta.pid)) return 'dead';
    return Date.now() - Date.parse(meta.createdAt) > STALE_MS ? 'aged' : undefined;
  }

  async break(why) {
    await pauseAt('stale');
    logFault(why, this.record);
    await this.release();
  }

  async withLock(task) {
    const end = Date.now() + maxWaitMs;
    while (Date.now() < end) {
      if (await this.tryAcquire()) return this.runLocked(task);
      await pauseAt('refused');
      const why = this.repaired ? undefined : await this.whyStale();
      if (why) await this.break(why);
      else await pause(RETRY_MS);
    }
    if (this.repaired) throw new Error('timed out waiting for the lock');
    await pauseAt('timed out');
    await this.break('forced');
    if (await this.tryAcquire()) return this.runLocked(task);
    throw new Error('failed to acquire claim lock');
  }

  async runLocked(task) {
    try {
      await pauseAt('inside');
      return await task();
    } finally {
      await this.release();
    }
  }
}

class Session {
  constructor(claims, repaired) {
    this.claims = claims;
    this.repaired = repaired;
  }

  file(plugin, key) {
    return `${this.claims}/${plugin}/${key.replaceAll(/[\\/#:]/g, '_')}.json`;
  }

  async write(file, minutes) {
    const now = Date.now();
    const [claimedAt, expiresAt] = [now, now + minutes * MINUTE_MS].map((time) => new Date(time).toISOString());
    await fs.writeFile(file, `${JSON.stringify({ holder: me, pid: process.pid, claimedAt, expiresAt }, null, 2)}\n`);
  }

  // Only for the log: the original never checks whether it still has the lock under which it changed the record.
  async logIfLockLost(file) {
    if (logsLostLocks && (await readJson(`${file}.lock/meta.json`))?.pid !== process.pid) logFault('lock lost', file);
  }

  async tryClaim(plugin, key, minutes = 30) {
    const file = this.file(plugin, key);
    return new Lock(file, this.repaired).withLock(async () => {
      const found = await readJson(file);
      await pauseAt('read');
      if (found && !isOurs(found) && !isExpired(found) && !isHolderDead(found)) return { claimed: false, holder: found.holder };
      await this.write(file, minutes);
      await this.logIfLockLost(file);
      return { claimed: true };
    });
  }

  async isClaimedByOther(plugin, key) {
    const file = this.file(plugin, key);
    return new Lock(file, this.repaired).withLock(async () => {
      const found = await readJson(file);
      if (!found || isOurs(found)) return false;
      if (!isExpired(found) && !isHolderDead(found)) return true;
      await fs.rm(file, { force: true });
      await this.logIfLockLost(file);
      return false;
    });
  }

  async release(plugin, key) {
    const file = this.file(plugin, key);
    await new Lock(file, this.repaired).withLock(async () => {
      const found = await readJson(file);
      if (!found || !isOurs(found)) return;
      await fs.rm(file, { force: true });
      await this.logIfLockLost(file);
    });
  }

  // In all plugins, and without any lock.
  async prune() {
    let removed = 0;
    for (const plugin of await fs.readdir(this.claims).catch(() => [])) {
      for (const name of await fs.readdir(`${this.claims}/${plugin}`).catch(() => [])) {
        if (!name.endsWith('.json')) continue;
        const file = `${this.claims}/${plugin}/${name}`;
        const found = await readJson(file);
        if (!found || !(isExpired(found) || isHolderDead(found))) continue;
        await pauseAt('pruning');
        logFault('pruned', file);
        await fs.rm(file, { force: true });
        removed += 1;
      }
    }
    return removed;
  }
}

const print = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

async function runCommands(session) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  let places = [];
  pauseAt = async (place) => {
    if (places[0] !== place) return;
    places.shift();
    print({ paused: place });
    await lines.next();
  };
  print({ name: me, pid: process.pid });
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const { call, plugin, key, minutes, stops = [], waits = 5_000, report = false } = JSON.parse(line.value);
    const faults = [];
    logFault = (why) => faults.push(why);
    places = stops;
    maxWaitMs = waits;
    try {
      print({ answer: (await session[call](plugin, key, minutes)) ?? null, ...(report && { faults }) });
    } catch (failure) {
      print({ failed: String(failure.code ?? failure.message) });
    }
  }
}

// Returns a generator of reproducible numbers in [0, 1).
function seededRandom(seed) {
  let state = [...seed].reduce((sum, letter) => (Math.imul(sum, 31) + letter.charCodeAt(0)) | 0, 7) >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

const clock = () => Number(process.hrtime.bigint());

async function contend(session, log, seconds, keys, seed) {
  const random = seededRandom(seed);
  const until = clock() + Number(seconds) * 1e9;
  logsLostLocks = true;
  const write = (event, key, facts) =>
    appendFileSync(log, `${JSON.stringify({ event, key, holder: me, done: clock(), ...facts })}\n`);
  logFault = (why, record) => {
    let owner = null;
    try {
      owner = JSON.parse(readFileSync(`${record}.lock/meta.json`, 'utf8')).pid;
    } catch {
      // No lock, or one without meta.json yet.
    }
    const name = record.slice(record.lastIndexOf('/') + 1, -'.json'.length);
    write('fault', name, { why, at: clock(), owner });
  };
  while (clock() < until) {
    const key = `key ${Math.floor(random() * Number(keys))}`;
    const asked = clock();
    const ttl = [20, 40, 80][Math.floor(random() * 3)];
    let answer;
    try {
      answer = await session.tryClaim('default', key, ttl / MINUTE_MS);
    } catch (failure) {
      write('failed', key, { why: String(failure.code ?? failure.message), at: clock() });
      continue;
    }
    write('tried', key, { asked, status: answer.claimed ? 'acquired' : 'held', generation: null, why: null });
    if (!answer.claimed) {
      await pause(1);
      continue;
    }
    // The claim expires a whole number of milliseconds after it was written; 2 ms less are certainly within it.
    const deadline = asked + (ttl - 2) * 1e6;
    const acts = (event) => {
      const at = clock();
      if (at < deadline) write(event, key, { at });
      return at < deadline;
    };
    let going = acts('enter');
    for (let left = Math.floor(random() * 5); going && left; left -= 1) {
      await pause([0, 1, 10][Math.floor(random() * 3)]);
      going = acts('stay');
    }
    if (random() < 0.8) await session.release('default', key).catch(() => {});
    if (random() < 0.05 && !session.repaired) await session.prune();
  }
}

const [claims, what, ...rest] = process.argv.slice(2);
if (rest[4] === 'impatient') maxWaitMs = 15;
if (what === 'contend') await contend(new Session(claims, rest[4] === 'repaired'), ...rest.slice(0, 4));
else await runCommands(new Session(claims, what === '--repaired'));
