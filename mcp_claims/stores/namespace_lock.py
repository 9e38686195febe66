"""The lock file of a namespace: the kernel lock that serializes changes, and the generation mark inside it."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from types import TracebackType

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.record import MAX_GENERATION
from mcp_claims.stores.kernel import CREATE_LOCK, LOCK, Kernel, write_all

LOCK_FILE = ".lock"
"""No claim's file name begins with a dot."""

LEAP = 1_000_000
"""How far the mark jumps where grants may have been forgotten: more than can be made between two power cuts' syncs."""

MARK_BYTES = 128
_NO_BOOT, _UNKNOWN_BOOT, _DAMAGED = "none", "unknown", "damaged"
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_GROWTH = 0.000_02, 0.002, 1.5


class Mark:
    """The highest generation that was given in a namespace, and the boot that wrote it.

    A new grant gets one more than the mark, so no generation of a key comes twice although nothing is kept per key,
    and although people remove claims by hand.  Only the holder of the namespace's lock may use a `Mark`.
    """

    def __init__(self, kernel: Kernel, fd: int, file: tuple[int, int], directory: str) -> None:
        self._kernel, self._fd, self._file, self._directory = kernel, fd, file, directory
        # Parsed only for a grant, but read at once: what cannot be read is no lock file, and lets nobody in.
        self._data = kernel.read(fd, MARK_BYTES)

    def still_locked(self) -> None:
        """Raise `OSError` (ESTALE) if the lock file that we hold is no longer the one that others would lock.

        Asked right before each change: somebody who removes the directory by hand, while we are stopped inside, lets
        others make it anew, and what we would write then is no longer compared with what is there.
        """
        path = f"{self._directory}/{LOCK_FILE}"
        if _file_at(self._kernel, path) != self._file:
            raise OSError(errno.ESTALE, "it was removed or replaced while we changed it", path)

    def next_generation(self, after: int, boot: str | None) -> int:
        """Number a new grant of a key whose stored claim, if any, has generation *after*.

        The mark is written before the claim: a crash between the two wastes a number instead of giving it twice.
        """
        boot = boot or _UNKNOWN_BOOT
        given, written_in = self._last()
        if written_in != boot:
            # Nothing else is synced to disk, so the last marks of the last boot may be forgotten.  The leap is synced:
            # it must not be forgotten itself, or two boots would leap to the same number.
            given = given + LEAP if given or written_in else 0
            self._store(given, written_in)
            self._kernel.sync(self._fd)
            self._kernel.sync_directory(self._directory)
            self._kernel.sync_directory(os.path.dirname(self._directory))
        value = max(given, after) + 1
        if value > MAX_GENERATION:
            used_up = OSError(errno.EOVERFLOW, "the generations are used up; a damaged record or mark says so")
            raise StoreUnavailableError(self._directory, used_up)
        # The boot is noted only now: were it noted before the sync, a sync that fails would never be made up for.
        self._store(value, boot)
        return value

    def _last(self) -> tuple[int, str]:
        if self._data:
            return _parse(self._data)
        # Nothing was ever granted here; unless there are claims, whose mark somebody has removed.
        lost = any(not name.startswith(".") for name in self._kernel.names(self._directory))
        return _above_all() if lost else (0, "")

    def _store(self, value: int, boot: str) -> None:
        self._kernel.seek(self._fd, 0)
        self._data = f"{value:016d} {boot or _NO_BOOT}\n".ljust(MARK_BYTES).encode()
        write_all(self._kernel, self._fd, self._data)


def is_mark(data: bytes) -> bool:
    """Tell whether *data*, what a lock file begins with, is a mark that is not damaged."""
    words = data.decode("ascii", "replace").split()
    return len(words) == 2 and words[0].isdigit() and int(words[0]) <= MAX_GENERATION - LEAP


def _parse(data: bytes) -> tuple[int, str]:
    if not is_mark(data):
        return _above_all()
    value, boot = data.decode("ascii").split()
    return int(value), boot


def _above_all() -> tuple[int, str]:
    """Return a mark above every number that may have been given: microseconds since 1970 outrun any count of grants."""
    return time.time_ns() // 1_000, _DAMAGED


class namespace_lock:  # noqa: N801 (used like a function)
    """Hold the lock of the namespace in *directory*, made if missing; others may be waited for up to *wait* seconds.

    The kernel frees the lock when its owner dies, so there is never a stale lock to break, and an owner that is
    merely slow is never broken into.

    The lock file is never removed.  Were it unlinked, a waiter on the old file and a newcomer that makes a new one
    would each lock a file of their own and both be inside.  Somebody may still remove the whole directory under us;
    hence the check that the locked file is the one at the path, and another try if it is not.

    Raises `StoreBusyError` when the wait is over, `OSError` as the system does.
    """

    __slots__ = ("_directory", "_fd", "_kernel", "_wait")

    def __init__(self, kernel: Kernel, directory: str, wait: float) -> None:
        self._kernel, self._directory, self._wait = kernel, directory, wait

    def __enter__(self) -> Mark:
        path = f"{self._directory}/{LOCK_FILE}"
        deadline = self._kernel.monotonic() + self._wait
        while True:
            self._fd = _open(self._kernel, self._directory, path)
            try:
                _acquire(self._kernel, self._fd, path, deadline, self._wait)
                ours = _identity(self._kernel.status(self._fd))
                if _file_at(self._kernel, path) == ours:
                    return Mark(self._kernel, self._fd, ours, self._directory)
            except BaseException:
                self._leave()
                raise
            self._leave()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        # What was changed is changed, so a failure here must not be told as one of the change.  Closing frees the lock
        # too, and if even that fails, the end of the process does.
        try:
            self._kernel.unlock(self._fd)
        except OSError:
            pass
        finally:
            with suppress(OSError):
                self._kernel.close(self._fd)


def make_namespace(kernel: Kernel, directory: str) -> None:
    """Make the directory of a namespace, and the claims directory above it, ours alone from the start."""
    kernel.make_directory(os.path.dirname(directory))
    kernel.make_directory(directory)


def _open(kernel: Kernel, directory: str, path: str) -> int:
    try:
        return kernel.open(path, LOCK)
    except FileNotFoundError:
        make_namespace(kernel, directory)
        return kernel.open(path, CREATE_LOCK)


def _acquire(kernel: Kernel, fd: int, path: str, deadline: float, wait: float) -> None:
    pause = _FIRST_PAUSE
    while not kernel.try_lock(fd):
        left = deadline - kernel.monotonic()
        if left <= 0:
            raise StoreBusyError(path, wait)
        # Asking again, not a blocking flock: that has no time-out, and a thread left behind in one would take the
        # lock long after its caller was told that the store is busy.
        kernel.sleep(min(pause, left))
        pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)


def _file_at(kernel: Kernel, path: str) -> tuple[int, int] | None:
    try:
        return _identity(kernel.status_of(path))
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
