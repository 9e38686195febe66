"""Processes that contend for few keys and are killed at random: `contenders.py CLAIMS LOGS SECONDS KEYS SEED`.

Each writes what it did to a log of its own, one JSON object a line, by one appending write each, so that a killed
process leaves whole lines.  Times are CLOCK_MONOTONIC in nanoseconds, one clock for all processes of a machine.

A holder judges by its own clock alone whether it may still act: its time ends one TTL after the moment at which it
*asked*, which is never later than what the store was told.  It logs `enter` and `stay` only with a time at which
that was so.  Hence the time from `enter` to the last `stay` is time in which it acted as the holder; whatever comes
after the last `stay` (the way to its release, or to its death) it does not claim to have acted in.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from random import Random

from mcp_claims import rules
from mcp_claims.record import Claim, ScopedKey
from mcp_claims.sessions import process_session
from mcp_claims.stores.base import Store
from mcp_claims.stores.files import FileStore

WORKERS = 16
TTLS = (20, 40, 80)  # milliseconds
SECOND = 1_000_000_000
MILLISECOND = 1_000_000

clock = time.monotonic_ns


class Worker:
    """One life of one contender."""

    def __init__(self, store: Store, log: Path, keys: list[str], until: int, rng: Random) -> None:
        self._session = process_session(store)
        self._name = self._session.holder.name
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._keys, self._until, self._rng = keys, until, rng

    def run(self) -> None:
        while clock() < self._until:
            key = self._rng.choice(self._keys)
            if deadline := self._try(key):
                self._act(key, deadline)
            else:
                # Whoever was refused makes way, or the holder would hardly get to run on a machine of few cores.
                time.sleep(self._rng.uniform(0, 0.001))
            if self._rng.random() < 0.05:
                self._session.prune()

    def _try(self, key: str) -> int:
        """Try to claim; return until when we may act, 0 if we may not."""
        ttl = self._rng.choice(TTLS)
        asked = clock()
        attempt = self._session.try_claim(key, ttl_minutes=ttl / 60_000)
        self._write(
            "tried",
            key,
            asked=asked,
            status=attempt.status.value,
            generation=attempt.found.generation if isinstance(attempt.found, Claim) else None,
            why=attempt.taken_over.why.value if attempt.taken_over else None,
        )
        return asked + ttl * MILLISECOND if attempt.claimed else 0

    def _act(self, key: str, deadline: int) -> None:
        if not self._stay("enter", key, deadline):
            return
        for _ in range(self._rng.randrange(5)):
            time.sleep(self._rng.choice((0, 0, 0, 0.001, 0.01)))
            if not self._stay("stay", key, deadline):
                return
        chance = self._rng.random()
        if chance < 0.75:
            self._session.release(key)
        elif chance < 0.9:
            if later := self._try(key):
                # A renewal, or a new claim after the old one was lost: in either case another period.
                self._stay("enter", key, later)
                self._session.release(key)
        else:
            # Hang until it has expired, and leave it to whoever comes first.
            time.sleep(max(0, deadline - clock()) / SECOND)

    def _stay(self, event: str, key: str, deadline: int) -> bool:
        now = clock()
        if now < deadline:
            self._write(event, key, at=now)
        return now < deadline

    def _write(self, event: str, key: str, **facts: object) -> None:
        line = json.dumps({"event": event, "key": key, "holder": self._name, "done": clock(), **facts})
        os.write(self._log, line.encode() + b"\n")


class Nursery:
    """Starts the workers, kills some of them and starts others in their place."""

    def __init__(self, claims: str, logs: str, seconds: str, keys: str, seed: str) -> None:
        self._store, self._logs, self._seed = FileStore(claims), Path(logs), seed
        self._keys = [f"key {number}" for number in range(int(keys))]
        self._until = clock() + int(float(seconds) * SECOND)
        self._rng = Random(seed)
        self._lives = 0
        self._alive: set[int] = set()

    def run(self) -> int:
        for _ in range(WORKERS):
            self._start()
        kills = 0
        while clock() < self._until - SECOND // 4:
            time.sleep(self._rng.uniform(0.01, 0.1))
            # Every second victim holds a key, as far as one can tell from outside.
            self._kill(self._a_holder() if kills % 2 else None)
            kills += 1
            self._start()
        for pid in self._alive:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert code == 0, f"a worker ended with {code}"
        return kills

    def _start(self) -> None:
        self._lives += 1
        # Forked, as 16 interpreters that start at once would take up all of the time; each opens its own session.
        if pid := os.fork():
            self._alive.add(pid)
            return
        # An error goes up through all of this and ends the child, with its traceback and as a failure.
        log = self._logs / f"{self._lives}.log"
        Worker(self._store, log, self._keys, self._until, Random(f"{self._seed}/{self._lives}")).run()
        os._exit(0)

    def _a_holder(self) -> int | None:
        found = self._store.read(ScopedKey("default", self._rng.choice(self._keys)))
        return found.holder.pid if isinstance(found, Claim) and found.holder.pid in self._alive else None

    def _kill(self, victim: int | None) -> None:
        pid = victim or self._rng.choice(sorted(self._alive))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self._alive.remove(pid)


if __name__ == "__main__":
    # A second is short for agents and long for this test.
    rules.MIN_TTL = timedelta(milliseconds=1)
    print(json.dumps({"kills": Nursery(*sys.argv[1:]).run()}), flush=True)
