"""What the virtual processes do, and the faults that are planted to see whether the explorer finds them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Found, Moment, Outcome, ScopedKey, Unreadable
from mcp_claims.model.validation import ReleaseRequest
from mcp_claims.session.results import ReleaseResult
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT, Swap
from mcp_claims.stores.files.filenames import record_path
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.lock import NamespaceLock
from mcp_claims.stores.files.store import FileStore
from tests.explorer.process import KEY, TTL, Process
from tests.explorer.schedules import Run, Scenario
from tests.explorer.simulated import SimulatedFileSystem

NOTE = "half done"


def claims(process: Process) -> None:
    process.try_claim()


def works(process: Process) -> None:
    process.try_claim()
    process.release()


def finishes(process: Process) -> None:
    process.try_claim()
    process.release(Outcome.DONE)


def fails(process: Process) -> None:
    process.try_claim()
    process.release(Outcome.FAILED)


def renews(process: Process) -> None:
    process.try_claim()
    process.try_claim()
    process.release()


def prunes(process: Process) -> None:
    process.prune()


def inspects(process: Process) -> None:
    process.inspect()


def looks_again(process: Process) -> None:
    process.inspect()
    process.inspect()


def notes(process: Process) -> None:
    process.try_claim(note=NOTE)


def warm(run: Run) -> None:
    """Let the namespace exist, so that schedules are not spent on making directories."""
    first = Process(run, 0, None)
    first.try_claim()
    first.release()
    run.processes.append(first)


def expired(run: Run) -> None:
    """Leave a claim behind whose holder lives on but whose time is up."""
    warm(run)
    run.processes[0].try_claim()
    run.world.pass_time(TTL * 60 + 1)


def orphaned(run: Run) -> None:
    """Leave a claim behind whose holder is dead."""
    warm(run)
    run.processes[0].try_claim()
    run.processes[0].kill()


def orphaned_with_a_note(run: Run) -> None:
    """Leave a claim with a note behind whose holder is dead."""
    warm(run)
    run.processes[0].try_claim(note=NOTE)
    run.noted = run.processes[0].granted[KEY]
    run.processes[0].kill()


def expired_with_a_note(run: Run) -> None:
    """Leave a claim with a note behind whose time is up."""
    warm(run)
    run.processes[0].try_claim(note=NOTE)
    run.noted = run.processes[0].granted[KEY]
    run.world.pass_time(TTL * 60 + 1)


def damaged(run: Run) -> None:
    """Damage the claim of a live holder."""
    warm(run)
    run.processes[0].try_claim()
    inode = run.disk.find("/claims/default/red.json")
    assert inode is not None
    inode.data = inode.data[:40]


def is_past_any_ttl(run: Run) -> None:
    """Leave something unreadable behind that is too old to be anybody's."""
    damaged(run)
    run.world.pass_time(25 * 60 * 60)


SCENARIOS = [
    Scenario("two claim and release", (works, works), warm),
    Scenario("two meet in an empty directory", (works, claims)),
    Scenario("three claim", (claims, claims, claims), warm),
    Scenario("one that was refused releases all the same", (claims, works, claims), warm),
    Scenario("two take over what is orphaned", (works, claims), orphaned),
    Scenario("two take over what is expired", (claims, works), expired),
    Scenario("one prunes what another takes over", (prunes, claims, claims), orphaned),
    Scenario("one prunes what another renews and releases", (prunes, renews), expired),
    Scenario("one inspects a key that two take over", (inspects, claims, claims), orphaned),
    Scenario(
        "one inspects and one prunes a note that two take over", (inspects, prunes, claims, works), orphaned_with_a_note
    ),
    Scenario("two inspect and prune a note of old", (inspects, prunes, inspects, prunes), expired_with_a_note),
    Scenario("one inspects twice what one claims with a note", (looks_again, notes, claims), orphaned_with_a_note),
    Scenario("two find a damaged claim of a live holder", (works, works), damaged),
    Scenario("two find an unreadable claim older than any TTL", (works, claims), is_past_any_ttl),
    Scenario("renewals meet takeovers", (renews, renews), expired),
    Scenario("one finishes what two others try", (finishes, claims, works), warm),
    Scenario("one fails at what another takes over and a third prunes", (fails, claims, prunes), warm),
    Scenario("two finish what was left behind", (finishes, finishes, inspects), orphaned),
    Scenario("four at once", (works, claims, prunes, inspects), orphaned),
]


class NoLock(SimulatedFileSystem):
    """Everybody gets the lock."""

    def try_lock(self, fd: int) -> bool:
        self._give_way("no lock")
        return True


class UnlocksBeforeWriting(FileStore):
    def _write(self, path: str, data: bytes, lock: NamespaceLock, *, sync: bool = False) -> None:
        fs = self._fs
        assert isinstance(fs, SimulatedFileSystem)
        for fd in list(fs._openings):
            fs.unlock(fd)
        super()._write(path, data, lock, sync=sync)


class UnlinksTheLockFile(SimulatedFileSystem):
    """The lock file is removed at release, and nobody checks that the locked file is still the one at the path."""

    def status_of(self, path: str) -> os.stat_result:
        return self.status(max(self._openings)) if path.endswith(".lock") else super().status_of(path)

    def unlock(self, fd: int) -> None:
        self._disk.entries_of("/claims/default/.lock").pop(".lock", None)
        super().unlock(fd)


class RemovesWithoutComparing(FileStore):
    """Prune and inspect remove whatever is at the path."""

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        if isinstance(found, Claim):
            with self._lock_file("/claims/default") as file, NamespaceLock(file, lock_timeout):
                self._fs.remove(record_path(self.directory, found.scoped)[1])
            return True
        return super().discard(found, lock_timeout=lock_timeout)


class TakesUnreadableForFree(FileStore):
    def _read(self, path: str, scoped: ScopedKey | None) -> Found:
        found = super()._read(path, scoped)
        return None if isinstance(found, Unreadable) else found


class LooksRemoveTheTrace(FileStore):
    """Prune and inspect remove a dead claim, whatever its note."""

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        is_trace = new is not None and new.ended is not None and not new.ended.by_holder
        return super().swap(scoped, old, None if is_trace else new, lock_timeout=lock_timeout, **options)


class ReleasesByPath(Session):
    def _release(
        self,
        request: ReleaseRequest,
        lock_timeout: float,
        grant: Claim | None = None,
        left: Mapping[ScopedKey, Claim | None] | None = None,
    ) -> ReleaseResult:
        scoped = request.scoped
        found = self._store.read(scoped)
        while isinstance(found, Claim):
            swap: Swap = self._store.swap(scoped, found, None, lock_timeout=lock_timeout)
            if swap.won:
                return ReleaseResult(True, found, self._machine.now())
            found = swap.found
        return ReleaseResult(False, None, self._machine.now())


class JudgesByTheWallClock(Session):
    """Expiry is compared with a clock that steps."""

    def _state_of(self, found: Found, now: Moment) -> ClaimState:
        return super()._state_of(found, Moment(now.wall))


def plant(
    fault: str,
    *,
    fs: type[SimulatedFileSystem] | None = None,
    store: Callable[[FileSystem], FileStore] | None = None,
    policy: type[Session] | None = None,
) -> Callable[[Scenario], Scenario]:
    def planted(scenario: Scenario) -> Scenario:
        return replace(
            scenario,
            name=f"{fault}: {scenario.name}",
            make_filesystem=fs or scenario.make_filesystem,
            make_store=store or scenario.make_store,
            make_claims=policy or scenario.make_claims,
            planted=True,
        )

    return planted


def _store(kind: type[FileStore]) -> Callable[[FileSystem], FileStore]:
    return lambda fs: kind("/claims", fs=fs)


FAULTS = {
    "no lock": plant("no lock", fs=NoLock),
    "unlock before write": plant("unlock before write", store=_store(UnlocksBeforeWriting)),
    "lock file unlinked": plant("lock file unlinked", fs=UnlinksTheLockFile),
    "prune without compare": plant("prune without compare", store=_store(RemovesWithoutComparing)),
    "unreadable means free": plant("unreadable means free", store=_store(TakesUnreadableForFree)),
    "expiry compared with a stale clock": plant("expiry compared with a stale clock", policy=JudgesByTheWallClock),
    "looks remove the trace": plant("looks remove the trace", store=_store(LooksRemoveTheTrace)),
    "release by path": plant("release by path", policy=ReleasesByPath),
}
