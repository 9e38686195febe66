"""Processes that contend for few keys, some killed or stopped at random: `contenders.py CLAIMS LOGS SECONDS KEYS SEED [FAULT]`.

CLAIMS is a directory, or the URL of a store on which all takes ten times as long.  The run lasts SECONDS, and without a FAULT
longer on a machine that is too busy for the processes to have met by then.

Each writes what it did to a log of its own, one JSON object a line, by one appending write each, so that a killed
process leaves at most one half a line, its last.  Times are CLOCK_MONOTONIC in nanoseconds, one clock for all processes of a machine.

A holder judges by its own clock alone whether it may still act: its time ends one TTL after the moment at which it
*asked*, which is never later than the expiry in the store.  It logs `enter` and `stay` only with a time at which
that was so.  Hence the time from `enter` to the last `stay` is time in which it acted as the holder; whatever comes
after the last `stay` (the way to its release, or to its death) it does not claim to have acted in.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

from mcp_claims.errors import ClaimsError, StoreBusyError, StoreUnavailableError
from mcp_claims.model import validation
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.model.validation import ReleaseRequest
from mcp_claims.session.identity import process_session
from mcp_claims.session.releases import Releases
from mcp_claims.session.results import ReleaseResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store
from mcp_claims.stores.config import open_store
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.processes import history
from tests.support.forks import fork

WORKERS = int(os.environ.get("MCP_CLAIMS_CONTENDERS", "32"))
# In milliseconds.  The last one nobody outlives: only a release or a death frees such a claim.
TTLS: tuple[int, ...] = (20, 40, 80, 600_000)
LONG = TTLS[-1]
WAIT = 0.2  # s, for the lock of the namespace; some are stopped for longer than that, inside too
STALL = (0.01, 2.5 * WAIT)  # s
SECOND = 1_000_000_000
MILLISECOND = 1_000_000

Answer = TypeVar("Answer")

clock = time.monotonic_ns
tolerated: type[ClaimsError] = StoreBusyError


class Worker:
    """One life of one contender."""

    def __init__(self, store: Store, log: Path, keys: list[str], goes_on: Callable[[], bool], rng: Random) -> None:
        self._session = process_session(store)
        self._name = self._session.holder.name
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._keys, self._goes_on, self._rng = keys, goes_on, rng
        self._deadlines: dict[str, int] = {}

    def run(self) -> None:
        while self._goes_on():
            key = self._rng.choice(self._keys)
            if deadline := self._try(key):
                self._act(key, deadline)
            else:
                # A refused process makes way, or the holder would hardly get to run on a machine of few cores.
                time.sleep(self._rng.uniform(0, 0.001))

    def prune(self) -> None:
        """Prune again and again, beside all that goes on."""
        while self._goes_on():
            with suppress(tolerated):
                self._session.prune(lock_timeout=WAIT)

    def _try(self, key: str) -> int:
        """Try to claim; return until when we may act, 0 if we may not."""
        ttl = self._rng.choice(TTLS)
        asked = clock()
        try:
            attempt = self._session.try_claim(key, ttl_minutes=ttl / 60_000, lock_timeout=WAIT)
        except tolerated:
            self._write("busy", key)
            return 0
        self._tell_of_loss(key, attempt.lost)
        self._write(
            "tried",
            key,
            asked=asked,
            status=attempt.status.value,
            generation=attempt.found.generation if isinstance(attempt.found, Claim) else None,
            why=attempt.taken_over.state.value if attempt.taken_over else None,
        )
        if not attempt.claimed:
            return 0
        # A renewal never shortens.
        self._deadlines[key] = max(
            self._deadlines.get(key, 0) if attempt.status is Status.RENEWED else 0, asked + ttl * MILLISECOND
        )
        return self._deadlines[key]

    def _act(self, key: str, deadline: int) -> None:
        if not self._stay("enter", key, deadline):
            return
        for _ in range(self._rng.randrange(5)):
            time.sleep(self._rng.choice((0, 0, 0, 0.001, 0.01)))
            if not self._stay("stay", key, deadline):
                return
        chance = self._rng.random()
        if 0.75 <= chance < 0.9:
            if later := self._try(key):
                # A renewal, or a new claim after the old one was lost: in either case another period.
                self._stay("enter", key, later)
                self._release(key)
        elif chance >= 0.9 and deadline - clock() < SECOND:
            # Hang until it has expired, and leave it to the first that comes.
            time.sleep(max(0, deadline - clock()) / SECOND)
        else:
            self._release(key)

    def _release(self, key: str) -> None:
        """Give the claim back; what is long-lived has to be there still."""
        while True:
            try:
                released = self._session.release(key, lock_timeout=WAIT)
            except tolerated:
                self._write("busy", key)
                # It may have been done, and is no loss then.
                self._deadlines.pop(key, None)
                continue
            if not released.released:
                self._tell_of_loss(key, released.lost)
            self._deadlines.pop(key, None)
            return

    def _tell_of_loss(self, key: str, lost: Claim | None) -> None:
        """Log that a claim was lost although its holder lives and its time was not up."""
        deadline = self._deadlines.pop(key, 0) if lost else 0
        if clock() < deadline:
            self._write("lost", key, generation=lost.generation if lost else None)

    def _stay(self, event: str, key: str, deadline: int) -> bool:
        now = clock()
        if now < deadline:
            self._write(event, key, at=now)
        return now < deadline

    def _write(self, event: str, key: str, **facts: object) -> None:
        line = json.dumps({"event": event, "key": key, "holder": self._name, "done": clock(), **facts})
        os.write(self._log, line.encode() + b"\n")


class Nursery:
    """Starts the workers, kills some of them and starts others in their place, and stops others for a while."""

    def __init__(self, claims: str, logs: str, seconds: str, keys: str, seed: str, fault: str = "") -> None:
        self._store, self._logs, self._seed = opened(claims), Path(logs), seed
        self._keys = [f"key {number}" for number in range(int(keys))]
        self._until = clock() + int(float(seconds) * SECOND)
        self._fault = fault
        self._next_reading = 0
        self._over = mmap.mmap(-1, 1)  # Shared with all that are forked: not 0 once the run is over.
        self._rng = Random(seed)
        self._lives = 0
        self._alive: set[int] = set()
        self._pruner = 0
        self._stopped: dict[int, int] = {}
        self._counts = Counter({"kills": 0, "stalls": 0, "inspections of the dead": 0, "held by the dead": 0})

    def run(self) -> dict[str, object]:
        for _ in range(WORKERS):
            self._start(Worker.run)
        self._start(Worker.prune)
        # It may be stopped, but goes on to the end.
        self._pruner = max(self._alive)
        looker = process_session(self._store)
        while clock() < self._until or not (self._fault or self._was_contest()):
            time.sleep(self._rng.uniform(0.01, 0.1))
            self._let_go_on()
            if self._counts["kills"] <= self._counts["stalls"]:
                self._kill(looker)
            else:
                self._stop()
        self._over[0] = 1
        self._let_go_on(all_of_them=True)
        for pid in self._alive:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert code == 0, f"a worker ended with {code}"
        # All are gone, with claims that have minutes to live: each key has to be free at once.
        stuck = [key for key in self._keys if not answered(partial(looker.try_claim, key)).claimed]
        return {**self._counts, "lives": self._lives, "stuck": stuck}

    def _was_contest(self) -> bool:
        """Return whether processes have tried at the same time, were refused, and took over from the dead and the late."""
        begun = clock()
        disturbances = min(self._counts[event] for event in ("kills", "stalls", "inspections of the dead"))
        if disturbances < 2 or begun < self._next_reading:
            return False
        seen = history.read(self._logs.iterdir())
        # The logs grow: most of the time is for kills, or what is missing would not happen for minutes.
        self._next_reading = clock() + 4 * (clock() - begun)
        statuses, causes = {tried.status for tried in seen.tries}, {tried.why for tried in seen.tries}
        # On etcd the process of the holder removes what has expired, mostly before anybody else can.
        late = {"orphaned"} if isinstance(self._store, EtcdStore) else {"orphaned", "expired"}
        return "held" in statuses and late <= causes and history.contested(seen) > 0 and history.hand_overs(seen) > 0

    def _start(self, life: Callable[[Worker], None]) -> None:
        self._lives += 1
        # Forked, as so many interpreters that start at once would take up all of the time; each opens its own session.
        if pid := fork():
            self._alive.add(pid)
            return
        # An error goes up through all of this and ends the child, with its traceback and as a failure.
        log = self._logs / f"{self._lives}.log"
        rng = Random(f"{self._seed}/{self._lives}")
        life(Worker(self._store, log, self._keys, lambda: not self._over[0], rng))
        os._exit(0)

    def _stop(self) -> None:
        running = sorted(self._alive - set(self._stopped))
        # A third of the machine at most, or nobody would be left to contend.
        if len(self._stopped) < WORKERS // 3:
            pid = self._rng.choice(running)
            os.kill(pid, signal.SIGSTOP)
            self._stopped[pid] = clock() + int(self._rng.uniform(*STALL) * SECOND)
        self._counts["stalls"] += 1

    def _let_go_on(self, *, all_of_them: bool = False) -> None:
        for pid, until in list(self._stopped.items()):
            if all_of_them or clock() >= until:
                os.kill(pid, signal.SIGCONT)
                del self._stopped[pid]

    def _kill(self, looker: Session) -> None:
        """Kill one; every second victim holds a key, as far as can be seen from outside.  Its key is free at once."""
        key = self._rng.choice(self._keys)
        found = answered(lambda: self._store.read(ScopedKey("default", key)))
        held = found.holder if isinstance(found, Claim) and found.holder.pid in self._alive else None
        pid = held.pid if held and self._counts["kills"] % 2 else self._rng.choice(sorted(self._alive - {self._pruner}))
        os.kill(pid, signal.SIGKILL)
        # A busy machine takes its time to end it.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        # An inspection removes the dead claim, so half of them are left to those who contend.
        if held and held.pid == pid and self._counts["kills"] % 4 == 1:
            # As the others see it, while nobody has reaped the process.
            seen = answered(lambda: looker.inspect(key)).found
            self._counts["inspections of the dead"] += 1
            self._counts["held by the dead"] += isinstance(seen, Claim) and seen.holder == held
        os.waitpid(pid, 0)
        self._alive.remove(pid)
        self._stopped.pop(pid, None)
        self._counts["kills"] += 1
        self._start(Worker.run)


def answered(ask: Callable[[], Answer]) -> Answer:
    """Return what *ask* returns, asked again as long as the store is in trouble, which is part of some runs."""
    while True:
        with suppress(tolerated):
            return ask()


def opened(claims: str) -> Store:
    """Open the store at *claims*; adapt the times of this run to it."""
    global TTLS, tolerated
    if "://" not in claims:
        return FileStore(claims)
    TTLS = (*(10 * ttl for ttl in TTLS[:-1]), LONG)
    tolerated = StoreUnavailableError
    return open_store(url=claims)


def plant(fault: str) -> None:
    """Break what the run must prove, to show that it notices."""
    global tolerated
    if fault == "no lock":
        # Nor are they to stumble over each other's half-written files before anybody has acted.
        tolerated = ClaimsError
        FileSystem.try_lock = lambda self, fd: True  # type: ignore[method-assign]
        return
    assert fault == "release by path"

    def release(
        self: Releases,
        request: ReleaseRequest,
        lock_timeout: float,
        grant: Claim | None = None,
        left: Mapping[ScopedKey, Claim | None] | None = None,
    ) -> ReleaseResult:
        scoped = request.scoped
        while isinstance(found := self._store.read(scoped), Claim):
            if self._store.swap(scoped, found, None, lock_timeout=lock_timeout).won:
                return ReleaseResult(True, found, self._machine.now())
        return ReleaseResult(False, None, self._machine.now())

    Releases._release = release  # type: ignore[method-assign]


if __name__ == "__main__":
    # A second is short for agents and long for this test.
    validation.MIN_TTL = timedelta(milliseconds=1)
    nursery = Nursery(*sys.argv[1:])
    if sys.argv[6:]:
        plant(sys.argv[6])
    print(json.dumps(nursery.run()), flush=True)
