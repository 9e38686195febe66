"""The lock of a namespace: waits are bounded, nobody breaks in, and the lock of a dead process is free at once."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import pytest

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.stores.base import LOCK_TIMEOUT
from mcp_claims.stores.files import filesystem
from mcp_claims.stores.files.filesystem import CREATE_LOCK, SPINS, FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, claim, grant, lock_file, place

ROOT = Path(__file__).parents[3]
OTHER_NAMESPACE = ScopedKey("deploy", "red-check")


class FakeClock(FileSystem):
    """Time passes only in `sleep`, which then calls *meanwhile* with the number of sleeps so far."""

    def __init__(self, meanwhile: Callable[[int], object] = lambda _: None) -> None:
        self._meanwhile = meanwhile
        self.time = 50.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += seconds
        self._meanwhile(len(self.sleeps))


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """A store whose namespace exists and is free."""
    store = FileStore(tmp_path / "claims")
    store.swap(KEY, grant(store, claim()), None)
    return store


def locked(store: FileStore) -> ExitStack:
    """Lock the namespace of the sample key as another process does, until the result is closed."""
    system, stack = FileSystem(), ExitStack()
    fd = system.open(str(lock_file(store)), CREATE_LOCK)
    stack.callback(system.close, fd)
    if not system.try_lock(fd):
        stack.close()
        raise StoreBusyError(str(lock_file(store)), 0)
    return stack


def is_free(store: FileStore) -> bool:
    try:
        locked(store).close()
    except StoreBusyError:
        return False
    return True


@contextmanager
def process_inside(store: FileStore) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds the lock of the sample key's namespace."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.stores.files.inside", store.directory],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "inside\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.rule("S6")
@pytest.mark.parametrize("lock_timeout", [0.0, 0.01, 1.0, LOCK_TIMEOUT])
def test_waiting_for_a_locked_namespace_ends_at_the_time_limit_with_an_error_that_says_what_to_do(
    store: FileStore, lock_timeout: float
) -> None:
    clock = FakeClock()
    with locked(store), pytest.raises(StoreBusyError) as refusal:
        FileStore(store.directory, fs=clock).swap(KEY, None, claim(), lock_timeout=lock_timeout)
    assert clock.time == pytest.approx(50.0 + lock_timeout)
    assert refusal.value.where == str(lock_file(store))
    assert refusal.value.waited == lock_timeout
    message = str(refusal.value)
    assert f"{lock_file(store)} for {lock_timeout:.1f} s" in message
    assert "Nothing was changed" in message
    assert "Other namespaces are not affected" in message
    assert "if it stays so, end that process" in message
    assert store.read(KEY) is None


def test_a_time_limit_of_zero_does_not_sleep(store: FileStore) -> None:
    clock = FakeClock()
    with locked(store), pytest.raises(StoreBusyError):
        FileStore(store.directory, fs=clock).swap(KEY, None, claim(), lock_timeout=0)
    assert clock.sleeps == []


def test_pauses_begin_short_and_stay_short(store: FileStore) -> None:
    clock = FakeClock()
    with locked(store), pytest.raises(StoreBusyError):
        FileStore(store.directory, fs=clock).swap(KEY, None, claim())
    assert clock.sleeps[0] <= 0.001
    assert max(clock.sleeps) <= 0.01


@pytest.mark.rule("S6")
def test_a_lock_held_for_a_moment_is_taken_without_sleeping(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, other, spins = FakeClock(), locked(store), []

    def release_at_the_tenth_spin() -> None:
        spins.append(True)
        if len(spins) == 10:
            other.close()

    monkeypatch.setattr(filesystem, "_yield_processor", release_at_the_tenth_spin)
    assert FileStore(store.directory, fs=clock).swap(KEY, None, claim(), lock_timeout=0).won
    assert (len(spins), clock.sleeps) == (10, [])


def test_a_spin_is_bounded(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    spins: list[bool] = []
    monkeypatch.setattr(filesystem, "_yield_processor", lambda: spins.append(True))
    with locked(store), pytest.raises(StoreBusyError):
        FileStore(store.directory, fs=FakeClock()).swap(KEY, None, claim(), lock_timeout=0)
    assert len(spins) == SPINS


@pytest.mark.rule("S6")
@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_a_forked_child_is_excluded_by_its_parent_like_any_other_process(store: FileStore) -> None:
    program = (
        "import os, sys\n"
        "from mcp_claims.stores.files.filesystem import FileSystem\n"
        "from mcp_claims.stores.files.lock import LockFile, NamespaceLock\n"
        "from mcp_claims.errors import StoreBusyError\n"
        "with LockFile(FileSystem(), sys.argv[1]) as file, NamespaceLock(file, 0):\n"
        "    if child := os.fork():\n"
        "        os.waitpid(child, 0)\n"
        "        os._exit(0)\n"
        "    try:\n"
        "        with LockFile(FileSystem(), sys.argv[1]) as file, NamespaceLock(file, 0):\n"
        "            os.write(1, b'inside')\n"
        "    except StoreBusyError:\n"
        "        os.write(1, b'busy')\n"
        "    os._exit(0)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, str(lock_file(store).parent)], cwd=ROOT, capture_output=True, check=True
    )
    assert child.stdout == b"busy", child.stderr


@pytest.mark.parametrize("readable", [True, False], ids=["claim", "unreadable"])
def test_a_discard_waits_as_a_swap_does(store: FileStore, readable: bool) -> None:
    grant(store, claim())
    if not readable:
        place(store).write_bytes(b"{")
    found = store.read(KEY)
    assert found is not None
    clock = FakeClock()
    with locked(store), pytest.raises(StoreBusyError):
        FileStore(store.directory, fs=clock).discard(found, lock_timeout=2)
    assert clock.time == pytest.approx(52.0)
    assert store.read(KEY) == found


@pytest.mark.rule("C1")
def test_reading_waits_for_no_lock(store: FileStore) -> None:
    granted = grant(store, claim())
    clock = FakeClock()
    reader = FileStore(store.directory, fs=clock)
    with locked(store):
        assert reader.read(KEY) == granted
        assert list(reader.scan()) == [granted]
    assert clock.sleeps == []


def test_a_locked_namespace_leaves_the_others_alone(store: FileStore) -> None:
    with locked(store):
        granted = grant(store, claim(OTHER_NAMESPACE))
    assert store.read(OTHER_NAMESPACE) == granted


def test_a_lock_that_is_released_during_the_wait_is_taken(store: FileStore) -> None:
    other = locked(store)
    clock = FakeClock(lambda slept: other.close() if slept == 3 else None)
    swap = FileStore(store.directory, fs=clock).swap(KEY, None, claim())
    assert swap.won
    assert len(clock.sleeps) == 3
    assert is_free(store)


def test_a_lock_file_that_is_replaced_again_and_again_does_not_extend_the_wait(store: FileStore) -> None:
    class Replaced(FakeClock):
        """Each lock is taken after one sleep, and then its file is no longer at the path."""

        attempts = 0

        def try_lock(self, fd: int) -> bool:
            assert self.attempts < 1_000_000, "it waits without end"
            self.attempts += 1
            return self.attempts % 2 == 0 and super().try_lock(fd)

        def status_of(self, path: str) -> os.stat_result:
            if path == str(lock_file(store)):
                raise FileNotFoundError(path)
            return super().status_of(path)

    clock = Replaced()
    with pytest.raises(StoreBusyError):
        FileStore(store.directory, fs=clock).swap(KEY, None, claim(), lock_timeout=0.01)
    assert clock.time == pytest.approx(50.01)


def test_the_comparison_sees_a_change_made_during_the_wait(store: FileStore) -> None:
    other = locked(store)

    def claim_and_release(slept: int) -> None:
        if slept == 1:
            other.close()
            grant(store, claim(session=2))

    swap = FileStore(store.directory, fs=FakeClock(claim_and_release)).swap(KEY, None, claim(session=1))
    assert not swap.won
    assert swap.found == store.read(KEY)
    assert isinstance(swap.found, Claim)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_lock_is_free_after_any_exception(store: FileStore, error: type[BaseException]) -> None:
    class Interrupted(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "replace":
                raise error

    with pytest.raises(error):
        FileStore(store.directory, fs=Interrupted()).swap(KEY, None, claim())
    assert is_free(store)
    assert store.read(KEY) is None


def test_the_lock_is_free_although_a_forked_child_still_has_the_opening(store: FileStore) -> None:
    kept: list[int] = []

    class Forked(FileSystem):
        def open(self, path: str, flags: int) -> int:
            fd = super().open(path, flags)
            # What a fork does to every descriptor; the child may live for hours.
            kept.append(os.dup(fd))
            return fd

    try:
        grant(FileStore(store.directory, fs=Forked()), claim())
        assert kept
        assert is_free(store)
    finally:
        for fd in kept:
            os.close(fd)


@pytest.mark.rule("S2")
def test_a_lock_file_replaced_under_a_waiter_makes_it_lock_the_new_one(store: FileStore) -> None:
    first, second = locked(store), ExitStack()

    def replace_the_file(slept: int) -> None:
        if slept == 1:
            lock_file(store).unlink()
            second.enter_context(locked(store))
            first.close()

    with second, pytest.raises(StoreBusyError):
        # The lock on the old file is free now, but another is inside by the new one.
        FileStore(store.directory, fs=FakeClock(replace_the_file)).swap(KEY, None, claim())
    assert store.read(KEY) is None


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "removed"])
def test_a_lock_on_a_file_that_is_gone_is_given_up_for_one_on_the_file_at_the_path(
    store: FileStore, replaced: bool
) -> None:
    inside: list[bool] = []

    class Late(HookedFileSystem):
        raced = False

        def before(self, call: str, where: str | int) -> None:
            if call == "try_lock" and not self.raced:
                self.raced = True
                lock_file(store).unlink()
                if replaced:
                    lock_file(store).touch(mode=0o600)
            if call == "replace":
                inside.append(is_free(store))

    assert FileStore(store.directory, fs=Late()).swap(KEY, None, claim()).won
    assert inside == [False]
    assert is_free(store)


@pytest.mark.rule("S1")
def test_the_lock_of_a_killed_process_is_free_at_once(store: FileStore) -> None:
    with process_inside(store) as child:
        assert not is_free(store)
        child.kill()
        child.wait()
        assert store.read(KEY) is None
        granted = grant(store, claim())
        assert store.read(KEY) == granted
        assert sorted(path.name for path in place(store).parent.iterdir()) == [".lock", "red-check.json"]


@pytest.mark.rule("S6")
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGSTOP")
def test_a_process_stopped_inside_holds_up_its_namespace_alone_and_nobody_breaks_in(store: FileStore) -> None:
    if sys.platform == "win32":
        return
    with process_inside(store) as child:
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        clock = FakeClock()
        with pytest.raises(StoreBusyError):
            FileStore(store.directory, fs=clock).swap(KEY, None, claim())
        assert clock.time == pytest.approx(50.0 + LOCK_TIMEOUT)
        assert store.read(KEY) is None
        grant(store, claim(OTHER_NAMESPACE))
        child.send_signal(signal.SIGCONT)
        assert child.communicate("go on\n")[0] == "won\n"
        swap = store.swap(KEY, None, claim(), lock_timeout=0)
        assert not swap.won
        assert swap.found == store.read(KEY) is not None


@pytest.mark.rule("S1")
@pytest.mark.parametrize("shared", [True, False], ids=["one-store", "two-stores"])
def test_threads_of_one_process_exclude_each_other(store: FileStore, shared: bool) -> None:
    inside, go_on = Event(), Event()

    class Pausing(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "replace":
                inside.set()
                assert go_on.wait(30)

    pausing = FileStore(store.directory, fs=Pausing())
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pausing.swap, KEY, None, claim(session=1))
        assert inside.wait(30)
        try:
            with pytest.raises(StoreBusyError):
                (pausing if shared else store).swap(KEY, None, claim(session=2), lock_timeout=0)
        finally:
            go_on.set()
        assert first.result().won
    assert store.read(KEY) == first.result().found


@pytest.mark.rule("S6")
@pytest.mark.skipif(sys.platform == "win32", reason="flock of POSIX")
def test_a_lock_that_the_system_refuses_is_its_error_at_once_and_blames_no_process(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(fcntl, "flock", refuse)
    clock = FakeClock()
    with pytest.raises(StoreUnavailableError, match="Operation not permitted"):
        FileStore(store.directory, fs=clock).swap(KEY, None, claim())
    assert clock.sleeps == []
