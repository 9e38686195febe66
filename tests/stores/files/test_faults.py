"""Every system call of every operation fails once: a clear error, nothing half done, nothing leaked."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.records import Claim, Found, Unreadable
from mcp_claims.stores.base import Swap
from mcp_claims.stores.files.store import FileStore
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, claim, grant, place, renewed
from tests.support.descriptors import open_files

ERRORS = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EIO, errno.EINTR]
REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EROFS: "writable",
    errno.EACCES: "writable",
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "ulimit -n",
    errno.EIO: "Check that place",
    errno.EINTR: "Check that place",
}
MAX_CALLS = 100


class Faulty(HookedFileSystem):
    """Fails at the call with number `at`, counted from one; if `lasting`, at all later ones too."""

    def __init__(self, error: int, at: int, *, lasting: bool) -> None:
        self._error, self._at, self._lasting = error, at, lasting
        self._calls = 0
        self.failed: list[str] = []
        self.repaired = False

    def before(self, call: str, where: str | int) -> None:
        if self._error == errno.EACCES and call == "open" and self._is_claim_that_is_not_there(where):
            return  # No system denies opening a file that does not exist, in a directory that may be searched.
        self._calls += 1
        if not self.repaired and (self._calls == self._at or (self._lasting and self._calls > self._at)):
            self.failed.append(call)
            raise OSError(self._error, os.strerror(self._error), where if isinstance(where, str) else None)

    def _is_claim_that_is_not_there(self, where: str | int) -> bool:
        return str(where).endswith(".json") and not os.path.lexists(where)


@dataclass(frozen=True)
class Operation:
    """A change: what is stored before it, how it is made, and what it leaves."""

    prepare: Callable[[FileStore], Found]
    run: Callable[[FileStore, Found], Swap | bool]
    leaves: Claim | None


def nothing(_store: FileStore) -> Found:
    return None


def released(store: FileStore) -> Found:
    store.swap(KEY, grant(store, claim()), None)
    return None


def granted(store: FileStore) -> Found:
    return grant(store, claim())


def spoiled(store: FileStore) -> Found:
    grant(store, claim())
    place(store).write_bytes(b"{")
    return store.read(KEY)


def store_claim(new: Claim | None) -> Callable[[FileStore, Found], Swap]:
    def run(store: FileStore, before: Found) -> Swap:
        assert not isinstance(before, Unreadable)
        numbered = new._replace(generation=before.generation) if new and before and new.holder == before.holder else new
        return store.swap(KEY, before, numbered, lock_timeout=0)

    return run


def discard(store: FileStore, before: Found) -> bool:
    assert before is not None
    return store.discard(before, lock_timeout=0)


LONGER = renewed(claim())
RIVAL = claim(session=2)
REBOOTED = claim(session=2, boot="boot-2")
OPERATIONS = [
    pytest.param(Operation(nothing, store_claim(claim()), claim()), id="first-claim"),
    pytest.param(Operation(released, store_claim(claim()), claim()), id="claim"),
    pytest.param(Operation(released, store_claim(REBOOTED), REBOOTED), id="first-claim-of-a-boot"),
    pytest.param(Operation(granted, store_claim(LONGER), LONGER), id="renewal"),
    pytest.param(Operation(granted, store_claim(RIVAL), RIVAL), id="takeover"),
    pytest.param(Operation(granted, store_claim(None), None), id="release"),
    pytest.param(Operation(granted, discard, None), id="discard"),
    pytest.param(Operation(spoiled, discard, None), id="discard-of-what-cannot-be-read"),
]


def unnumbered(found: Found) -> Found:
    return found._replace(generation=0) if isinstance(found, Claim) else found


def check_error(error: StoreUnavailableError, number: int, store: FileStore) -> None:
    assert error.cause.errno == number
    message = str(error)
    assert os.strerror(number) in message
    assert store.directory in message
    assert REMEDIES[number] in message
    assert "You hold nothing new" in message and "Nothing was changed" not in message
    assert message.endswith(", then try again.")


@pytest.mark.rule("S7")
@pytest.mark.skipif(sys.platform == "win32", reason="counts descriptors in /dev/fd")
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_change_that_fails_at_any_call_leaves_old_or_new(
    tmp_path: Path, operation: Operation, error: int, lasting: bool
) -> None:
    for at in range(1, MAX_CALLS):
        clean = FileStore(tmp_path / str(at), fs=HookedFileSystem())
        before = operation.prepare(clean)
        fs = Faulty(error, at, lasting=lasting)
        store = FileStore(clean.directory, fs=fs)
        descriptors = open_files()
        done: Swap | bool | None = None
        try:
            done = operation.run(store, before)
        except StoreUnavailableError as unavailable:
            check_error(unavailable, error, store)
        assert open_files() == descriptors, fs.failed
        won = done.won if isinstance(done, Swap) else done
        after = clean.read(KEY)
        if won:
            assert unnumbered(after) == operation.leaves, fs.failed
        elif fs.failed[0] in ("unlock", "close"):
            # The only errors after which the change may have been made: too late to undo it.
            assert after == before or unnumbered(after) == operation.leaves, fs.failed
        elif won is None:
            assert after == before, fs.failed
        else:
            # A claim that may not be opened or read is unreadable, so the comparison is lost.
            assert fs.failed[0] in ("open", "status", "read")
            assert error == errno.EACCES
            assert after == before
        fs.repaired = True
        check_that_it_goes_on(store, after, used=before)
        if not fs.failed:
            assert won
            break
    else:
        pytest.fail("every number of calls met the fault")


def check_that_it_goes_on(store: FileStore, found: Found, *, used: Found = None) -> None:
    """Use the same store again: the lock is free, the numbers exceed those *used*, no other file is left."""
    highest = max(each.generation if isinstance(each, Claim) else 0 for each in (found, used))
    if isinstance(found, Unreadable):
        assert store.discard(found, lock_timeout=0)
        found = None
    taken = grant(store, claim(session=3), over=found)
    assert taken.generation > highest
    assert store.read(KEY) == taken
    assert store.swap(KEY, taken, None, lock_timeout=0).won
    assert [path.name for path in place(store).parent.iterdir()] == [".lock"]
    assert list(store.scan()) == []


@pytest.mark.rule("S7")
@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO, errno.ENFILE], ids=errno.errorcode.get)
def test_a_read_that_fails_at_any_call_is_an_error_and_not_a_free_key(tmp_path: Path, error: int) -> None:
    clean = FileStore(tmp_path / "claims")
    held = grant(clean, claim())
    reads: list[Callable[[FileStore], list[Found]]] = [lambda store: [store.read(KEY)], lambda store: [*store.scan()]]
    for read in reads:
        failures = 0
        for at in range(1, MAX_CALLS):
            fs = Faulty(error, at, lasting=False)
            store = FileStore(clean.directory, fs=fs)
            try:
                assert read(store) == [held]
            except StoreUnavailableError as unavailable:
                failures += 1
                check_error(unavailable, error, store)
            if not fs.failed:
                break
        assert failures >= 4


def test_a_claim_written_in_pieces_is_whole(tmp_path: Path) -> None:
    class Piecemeal(HookedFileSystem):
        def write(self, fd: int, data: bytes) -> int:
            return super().write(fd, data[:7])

        def read(self, fd: int, size: int) -> bytes:
            return super().read(fd, min(size, 128))

    # The counter exists already and stays as it is: this is about the claim.
    clean = FileStore(tmp_path / "claims")
    earlier = grant(clean, claim())
    pieces = FileStore(tmp_path / "claims", fs=Piecemeal())
    longer = grant(pieces, renewed(earlier), over=earlier)
    assert clean.read(KEY) == pieces.read(KEY) == longer


def test_a_disk_that_fills_up_while_a_claim_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    class Filling(HookedFileSystem):
        room = 100

        def write(self, fd: int, data: bytes) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = super().write(fd, data[: self.room])
            self.room -= written
            return written

    clean = FileStore(tmp_path / "claims")
    earlier = grant(clean, claim())
    with pytest.raises(StoreUnavailableError, match="No space left on device"):
        FileStore(tmp_path / "claims", fs=Filling()).swap(KEY, earlier, renewed(earlier))
    assert clean.read(KEY) == earlier
    assert sorted(path.name for path in place(clean).parent.iterdir()) == [".lock", "red-check.json"]


def test_the_error_names_the_first_fault_and_not_that_of_the_clean_up(tmp_path: Path) -> None:
    class Full(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "write":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if call == "remove":
                raise OSError(errno.EIO, os.strerror(errno.EIO), where)

    clean = FileStore(tmp_path / "claims")
    earlier = grant(clean, claim())
    with pytest.raises(StoreUnavailableError, match="No space left on device"):
        FileStore(tmp_path / "claims", fs=Full()).swap(KEY, earlier, renewed(earlier))
    check_that_it_goes_on(FileStore(tmp_path / "claims"), earlier)


@pytest.mark.rule("S7")
def test_a_process_without_free_descriptors_gets_an_error_and_goes_on(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("has no such limit")
    import resource

    store = FileStore(tmp_path / "claims")
    held = grant(store, claim())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    for uses in (lambda: store.read(KEY), lambda: store.swap(KEY, held, None), lambda: list(store.scan())):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(StoreUnavailableError, match="Too many open files"):
                uses()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.read(KEY) == held
    check_that_it_goes_on(store, held)
