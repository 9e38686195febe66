// The other party: a session of agent-awareness, written for these tests from the description of its protocol.
//
//   node original.mjs CLAIMS            obeys orders, one JSON object a line on stdin, one answer each on stdout
//   node original.mjs CLAIMS --repaired likewise, without the faults of the original (see `Lock`)
//   node original.mjs CLAIMS contend LOG SECONDS KEYS SEED MODE   contends at random and writes a log;
//                                                               MODE is original, repaired, or impatient (15 ms, not 5 s)
//
// An order may name places where the session stops: it says {"paused": PLACE} there and goes on with the next line.
// It may also shorten the time (waits, in ms) after which the session breaks a lock by force.

import { appendFileSync, readFileSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { hostname } from 'node:os';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';

const STALE = 10_000;
const POLL = 20;
let patience = 5_000;
const MINUTE = 60_000;

const me = `${hostname()}:${process.pid}`;

let reached = async () => {};
let noticed = () => {};
let watching = false;

async function parsed(file) {
  // Whatever is wrong with a file, it reads as if it were not there.
  return fs.readFile(file, 'utf8').then(JSON.parse).catch(() => null);
}

function runs(pid) {
  try {
    return process.kill(pid, 0);
  } catch (failure) {
    return failure.code === 'EPERM';
  }
}

const late = (claim) => new Date(claim.expiresAt).getTime() < Date.now();
const dead = (claim) => claim.holder.startsWith(`${hostname()}:`) && !runs(claim.pid);
const mine = (claim) => claim.holder === me;

class Lock {
  // Repaired: it never breaks a lock and never gives up waiting by force.  Dead owners are then left to the others.
  constructor(record, repaired) {
    this.record = record;
    this.path = `${record}.lock`;
    this.repaired = repaired;
  }

  async attempt() {
    await fs.mkdir(this.record.slice(0, this.record.lastIndexOf('/')), { recursive: true });
    try {
      await fs.mkdir(this.path);
    } catch (failure) {
      if (failure.code === 'EEXIST') return false;
      throw failure;
    }
    await reached('made');
    await fs.writeFile(`${this.path}/meta.json`, `${JSON.stringify({ pid: process.pid, createdAt: new Date() })}\n`);
    return true;
  }

  async drop() {
    await fs.rm(this.path, { recursive: true, force: true });
  }

  // Why the lock may be broken, or nothing.
  async staleness() {
    const meta = await parsed(`${this.path}/meta.json`);
    if (meta === null) {
      await reached('no meta');
      const there = await fs.stat(this.path).catch(() => null);
      if (there === null) return 'gone'; // Taken for stale, although somebody has just left in good order.
      return Date.now() - there.mtimeMs > STALE ? 'old' : undefined;
    }
    if (!runs(meta.pid)) return 'dead';
    return Date.now() - Date.parse(meta.createdAt) > STALE ? 'aged' : undefined;
  }

  async break(why) {
    await reached('stale');
    noticed(why, this.record);
    await this.drop();
  }

  async around(task) {
    const end = Date.now() + patience;
    while (Date.now() < end) {
      if (await this.attempt()) return this.inside(task);
      await reached('refused');
      const why = this.repaired ? undefined : await this.staleness();
      if (why) await this.break(why);
      else await pause(POLL);
    }
    if (this.repaired) throw new Error('no patience left');
    await reached('impatient');
    await this.break('forced');
    if (await this.attempt()) return this.inside(task);
    throw new Error('the lock was not to be had');
  }

  async inside(task) {
    try {
      await reached('inside');
      return await task();
    } finally {
      await this.drop();
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
    const [claimedAt, expiresAt] = [now, now + minutes * MINUTE].map((time) => new Date(time).toISOString());
    await fs.writeFile(file, `${JSON.stringify({ holder: me, pid: process.pid, claimedAt, expiresAt }, null, 2)}\n`);
  }

  // For the log alone; the original does not look whether the lock, under which it has changed the record, is still its own.
  async confess(file) {
    if (watching && (await parsed(`${file}.lock/meta.json`))?.pid !== process.pid) noticed('robbed', file);
  }

  async tryClaim(plugin, key, minutes = 30) {
    const file = this.file(plugin, key);
    return new Lock(file, this.repaired).around(async () => {
      const found = await parsed(file);
      await reached('read');
      if (found && !mine(found) && !late(found) && !dead(found)) return { claimed: false, holder: found.holder };
      await this.write(file, minutes);
      await this.confess(file);
      return { claimed: true };
    });
  }

  async isClaimedByOther(plugin, key) {
    const file = this.file(plugin, key);
    return new Lock(file, this.repaired).around(async () => {
      const found = await parsed(file);
      if (!found || mine(found)) return false;
      if (!late(found) && !dead(found)) return true;
      await fs.rm(file, { force: true });
      await this.confess(file);
      return false;
    });
  }

  async release(plugin, key) {
    const file = this.file(plugin, key);
    await new Lock(file, this.repaired).around(async () => {
      const found = await parsed(file);
      if (!found || !mine(found)) return;
      await fs.rm(file, { force: true });
      await this.confess(file);
    });
  }

  // Everywhere, and without any lock.
  async prune() {
    let removed = 0;
    for (const plugin of await fs.readdir(this.claims).catch(() => [])) {
      for (const name of await fs.readdir(`${this.claims}/${plugin}`).catch(() => [])) {
        if (!name.endsWith('.json')) continue;
        const file = `${this.claims}/${plugin}/${name}`;
        const found = await parsed(file);
        if (!found || !(late(found) || dead(found))) continue;
        await reached('pruning');
        noticed('pruned', file);
        await fs.rm(file, { force: true });
        removed += 1;
      }
    }
    return removed;
  }
}

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

async function obey(session) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  let places = [];
  reached = async (place) => {
    if (places[0] !== place) return;
    places.shift();
    say({ paused: place });
    await lines.next();
  };
  say({ name: me, pid: process.pid });
  for (let line = await lines.next(); !line.done; line = await lines.next()) {
    const { call, plugin, key, minutes, stops = [], waits = 5_000, report = false } = JSON.parse(line.value);
    const faults = [];
    noticed = (why) => faults.push(why);
    places = stops;
    patience = waits;
    try {
      say({ answer: (await session[call](plugin, key, minutes)) ?? null, ...(report && { faults }) });
    } catch (failure) {
      say({ failed: String(failure.code ?? failure.message) });
    }
  }
}

// Numbers that look random and are the same for the same seed.
function dice(seed) {
  let state = [...seed].reduce((sum, letter) => (Math.imul(sum, 31) + letter.charCodeAt(0)) | 0, 7) >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

const clock = () => Number(process.hrtime.bigint());

async function contend(session, log, seconds, keys, seed) {
  const roll = dice(seed);
  const until = clock() + Number(seconds) * 1e9;
  watching = true;
  const write = (event, key, facts) =>
    appendFileSync(log, `${JSON.stringify({ event, key, holder: me, done: clock(), ...facts })}\n`);
  noticed = (why, record) => {
    let owner = null;
    try {
      owner = JSON.parse(readFileSync(`${record}.lock/meta.json`, 'utf8')).pid;
    } catch {
      // Nobody's, or between mkdir and its meta.json.
    }
    const name = record.slice(record.lastIndexOf('/') + 1, -'.json'.length);
    write('fault', name, { why, at: clock(), owner });
  };
  while (clock() < until) {
    const key = `key ${Math.floor(roll() * Number(keys))}`;
    const asked = clock();
    const ttl = [20, 40, 80][Math.floor(roll() * 3)];
    let answer;
    try {
      answer = await session.tryClaim('default', key, ttl / MINUTE);
    } catch (failure) {
      write('failed', key, { why: String(failure.code ?? failure.message), at: clock() });
      continue;
    }
    write('tried', key, { asked, status: answer.claimed ? 'acquired' : 'held', generation: null, why: null });
    if (!answer.claimed) {
      await pause(1);
      continue;
    }
    // Its time is in whole milliseconds from when it wrote; two less are surely its own.
    const deadline = asked + (ttl - 2) * 1e6;
    const acts = (event) => {
      const at = clock();
      if (at < deadline) write(event, key, { at });
      return at < deadline;
    };
    let going = acts('enter');
    for (let left = Math.floor(roll() * 5); going && left; left -= 1) {
      await pause([0, 1, 10][Math.floor(roll() * 3)]);
      going = acts('stay');
    }
    if (roll() < 0.8) await session.release('default', key).catch(() => {});
    if (roll() < 0.05 && !session.repaired) await session.prune();
  }
}

const [claims, what, ...rest] = process.argv.slice(2);
if (rest[4] === 'impatient') patience = 15;
if (what === 'contend') await contend(new Session(claims, rest[4] === 'repaired'), ...rest.slice(0, 4));
else await obey(new Session(claims, what === '--repaired'));
