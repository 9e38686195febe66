"""A process dies, or a system call fails, anywhere in any change: the key is neither lost nor free too early."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.errors import LockDirectoryBusyError, StoreUnavailableError
from mcp_claims.model.records import Claim, Found, Unreadable
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.base import Swap
from tests.stores.agent_awareness.hooked import HookedLayoutKernel
from tests.stores.agent_awareness.samples import lock, record, store_in
from tests.stores.samples import KEY, claim, grant, renewed
from tests.support.descriptors import open_files

if sys.platform == "win32":
    pytest.skip("has no fork", allow_module_level=True)

CRASHED = 42
MORE_CALLS_THAN_ANY_CHANGE_MAKES = 150

Change = Callable[[AgentAwarenessStore, Claim | None], Swap]


def take(store: AgentAwarenessStore, held: Claim | None) -> Swap:
    return store.swap(KEY, held, claim(session=2), lock_timeout=0)


def take_in_a_new_boot(store: AgentAwarenessStore, held: Claim | None) -> Swap:
    return store.swap(KEY, held, claim(session=2, boot="boot-2"), lock_timeout=0)


def renew(store: AgentAwarenessStore, held: Claim | None) -> Swap:
    assert held is not None
    return store.swap(KEY, held, renewed(held), lock_timeout=0)


def release(store: AgentAwarenessStore, held: Claim | None) -> Swap:
    return store.swap(KEY, held, None, lock_timeout=0)


CHANGES = [
    pytest.param(False, take, id="claim"),
    pytest.param(False, take_in_a_new_boot, id="first-claim-of-a-boot"),
    pytest.param(True, take, id="takeover"),
    pytest.param(True, renew, id="renewal"),
    pytest.param(True, release, id="release"),
]


class Dying(HookedLayoutKernel):
    """Ends the process at the call with number `at`, counted from one."""

    def __init__(self, at: int) -> None:
        self._left = at

    def before(self, call: str, where: str | int) -> None:
        self._left -= 1
        if not self._left:
            os._exit(CRASHED)


class Faulty(HookedLayoutKernel):
    """Fails at the call with number `at`, counted from one."""

    def __init__(self, error: int, at: int) -> None:
        self._error, self._left = error, at
        self.failed = ""

    def before(self, call: str, where: str | int) -> None:
        self._left -= 1
        if not self._left:
            self.failed = call
            raise OSError(self._error, os.strerror(self._error), where if isinstance(where, str) else None)


def crashes(directory: str, at: int, change: Change, held: Claim | None) -> bool:
    """Let a child make *change* and die at call *at*; tell whether it got so far."""
    child = os.fork()
    if not child:
        # Nothing of the parent's test run may go on in here, whatever happens.
        try:
            change(store_in(directory, Dying(at)), held)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == CRASHED


def prepared(directory: Path, held: bool) -> tuple[AgentAwarenessStore, Claim, Claim | None]:
    store = store_in(directory, HookedLayoutKernel())
    earlier = grant(store, claim(session=1))
    if held:
        return store, earlier, earlier
    assert store.swap(KEY, earlier, None).won
    return store, earlier, None


def check_old_or_new(after: Found, before: Claim | None, earlier: Claim) -> None:
    assert not isinstance(after, Unreadable)
    if after != before:
        assert after is None or after.generation > earlier.generation or after == renewed(earlier)


def check_that_it_goes_on(store: AgentAwarenessStore, after: Found, earlier: Claim) -> None:
    assert not isinstance(after, Unreadable)
    # Whose PID was not yet, or no longer, in its lock is waited for like anybody who is just beginning.
    if lock(store).exists() and not (lock(store) / "meta.json").exists():
        with pytest.raises(LockDirectoryBusyError):
            store.swap(KEY, after, claim(session=3), lock_timeout=0)
    if lock(store).exists():
        os.utime(lock(store), (time.time() - 11,) * 2)
    later = grant(store, claim(session=3), over=after)
    assert later.generation > max(earlier.generation, after.generation if after else 0)
    assert store.swap(KEY, later, None, lock_timeout=0).won
    assert [path.name for path in record(store).parent.iterdir()] == [".lock"]


@pytest.mark.rule("A9")
@pytest.mark.parametrize(("held", "change"), CHANGES)
def test_a_crash_at_any_call_leaves_old_or_new_and_a_lock_that_goes(tmp_path: Path, held: bool, change: Change) -> None:
    for at in range(1, MORE_CALLS_THAN_ANY_CHANGE_MAKES):
        store, earlier, before = prepared(tmp_path / str(at), held)
        crashed = crashes(store.directory, at, change, before)
        after = store.read(KEY)
        check_old_or_new(after, before, earlier)
        if not (lock(store) / "meta.json").exists() or not crashed:
            check_that_it_goes_on(store, after, earlier)
        else:
            # Its owner is dead, so its lock goes at once.
            assert isinstance(after, Claim) or after is None
            grant(store, claim(session=3), over=after)
            assert not lock(store).exists()
        if not crashed:
            break
    else:
        pytest.fail("the crash never came too late")


@pytest.mark.rule("A9")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EMFILE, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize(("held", "change"), CHANGES)
def test_a_change_that_fails_at_any_call_leaves_old_or_new_and_no_descriptor_open(
    tmp_path: Path, held: bool, change: Change, error: int
) -> None:
    for at in range(1, MORE_CALLS_THAN_ANY_CHANGE_MAKES):
        store, earlier, before = prepared(tmp_path / str(at), held)
        fs = Faulty(error, at)
        descriptors = open_files()
        won = None
        try:
            won = change(store_in(store.directory, fs), before).won
        except StoreUnavailableError:
            assert fs.failed
        assert open_files() == descriptors, fs.failed
        after = store.read(KEY)
        check_old_or_new(after, before, earlier)
        if won:
            assert after != before
        elif won is False:
            pytest.fail(f"lost to nobody, by a failing {fs.failed}")
        check_that_it_goes_on(store, after, earlier)
        if not fs.failed:
            assert won
            break
    else:
        pytest.fail("the fault never came too late")


@pytest.mark.rule("S7")
@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO], ids=errno.errorcode.get)
def test_a_look_that_fails_at_any_call_is_an_error_and_not_a_free_key(tmp_path: Path, error: int) -> None:
    clean = store_in(tmp_path / "claims")
    held = grant(clean, claim())
    looks: list[Callable[[AgentAwarenessStore], list[Found]]] = [lambda on: [on.read(KEY)], lambda on: [*on.scan()]]
    for look in looks:
        failures = 0
        for at in range(1, MORE_CALLS_THAN_ANY_CHANGE_MAKES):
            fs = Faulty(error, at)
            try:
                assert look(store_in(clean.directory, fs)) == [held]
            except StoreUnavailableError:
                failures += 1
            if not fs.failed:
                break
        assert failures >= 4


@pytest.mark.parametrize(("held", "change"), CHANGES)
def test_a_file_system_without_hard_links_is_a_clear_error_and_nothing_is_lost(
    tmp_path: Path, held: bool, change: Change
) -> None:
    class Linkless(HookedLayoutKernel):
        def before(self, call: str, where: str | int) -> None:
            if call == "link" and not str(where).endswith("meta.json"):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM), where)

    store, _, before = prepared(tmp_path / "claims", held)
    try:
        assert change(store_in(store.directory, Linkless()), before).won
    except StoreUnavailableError:
        assert store.read(KEY) == before
    assert [path.name for path in record(store).parent.iterdir() if path.name.startswith(".")] == [".lock"]
