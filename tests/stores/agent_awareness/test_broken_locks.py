"""The original breaks our lock at any moment of a change: at most one of the two believes to have the key.

`Breaker` does what the original does after its patience has ended, or when it takes our lock for a stale one: it removes
our lock, makes its own, reads, and claims what it finds free or dead by writing in place.  It is let go at each system
call of ours, and is itself interrupted, so that it goes on at each later one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from mcp_claims.errors import LockDirectoryBusyError
from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Found, Moment, Unreadable
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.base import Swap
from tests.stores.agent_awareness.hooked import HookedLayoutKernel
from tests.stores.agent_awareness.samples import lock, record, store_in
from tests.stores.samples import KEY, claim, grant, renewed

MORE_CALLS_THAN_ANY_CHANGE_MAKES = 150
LONG = "MCP_CLAIMS_LONG" in os.environ
# Prime to the numbers of first steps and later moments, so that what is left out differs from call to call.
STRIDE = 37
RIVAL = "rig:4242"
CLAIMED_IN_PLACE = json.dumps(
    {"holder": RIVAL, "pid": 4242, "claimedAt": "2026-11-23T12:00:00.000Z", "expiresAt": "2126-11-23T12:30:00.000Z"}
)


class Breaker:
    """A session of the original that breaks the lock of *store*; `claimed` is what it tells its user.

    If it *sweeps*, it asks first whether the key is claimed by another, which removes what is dead, and claims then.
    """

    def __init__(self, store: AgentAwarenessStore, *, dead: bool, sweeps: bool = False) -> None:
        self._sweeps = sweeps
        self._record, self._lock = record(store), lock(store)
        # What the original takes for free, by its own judgement.
        self._dead = self._record.read_text() if dead else None
        self.claimed = False

    def steps(self) -> Iterator[None]:
        if self._lock.exists():
            shutil.rmtree(self._lock)
        yield
        if self._sweeps:
            yield from self._inside(self._sweep)
            yield
        yield from self._inside(self._claim)

    def _inside(self, task: Callable[[], Iterator[None]]) -> Iterator[None]:
        try:
            self._lock.mkdir()
        except FileExistsError:
            return
        yield
        owner = json.dumps({"pid": os.getpid(), "createdAt": datetime.now(UTC).isoformat()})
        try:
            (self._lock / "meta.json").write_text(owner)
        except FileNotFoundError:
            # We took the new lock, still empty, for what was left of ours; the original's call fails, and claims nothing.
            return
        yield
        yield from task()
        shutil.rmtree(self._lock, ignore_errors=True)

    def _sweep(self) -> Iterator[None]:
        found = self._found()
        yield
        if found is not None and found == self._dead:
            self._record.unlink(missing_ok=True)

    def _claim(self) -> Iterator[None]:
        found = self._found()
        yield
        if found is None or found == self._dead:
            # `writeFile`: the file is emptied when it is opened, and filled some time later.
            with self._record.open("w") as file:
                yield
                file.write(CLAIMED_IN_PLACE)
            self.claimed = True
            yield

    def _found(self) -> str | None:
        try:
            found = self._record.read_text()
            json.loads(found)
        except (OSError, ValueError):
            return None
        return found


class Interrupted(HookedLayoutKernel):
    """Lets *breaker* make *first* steps before call number *at*, and the others before number *again*."""

    def __init__(self, breaker: Breaker, at: int, first: int, again: int) -> None:
        self._breaker, self._at, self._first, self._again = breaker, at, first, again
        self._steps = breaker.steps()
        self.calls = 0

    def before(self, call: str, where: str | int) -> None:
        self.calls += 1
        if self.calls == self._at:
            for _ in range(self._first):
                next(self._steps, None)
        if self.calls == self._again:
            self.finish()

    def sleep(self, seconds: float) -> None:
        if self.calls >= self._at:
            self.finish()

    def finish(self) -> None:
        for _ in self._steps:
            pass


@dataclass(frozen=True)
class Change:
    """A change: what is stored before it, whether the original takes that for dead, and how it is made."""

    before: Callable[[AgentAwarenessStore], Found]
    dead: bool
    run: Callable[[AgentAwarenessStore, Found], Swap | bool]


def nothing(store: AgentAwarenessStore) -> Found:
    assert store.swap(KEY, grant(store, claim()), None).won
    return None


def expiring(hours: int) -> Claim:
    """Return a claim of another session that expires so many hours from now."""
    expires = expiry.later(Moment(datetime.now(UTC).replace(microsecond=0), 10_000.0, "boot-1"), timedelta(hours=hours))
    return claim(session=1)._replace(expires=expires)


def of_another(store: AgentAwarenessStore) -> Found:
    return grant(store, expiring(1))


def expired(store: AgentAwarenessStore) -> Found:
    return grant(store, expiring(-1))


def of_the_original(store: AgentAwarenessStore) -> Found:
    nothing(store)
    record(store).write_text(CLAIMED_IN_PLACE.replace(RIVAL, "rig:1"))
    return store.read(KEY)


def take(store: AgentAwarenessStore, before: Found) -> Swap:
    assert not isinstance(before, Unreadable)
    return store.swap(KEY, before, claim(session=2), lock_timeout=1)


def renew(store: AgentAwarenessStore, before: Found) -> Swap:
    assert isinstance(before, Claim)
    return store.swap(KEY, before, renewed(before), lock_timeout=1)


def release(store: AgentAwarenessStore, before: Found) -> Swap:
    assert isinstance(before, Claim)
    return store.swap(KEY, before, None, lock_timeout=1)


def discard(store: AgentAwarenessStore, before: Found) -> bool:
    assert before is not None
    return store.discard(before, lock_timeout=1)


CHANGES = [
    pytest.param(Change(nothing, False, take), id="claim"),
    pytest.param(Change(expired, True, take), id="takeover"),
    pytest.param(Change(of_the_original, True, take), id="takeover-from-the-original"),
    pytest.param(Change(of_another, False, renew), id="renewal"),
    pytest.param(Change(expired, True, renew), id="renewal-of-an-expired-claim"),
    pytest.param(Change(of_another, False, release), id="release"),
    pytest.param(Change(expired, True, release), id="release-of-an-expired-claim"),
    pytest.param(Change(expired, True, discard), id="discard"),
]


def calls_of(directory: Path, change: Change) -> int:
    """Count the system calls of *change* when nobody is in the way."""
    store = store_in(directory, HookedLayoutKernel())
    before = change.before(store)
    counting = Interrupted(Breaker(store, dead=False), 0, 0, 0)
    change.run(store_in(directory, counting), before)
    return counting.calls


@pytest.mark.rule("A8")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sweeps", [False, True], ids=["claims", "sweeps-and-claims"])
@pytest.mark.parametrize("change", CHANGES)
def test_whenever_the_original_breaks_in_at_most_one_of_the_two_believes_to_have_the_key(
    tmp_path: Path, change: Change, sweeps: bool
) -> None:
    calls = calls_of(tmp_path / "count", change)
    assert 10 < calls < MORE_CALLS_THAN_ANY_CHANGE_MAKES
    moments = [
        (at, first, again)
        for at in range(1, calls + 1)
        for first in (range(1, 12) if sweeps else range(1, 7))
        for again in (at + 1, at + 2, at + 4, at + 8, calls + 10)
    ]
    outcomes = {
        run(tmp_path / "-".join(map(str, moment)), change, sweeps, *moment)
        for moment in moments[:: 1 if LONG else STRIDE]
    }
    assert any(won for won, _ in outcomes), "we never got through"
    if change.dead or change.before is nothing:
        assert (False, True) in outcomes, "the original never claimed before us"


def run(directory: Path, change: Change, sweeps: bool, at: int, first: int, again: int) -> tuple[bool, bool]:
    store = store_in(directory, HookedLayoutKernel())
    before = change.before(store)
    breaker = Breaker(store, dead=change.dead, sweeps=sweeps)
    fs = Interrupted(breaker, at, first, again)
    ours = store_in(directory, fs)
    try:
        done = change.run(ours, before)
    except LockDirectoryBusyError:
        done = False
    fs.finish()
    won = done.won if isinstance(done, Swap) else done
    after = store.read(KEY)
    # Whatever the original was promised is stored, and we do not believe to hold it.
    holds = isinstance(after, Claim) and after.holder.name == RIVAL
    if breaker.claimed:
        assert holds, (at, first, again, done, after)
    if change.run in (take, renew):
        assert not (won and breaker.claimed), (at, first, again, done, after)
        if won:
            assert isinstance(done, Swap) and after == done.found, (at, first, again, done, after)
    elif won:
        assert after is None or holds, (at, first, again, done, after)
    # And nothing is left that keeps anybody from the key.
    assert {path.name for path in record(store).parent.iterdir()} <= {".lock", record(store).name}
    shutil.rmtree(directory)
    return won, breaker.claimed


def test_a_live_claim_that_is_renewed_is_at_its_place_all_the_time(tmp_path: Path) -> None:
    class Watching(HookedLayoutKernel):
        def before(self, call: str, where: str | int) -> None:
            assert record(store).exists()

    store = store_in(tmp_path)
    granted = grant(store, expiring(1))
    assert store_in(tmp_path, Watching()).swap(KEY, granted, renewed(granted)).won


def test_a_claim_written_into_the_file_since_it_was_compared_stays_there(tmp_path: Path) -> None:
    class Late(HookedLayoutKernel):
        sources: ClassVar[list[str]] = []

        def replace(self, source: str, target: str) -> None:
            if source == str(record(store)):
                for _ in Breaker(store, dead=True).steps():
                    pass
            super().replace(source, target)

        def link(self, source: str, target: str) -> None:
            if target == str(record(store)):
                self.sources.append(os.path.basename(source))
            super().link(source, target)

    store = store_in(tmp_path, HookedLayoutKernel())
    dead = expired(store)
    swap = store_in(tmp_path, fs := Late()).swap(KEY, dead if isinstance(dead, Claim) else None, claim(session=2))
    assert not swap.won
    assert isinstance(swap.found, Claim) and swap.found.holder.name == RIVAL
    assert fs.sources == [".old"], "ours was seen at the path for a moment"


def test_a_claim_written_into_the_file_after_it_was_moved_away_is_put_back(tmp_path: Path) -> None:
    class Slow(HookedLayoutKernel):
        def replace(self, source: str, target: str) -> None:
            if source == str(record(store)):
                # It is inside by our broken lock, and has opened the file that is about to be moved.
                shutil.rmtree(lock(store))
                lock(store).mkdir()
                self.open_file = record(store).open("r+")
            super().replace(source, target)

        def remove(self, path: str) -> None:
            if path.endswith(".old"):
                with self.open_file as file:
                    file.truncate()
                    file.write(CLAIMED_IN_PLACE)
                shutil.rmtree(lock(store))
            super().remove(path)

    store = store_in(tmp_path, HookedLayoutKernel())
    dead = expired(store)
    swap = store_in(tmp_path, Slow()).swap(KEY, dead if isinstance(dead, Claim) else None, claim(session=2))
    assert not swap.won
    assert isinstance(swap.found, Claim) and swap.found.holder.name == RIVAL
    assert store.read(KEY) == swap.found
