"""Processes that hold keys beside each other, some killed at random: `crowds.py CLAIMS LOGS SECONDS PLAN SEED [FAULT]`.

CLAIMS is a directory, or the URL of a store.  PLAN is

- `files`: 8 processes claim files, directories and patterns, alone or shared, one or several at once, and pass them on;
- `slots`: 32 processes take one of 3 slots;
- `comers`: 20 processes share files, and another one waits for one of them alone, for their directory, or for all of them.

Nothing expires.  Each logs what it holds, one JSON object a line, as `contenders.py` does: `enter` comes after the answer that
it holds the keys, and what comes after the last `stay` (the way to its release, or to its death) counts for nothing.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from mcp_claims.errors import ClaimsError, StoreBusyError, StoreUnavailableError
from mcp_claims.model.records import Claim, ScopedKey, Ticket, Unreadable, Use
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.wait_queue import WaitQueue
from mcp_claims.stores.base import Store
from mcp_claims.stores.config import open_store
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.processes.crowd_history import FILES, SLOTS
from tests.support.forks import fork

WORKERS = {"files": 8, "slots": 32, "comers": 20}
LEAST = 60  # grants in a run, on however busy a machine
KILL_EVERY = 3, 15  # grants
SECOND = 1_000_000_000
A_DAY = 24 * 60  # min
ROOT = "file:/crowd/"
SHARED_FILES = [f"{ROOT}src/{number}" for number in range(4)]
WAITED_FOR = (SHARED_FILES[:1], [f"{ROOT}src/"], SHARED_FILES)

clock = time.monotonic_ns
tolerated: type[ClaimsError] = StoreBusyError
slowness = 1


class Worker:
    """One life of one process; `note_served` is called once a waiter has waited for all that it should."""

    note_served: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, store: Store, log: Path, grants: int, goes_on: Callable[[], bool], rng: Random) -> None:
        self._session = process_session(store)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._grants, self._goes_on, self._rng = grants, goes_on, rng

    def files(self) -> None:
        while self._goes_on():
            keys = [f"{ROOT}{each}" for each in self._rng.sample(list(FILES), self._rng.choice((1, 1, 1, 2, 3)))]
            self._hold(keys, shared=self._rng.random() < 0.5, wait=self._rng.choice((0, 0, 0, 0.3)), passes_on=0.4)

    def slots(self) -> None:
        while self._goes_on():
            self._hold(["gpu"], slots=SLOTS, wait=self._rng.choice((0, 0, 1)), pause=0.02)

    def comers(self) -> None:
        while self._goes_on():
            self._hold([self._rng.choice(SHARED_FILES)], shared=True, wait=self._rng.choice((0, 0, 5)))
            time.sleep(self._rng.uniform(0, 0.01) * slowness)

    def waiter(self) -> None:
        """Wait for what the comers share, in each form in turn."""
        queue, tickets, served = self._session.queue, 0, 0
        take_ticket = queue.join

        def join(scoped: ScopedKey, wait_seconds: float, *others: object, **more: object) -> Ticket | None:
            ticket = take_ticket(scoped, wait_seconds, *others, **more)  # type: ignore[arg-type]
            self._write("joined", at=clock())
            nonlocal tickets
            tickets += 1
            return ticket

        vars(queue)["join"] = join
        while self._goes_on():
            before = tickets
            if self._hold(WAITED_FOR[served % len(WAITED_FOR)], wait=60):
                served += tickets > before
                if served >= len(WAITED_FOR):
                    self.note_served()
            time.sleep(self._rng.uniform(0, 0.05))

    def _hold(
        self,
        keys: Sequence[str],
        *,
        shared: bool = False,
        slots: int | None = None,
        wait: float = 0,
        passes_on: float = 0,
        pause: float = 0.005,
    ) -> bool:
        """Try to claim *keys*, act on them for a moment, and release them; return whether that was possible."""
        asked = clock()
        request = ClaimRequest.parse(
            keys[0], also=keys[1:], shared=shared, slots=slots, wait_seconds=wait, ttl_minutes=A_DAY
        )
        try:
            result = acquire(self._session, self._session.resolved(request))
        except tolerated:
            self._write("busy")
            return False
        self._tell_of_loss(result)
        if not result.claimed:
            self._write("refused", at=clock())
            # It makes way, or the holders would hardly get to run on a machine of few cores.
            time.sleep(self._rng.uniform(0, 0.005) * slowness)
            return False
        self._enter(result, keys, shared=shared, asked=asked)
        os.write(self._grants, os.getpid().to_bytes(4, "little"))
        self._stay(pause)
        while len(keys) == 1 and self._rng.random() < passes_on:
            try:
                result = self._session.try_claim(keys[0], shared=not shared, ttl_minutes=A_DAY)
            except tolerated:
                self._write("busy")
                break
            self._tell_of_loss(result)
            # Where others share it, it stays as it is.
            shared = shared != result.claimed
            self._enter(result, keys, shared=shared, asked=asked)
            self._stay(pause)
        self._release(keys[0])
        return True

    def _enter(self, result: ClaimResult, keys: Sequence[str], *, shared: bool, asked: int) -> None:
        claims: list[Claim | Unreadable] = [claim for claim, _ in result.grants] or [result.found]
        self._write(
            "enter",
            at=clock(),
            asked=asked,
            keys=[key.removeprefix(ROOT) for key in keys],
            shared=shared,
            slot=result.found.slot if isinstance(result.found, Claim) and result.claimed else None,
            generations=[
                [each.scoped.base.key, each.generation]
                for each in claims
                if isinstance(each, Claim) and result.status is Status.ACQUIRED
            ],
        )

    def _stay(self, pause: float) -> None:
        for _ in range(self._rng.randrange(1, 5)):
            time.sleep(self._rng.choice((0, 0.001, pause)) * slowness)
            self._write("stay", at=clock())

    def _release(self, key: str) -> None:
        in_doubt = False
        while True:
            try:
                released = self._session.release(key)
            except tolerated:
                in_doubt = True  # It may have been done, and is no loss then.
                continue
            if not released.released and not in_doubt:
                self._write("lost", found=str(released.found))
            return

    def _tell_of_loss(self, result: ClaimResult) -> None:
        """Log that something was lost: nothing may be, as nothing expires and nobody revokes."""
        if result.lost is not None or result.missing:
            self._write("lost", found=str(result.found))

    def _write(self, event: str, **facts: object) -> None:
        line = json.dumps({"event": event, "holder": self._session.holder.name, **facts})
        os.write(self._log, line.encode() + b"\n")


class Nursery:
    """Starts the workers, and kills one after the other, with others in their place."""

    def __init__(self, claims: str, logs: str, seconds: str, plan: str, seed: str) -> None:
        self._store = opened(claims)
        self._logs, self._plan, self._seed = Path(logs), plan, seed
        self._until = clock() + int(float(seconds) * SECOND)
        # Shared with all that are forked: not 0 once the run is over, and once the waiter has been served.
        self._over = mmap.mmap(-1, 2)
        self._rng = Random(seed)
        self._reading, self._grants = os.pipe()
        self._granted = self._kills = self._lives = 0
        self._alive: set[int] = set()

    least = LEAST
    """Grants before the run may end; 0 with a fault, after which there may be none."""

    def run(self) -> dict[str, object]:
        waiter = self._start(Worker.waiter) if self._plan == "comers" else None
        for _ in range(WORKERS[self._plan]):
            self._start(vars(Worker)[self._plan])
        next_kill = KILL_EVERY[1]
        while clock() < self._until or self._granted < self.least or (waiter and self.least and not self._over[1]):
            if (winner := self._next_grant()) is not None and self._granted >= next_kill:
                candidates = sorted(self._alive - {waiter})
                # Half of them while they hold what they have just been granted.
                held = winner in candidates and self._rng.random() < 0.5
                self._kill(winner if held else self._rng.choice(candidates))
                next_kill = self._granted + self._rng.randint(*KILL_EVERY)
        self._over[0] = 1
        for pid in self._alive if not self.least else ():
            # One that has stumbled over what a fault has left may never end.
            os.kill(pid, signal.SIGKILL)
        for pid in self._alive:
            while not os.waitpid(pid, os.WNOHANG)[0]:
                self._next_grant()  # A full pipe would stop those who are still at it.
        looker = process_session(self._store)
        everything = ["gpu"] if self._plan == "slots" else [ROOT]
        # All are gone, and their claims would have a day to live.
        stuck = [key for key in everything if not looker.try_claim(key).claimed or not looker.release(key).released]
        looker.prune()
        left = [str(each) for each in self._store.scan()]
        return {"granted": self._granted, "kills": self._kills, "lives": self._lives, "stuck": stuck, "left": left}

    def _next_grant(self) -> int | None:
        """Return who has been granted something, `None` if nobody has for a while."""
        if not select.select([self._reading], [], [], 0.05)[0]:
            return None
        self._granted += 1
        return int.from_bytes(os.read(self._reading, 4), "little")

    def _start(self, life: Callable[[Worker], None]) -> int:
        self._lives += 1
        if pid := fork():
            self._alive.add(pid)
            return pid
        # An error goes up through all of this and ends the child, with its traceback.
        log = self._logs / f"{self._lives}.log"
        rng = Random(f"{self._seed}/{self._lives}")
        worker = Worker(self._store, log, self._grants, lambda: not self._over[0], rng)
        worker.note_served = lambda: self._over.__setitem__(1, 1)
        life(worker)
        os._exit(0)

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == -signal.SIGKILL, f"a worker had ended with {code}"
        self._alive.remove(pid)
        self._kills += 1
        self._start(vars(Worker)[self._plan])


def opened(claims: str) -> Store:
    """Open the store at *claims*; adapt the times of this run to it."""
    global tolerated, slowness
    if "://" not in claims:
        return FileStore(claims)
    slowness = 20
    tolerated = StoreUnavailableError
    return open_store(url=claims)


def plant(fault: str) -> None:
    """Break what the run must prove, to show that it notices."""
    global tolerated
    if fault == "all go together":
        Use.goes_with = lambda *_: True  # type: ignore[method-assign]
    elif fault == "no lock":
        tolerated = ClaimsError
        FileSystem.try_lock = lambda self, fd: True  # type: ignore[method-assign]
    else:
        assert fault == "no queue"
        WaitQueue.first_ahead = lambda *_, **__: None  # type: ignore[method-assign]
        # The second look, of the store while it has the lock.
        WaitQueue.is_behind = lambda *_, **__: False  # type: ignore[method-assign]


if __name__ == "__main__":
    nursery = Nursery(*sys.argv[1:6])
    if sys.argv[6:]:
        plant(sys.argv[6])
        nursery.least = 0
    with suppress(BrokenPipeError):
        print(json.dumps(nursery.run()), flush=True)
