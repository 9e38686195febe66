"""A process dies at every system call, in every operation: the key is never lost and never free too early."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.model.records import Claim, Unreadable
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, claim, grant, place, renewed

if sys.platform == "win32":
    pytest.skip("has no fork", allow_module_level=True)

MORE_CALLS_THAN_ANY_OPERATION_MAKES = 100


class Dying(HookedFileSystem):
    """Kills the process at the call with number `at`, counted from one."""

    def __init__(self, at: int) -> None:
        self._left = at

    def before(self, call: str, where: str | int) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


Change = Callable[[FileStore, Claim | None], None]


def crashes(store: FileStore, at: int, change: Change, held: Claim | None) -> bool:
    """Let a child make *change* to what *store* has and die at call *at*; tell whether it got so far."""
    child = os.fork()
    if not child:
        # Nothing of the parent's test run may go on in here, whatever happens.
        try:
            change(FileStore(store.directory, fs=Dying(at)), held)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def take(store: FileStore, held: Claim | None) -> None:
    store.swap(KEY, held, claim(session=2))


def take_in_a_new_boot(store: FileStore, held: Claim | None) -> None:
    store.swap(KEY, held, claim(session=2, boot="boot-2"))


def renew(store: FileStore, held: Claim | None) -> None:
    assert held is not None
    store.swap(KEY, held, renewed(held))


def release(store: FileStore, held: Claim | None) -> None:
    store.swap(KEY, held, None)


def discard(store: FileStore, held: Claim | None) -> None:
    assert held is not None
    store.discard(held)


def prune(store: FileStore, held: Claim | None) -> None:
    assert held is not None  # It expired long ago, by today's clock.
    process_session(store).prune()


@pytest.mark.rule("S4")
@pytest.mark.parametrize(
    ("held", "change"),
    [
        pytest.param(False, take, id="claim"),
        pytest.param(False, take_in_a_new_boot, id="first-claim-of-a-boot"),
        pytest.param(True, take, id="takeover"),
        pytest.param(True, renew, id="renewal"),
        pytest.param(True, release, id="release"),
        pytest.param(True, discard, id="discard"),
        pytest.param(True, prune, id="prune"),
    ],
)
def test_a_crash_at_any_call_leaves_old_or_new_and_a_free_lock(tmp_path: Path, held: bool, change: Change) -> None:
    for at in range(1, MORE_CALLS_THAN_ANY_OPERATION_MAKES):
        store = FileStore(tmp_path / str(at), fs=HookedFileSystem())
        earlier = grant(store, claim(session=1))
        if not held:
            store.swap(KEY, earlier, None)
        before = earlier if held else None
        crashed = crashes(store, at, change, before)
        after = store.read(KEY)
        assert not isinstance(after, Unreadable)
        if after != before:
            assert after is None or after.generation > earlier.generation or after == renewed(earlier)
        later = grant(store, claim(session=3), over=after)
        assert later.generation > max(earlier.generation, after.generation if after else 0)
        assert store.swap(KEY, later, None, lock_timeout=0).won
        assert [path.name for path in place(store).parent.iterdir()] == [".lock"]
        if not crashed:
            break
    else:
        pytest.fail("the crash never came too late")


def test_a_crash_in_the_very_first_claim_leaves_a_directory_that_works(tmp_path: Path) -> None:
    for at in range(1, MORE_CALLS_THAN_ANY_OPERATION_MAKES):
        store = FileStore(tmp_path / str(at), fs=HookedFileSystem())
        crashed = crashes(store, at, take, None)
        after = store.read(KEY)
        assert not isinstance(after, Unreadable)
        if after is None:
            after = grant(store, claim(session=3))
        assert store.swap(KEY, after, None, lock_timeout=0).won
        if not crashed:
            break
    else:
        pytest.fail("the crash never came too late")
