"""A change of several keys is made whole or not at all, whatever happens in its middle."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Thread

import pytest

import mcp_claims.stores.files
from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model.records import Claim, Found, ScopedKey, Unreadable
from mcp_claims.stores.base import Change
from mcp_claims.stores.files.filesystem import OpenFile
from mcp_claims.stores.files.lock import COUNTER_BYTES, LockFile, NamespaceLock
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.history import Limits
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.files.test_crashes import Dying
from tests.stores.groups import FAR, GROUP, A, B, grant_all, state, wanted
from tests.stores.samples import claim, grant, lock_file, place, renewed
from tests.support.descriptors import open_files
from tests.support.interrupts import Interrupt, InterruptAtLine, no_lock_is_held

pytestmark = pytest.mark.rule("S11")

MAX_CALLS = 400
OTHER, OTHER_FAR = ScopedKey("ci", "other"), ScopedKey("deploy", "other")
Held = list[Claim]


def grants(_: Held) -> list[Change]:
    return wanted(session=2)


def takes_over(held: Held) -> list[Change]:
    return [Change(each.scoped, each, claim(each.scoped, session=2)) for each in held]


def renews(held: Held) -> list[Change]:
    return [Change(each.scoped, each, renewed(each)) for each in held]


def releases(held: Held) -> list[Change]:
    return [Change(each.scoped, each, None) for each in held]


def renews_one_for_two(held: Held) -> list[Change]:
    return [Change(A, held[0], None), Change(B, held[1], renewed(held[1])), Change(FAR, held[2], None)]


CHANGES: dict[str, tuple[bool, Callable[[Held], list[Change]]]] = {
    "grant": (False, grants),
    "takeover": (True, takes_over),
    "renewal": (True, renews),
    "release": (True, releases),
    "renewal and release": (True, renews_one_for_two),
}


def swap_another(store: FileStore, scoped: ScopedKey) -> None:
    grant(store, claim(scoped, session=4))


def take_no_ticket(store: FileStore, scoped: ScopedKey) -> None:
    assert store.change_tickets(scoped, lambda found: found, lock_timeout=0) == ()


def discard_what_cannot_be_read(store: FileStore, scoped: ScopedKey) -> None:
    place(store, scoped).write_bytes(b"{")
    found = store.read(scoped)
    assert found is not None and store.discard(found, lock_timeout=0)


def change_both(store: FileStore, scoped: ScopedKey) -> None:
    grant_all(store, wanted(session=4, keys=(scoped, OTHER if scoped == OTHER_FAR else OTHER_FAR)))


NEXT = {
    "a swap in the first namespace": (swap_another, OTHER),
    "a swap in the second": (swap_another, OTHER_FAR),
    "a change of tickets in the second": (take_no_ticket, OTHER_FAR),
    "a removal in the first": (discard_what_cannot_be_read, OTHER),
    "another group": (change_both, OTHER),
}


def prepared(directory: Path, *, holds: bool) -> tuple[FileStore, Held]:
    """Return a store that has granted the group once, and the claims on it if session 1 still *holds* it."""
    store = FileStore(directory, fs=HookedFileSystem())
    held = grant_all(store, wanted())
    if not holds:
        assert store.swap_all(releases(held)).won
    return store, held if holds else []


def killed_at(at: int, store: FileStore, action: Callable[[FileStore], object]) -> bool:
    """Let a child do *action* and die at system call *at*; return whether it made so many."""
    child = os.fork()
    if not child:
        try:
            action(FileStore(store.directory, fs=Dying(at)))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def unnumbered(found: Found) -> Found:
    return found._replace(generation=0) if isinstance(found, Claim) else found


def is_made(store: FileStore, changes: list[Change]) -> bool:
    """Return whether *changes* are made; all or none are."""
    found = state(store)
    if found == [change.old for change in changes]:
        return False
    for change, now in zip(changes, found, strict=True):
        expected = change.new
        assert (now == expected) or (expected is not None and not expected.generation and unnumbered(now) == expected)
    return True


def check_that_it_goes_on(store: FileStore) -> None:
    """Claim the group and release it: the locks are free, no number comes again, nothing of the change is left."""
    found = {key: old for key, old in zip(GROUP, state(store), strict=True) if not isinstance(old, Unreadable)}
    assert len(found) == len(GROUP)
    granted = grant_all(store, [Change(key, old, claim(key, session=3)) for key, old in found.items()])
    for each in granted:
        old = found[each.scoped]
        assert each.generation > (old.generation if old is not None else 1)
    assert store.swap_all(releases(granted), lock_timeout=0).won
    for scoped in (OTHER, OTHER_FAR):
        left = store.read(scoped)
        assert left is None or store.discard(left)
    check_that_nothing_is_left(store)


def check_that_nothing_is_left(store: FileStore) -> None:
    for scoped in (A, FAR):
        lock = lock_file(store, scoped)
        assert lock.stat().st_size in (0, COUNTER_BYTES)
        assert [path.name for path in lock.parent.iterdir() if path.suffix != ".json"] == [lock.name]


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.parametrize(
    ("name", "following"),
    [
        *((name, "a swap in the second") for name in CHANGES),
        *(("renewal and release", following) for following in NEXT if following != "a swap in the second"),
    ],
)
def test_after_a_kill_at_any_call_the_next_change_finds_all_or_nothing(
    tmp_path: Path, name: str, following: str
) -> None:
    holds, change = CHANGES[name]
    touch, scoped = NEXT[following]
    made = 0
    for at in range(1, MAX_CALLS):
        store, held = prepared(tmp_path / str(at), holds=holds)
        changes = change(held)
        killed = killed_at(at, store, lambda dying, changes=changes: dying.swap_all(changes))  # type: ignore[misc]
        seen = list(zip(changes, state(store), strict=True))
        assert all(now is not None for each, now in seen if each.old and each.new), "held before and after, seen free"
        is_removed = any(now is None for each, now in seen if each.old and not each.new)
        assert not is_removed or all(now != each.old for each, now in seen if each.new), "removed before others are put"
        touch(store, scoped)
        made += is_made(store, changes)
        check_that_it_goes_on(store)
        if not killed:
            break
    else:
        pytest.fail("every number of calls met the kill")
    assert at > 20 and made > 5


@pytest.mark.skipif(sys.platform == "win32", reason="counts descriptors in /dev/fd")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_line_leaves_all_or_nothing_and_no_lock(tmp_path: Path) -> None:
    for at in count(1):
        clean, (first, second, far) = prepared(tmp_path / str(at), holds=True)
        assert clean.swap(FAR, far, None).won
        new = claim(FAR, session=2)
        changes = [Change(A, first, None), Change(B, second, renewed(second)), Change(FAR, None, new)]
        line = InterruptAtLine(at, mcp_claims.stores.files)
        store = FileStore(clean.directory, history=Limits(days=0))
        descriptors = open_files()
        try:
            with line:
                store.swap_all(changes)
        except Interrupt:
            assert no_lock_is_held(clean.directory), f"interrupted in {line.interrupted}"
        leaked = open_files() - descriptors
        assert leaked == 0 or (leaked == 1 and line.interrupted is OpenFile.close.__code__), line.interrupted
        take_no_ticket(clean, OTHER_FAR)
        made = is_made(clean, changes)
        check_that_it_goes_on(clean)
        if line.interrupted is None:
            assert made and at > 100
            break


class Full(HookedFileSystem):
    """A disk on which there is room for `room` more writes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def before(self, call: str, where: str | int) -> None:
        if call == "write":
            self.room -= 1
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", CHANGES)
def test_a_disk_that_is_full_from_any_write_on_changes_nothing_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    holds, change = CHANGES[name]
    for room in range(MAX_CALLS):
        clean, held = prepared(tmp_path / str(room), holds=holds)
        changes = change(held)
        with suppress(StoreUnavailableError):
            # Once it is committed, no write is needed any more.
            assert FileStore(clean.directory, fs=Full(room)).swap_all(changes).won and is_made(clean, changes)
            break
        assert state(clean) == [change.old for change in changes]
        check_that_nothing_is_left(clean)
        # What needs no room still works.
        full = FileStore(clean.directory, fs=Full(0))
        assert not held or full.swap(A, held[0], None, lock_timeout=0).won
        check_that_it_goes_on(clean)
    assert room >= 3


class Failing(HookedFileSystem):
    """Fails at the call with number `at`, and if `lasting` from then on, until it is repaired."""

    def __init__(self, at: int, *, lasting: bool) -> None:
        self._left, self._lasting = at, lasting
        self.failed: list[str] = []
        self.repaired = False

    def before(self, call: str, where: str | int) -> None:
        self._left -= 1
        if not self.repaired and (self._left == 0 or (self._lasting and self._left < 0)):
            self.failed.append(call)
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.rule("S7")
@pytest.mark.skipif(sys.platform == "win32", reason="counts descriptors in /dev/fd")
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", CHANGES)
def test_an_error_at_any_call_leaves_all_or_nothing(tmp_path: Path, name: str, lasting: bool) -> None:
    holds, change = CHANGES[name]
    for at in range(1, MAX_CALLS):
        clean, held = prepared(tmp_path / str(at), holds=holds)
        changes = change(held)
        fs = Failing(at, lasting=lasting)
        store = FileStore(clean.directory, fs=fs)
        descriptors = open_files()
        won = False
        with suppress(StoreUnavailableError):
            won = store.swap_all(changes).won
        assert open_files() == descriptors, fs.failed
        assert won or fs.failed
        fs.repaired = True
        take_no_ticket(store, OTHER_FAR)
        assert is_made(clean, changes) or not won
        check_that_it_goes_on(clean)
        if not fs.failed:
            break
    else:
        pytest.fail("every number of calls met the error")


class Dies(BaseException):
    """Ends a change as a kill would, but in this process."""


class DiesBefore(HookedFileSystem):
    """Dies before the call *number*, counted from one, of one kind."""

    def __init__(self, call: str, number: int) -> None:
        self._call, self._left = call, number

    def before(self, call: str, where: str | int) -> None:
        self._left -= call == self._call
        if not self._left and call == self._call:
            raise Dies


BEFORE_COMMIT, HALF_MADE = ("write", 6), ("replace", 2)
"""Where a renewal of the group can end: after two intents and three records, and after the first of three renames."""


def leave(store: FileStore, held: Held, where: tuple[str, int]) -> list[Change]:
    """Renew the group, but die at *where*."""
    changes = renews(held)
    with pytest.raises(Dies):
        FileStore(store.directory, fs=DiesBefore(*where)).swap_all(changes)
    sizes = [lock_file(store, scoped).stat().st_size for scoped in (A, FAR)]
    assert sizes[0] == sizes[1] + (where == HALF_MADE) > COUNTER_BYTES
    return changes


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.parametrize("where", [BEFORE_COMMIT, HALF_MADE], ids=["before the commit", "half made"])
def test_a_kill_of_whoever_settles_a_change_leaves_it_to_the_next(tmp_path: Path, where: tuple[str, int]) -> None:
    for at in range(1, MAX_CALLS):
        store, held = prepared(tmp_path / str(at), holds=True)
        changes = leave(store, held, where)
        killed = killed_at(at, store, lambda dying: swap_another(dying, OTHER_FAR))
        take_no_ticket(store, OTHER)
        assert is_made(store, changes) is (where == HALF_MADE)
        check_that_it_goes_on(store)
        if not killed:
            break
    else:
        pytest.fail("every number of calls met the kill")
    assert at > 30


def test_a_reader_sees_a_part_until_the_next_change_completes_it(tmp_path: Path) -> None:
    store, held = prepared(tmp_path, holds=True)
    changes = leave(store, held, HALF_MADE)
    assert state(store) == [changes[0].new, changes[1].old, changes[2].old]
    lost = store.swap(FAR, held[2], None)
    assert not lost.won and lost.found == changes[2].new
    assert state(store) == [change.new for change in changes]


def test_a_change_waits_for_the_other_namespaces_of_one_that_is_half_made_in_the_order_of_their_locks(
    tmp_path: Path,
) -> None:
    store, held = prepared(tmp_path, holds=True)
    changes = leave(store, held, HALF_MADE)
    directory = str(lock_file(store).parent)
    with LockFile(HookedFileSystem(), directory) as file, NamespaceLock(file, 0):
        with pytest.raises(StoreBusyError) as busy:
            store.swap(OTHER_FAR, None, claim(OTHER_FAR), lock_timeout=0.05)
        assert busy.value.where == str(lock_file(store)) and busy.value.waited == 0.05
        # It holds nothing while it waits for the first one: whoever holds that one may need the second.
        waiting = Thread(target=swap_within, args=(store, OTHER_FAR, 20))
        waiting.start()
        with LockFile(HookedFileSystem(), str(lock_file(store, FAR).parent)) as far, NamespaceLock(far, 20):
            pass
    waiting.join()
    assert state(store) == [change.new for change in changes] and isinstance(store.read(OTHER_FAR), Claim)


def swap_within(store: FileStore, scoped: ScopedKey, seconds: float) -> None:
    store.swap(scoped, None, claim(scoped), lock_timeout=seconds)


def torn_intents() -> Iterator[tuple[str, bytes]]:
    whole = json.dumps([["ci/red-check.json"], ["deploy/staging.json"]]).encode()
    yield "half", whole[:20]
    yield "not committed", whole
    yield "committed in another namespace", whole + b"\n"
    yield "zeros", bytes(40)
    yield "outside", json.dumps([["ci/../../x"], ["../x", "/etc/passwd"]]).encode() + b"\n"
    yield "hidden", json.dumps([["ci/.lock"], []]).encode() + b"\n"
    yield "another shape", b'{"puts": 1}\n'
    yield "nothing", b"[[], []]\n"
    yield "no text", b"\xff\xfe\x00"
    yield "deep", b"[" * 20_000


@pytest.mark.parametrize(("kind", "content"), [pytest.param(*each, id=each[0]) for each in torn_intents()])
def test_what_is_no_committed_intent_changes_nothing_and_is_removed(tmp_path: Path, kind: str, content: bytes) -> None:
    store, held = prepared(tmp_path, holds=True)
    path = lock_file(store, FAR)
    counter = path.read_bytes()
    path.write_bytes(counter + content)
    grant(store, claim(OTHER_FAR))
    assert state(store) == held
    assert path.stat().st_size == COUNTER_BYTES
    assert int(path.read_bytes().split()[0]) == int(counter.split()[0]) + 1


def test_a_group_of_renewals_makes_no_damaged_counter_where_there_is_none(tmp_path: Path) -> None:
    store, held = prepared(tmp_path, holds=True)
    numbered = [
        Change(each.scoped._replace(namespace="new"), None, each._replace(scoped=each.scoped._replace(namespace="new")))
        for each in held
    ]
    assert store.swap_all(numbered).won
    granted = grant(store, claim(ScopedKey("new", "next")))
    assert 1 <= granted.generation < 10_000_000


def test_a_temporary_file_that_a_power_cut_has_left_is_replaced(tmp_path: Path) -> None:
    store, held = prepared(tmp_path, holds=True)
    lock_file(store).with_name(".new-0").mkdir()
    lock_file(store).with_name(".new-1").write_bytes(b"{")
    assert store.swap_all(renews(held)).won
    assert state(store) == [renewed(each) for each in held]


def test_a_group_does_not_reach_a_namespace_that_has_replaced_the_locked_one(tmp_path: Path) -> None:
    store, held = prepared(tmp_path, holds=True)

    class Replaced(HookedFileSystem):
        done = False

        def before(self, call: str, where: str | int) -> None:
            # The new records are about to be written.
            if call == "open" and str(where).endswith(".new-0") and not self.done:
                self.done = True
                lock_file(store, FAR).unlink()
                grant(FileStore(store.directory), claim(OTHER_FAR))

    with pytest.raises(StoreUnavailableError, match="removed or replaced"):
        FileStore(store.directory, fs=Replaced()).swap_all(renews(held), lock_timeout=0)
    take_no_ticket(store, OTHER)
    assert state(store) == held


def test_a_change_of_one_key_makes_no_call_more_for_the_sake_of_groups(tmp_path: Path) -> None:
    class Noting(HookedFileSystem):
        calls: list[str] = []  # noqa: RUF012

        def before(self, call: str, where: str | int) -> None:
            self.calls.append(call)

    grant(FileStore(tmp_path), claim())
    store = FileStore(tmp_path, fs=Noting())
    held = store.read(A)
    assert isinstance(held, Claim)
    Noting.calls.clear()
    assert store.swap(A, held, None).won
    lock = ["open", "try_lock", "status", "status_of"]
    compare = ["open", "status", "read", "close"]
    assert Noting.calls == [*lock, *compare, "status_of", "remove", "unlock", "close"]
