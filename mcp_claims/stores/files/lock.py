"""The lock of a namespace: a kernel lock on its lock file, held for all of compare-and-write.

The kernel frees the lock when its owner dies, so no stale lock ever has to be broken, and an owner that is merely slow
keeps it.

The lock file is never removed.  Were it unlinked, a waiter on the old file and a newcomer that makes a new one would
each lock a file of their own and both be inside.  Somebody may still remove the whole directory under a running
process, hence the checks that the locked file is the one at the path.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self
from weakref import WeakSet

from mcp_claims.errors import StoreBusyError
from mcp_claims.stores.files.directories import make_namespace
from mcp_claims.stores.files.filesystem import CREATE_LOCK, LOCK, FileSystem, OpenFile
from mcp_claims.stores.files.generation_counter import GenerationCounter

LOCK_FILE = ".lock"
"""No claim's file name begins with a dot."""

_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_GROWTH = 0.000_02, 0.002, 1.5  # s


class LockFile:
    """The lock file of the namespace in *directory*; it owns the descriptor that `NamespaceLock` locks.

    The two are context managers of their own, used one inside the other:

        with LockFile(fs, directory) as file, NamespaceLock(file, timeout) as lock:

    An exception such as `KeyboardInterrupt` can cut the exit of the inner one short.  Then the outer one still closes the
    file, which frees the lock.
    """

    def __init__(self, fs: FileSystem, directory: str) -> None:
        self.fs, self.directory = fs, directory
        self.path = f"{directory}/{LOCK_FILE}"
        self._file: OpenFile | None = None
        _lock_files.add(self)

    @property
    def fd(self) -> int:
        """The descriptor; raises `OSError` (EBADF) while the file is not open."""
        if self._file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self.path)
        return self._file.fd

    def open(self) -> None:
        """Open the file at the path, made if missing, instead of the one opened before."""
        self.close()
        try:
            self._file = OpenFile(self.fs, self.path, LOCK)
        except FileNotFoundError:
            make_namespace(self.fs, self.directory)
            self._file = OpenFile(self.fs, self.path, CREATE_LOCK)

    def close(self) -> None:
        """Close the file, which frees the lock."""
        # What was changed is changed, so a failure here must not be reported as one of the change.
        with suppress(OSError):
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NamespaceLock:
    """Hold the lock on *file*; wait up to *timeout* seconds for others to release it.

    Raises `StoreBusyError` when the time is over, `OSError` as the system does.
    """

    def __init__(self, file: LockFile, timeout: float) -> None:
        self._fs, self._file, self._timeout = file.fs, file, timeout

    def __enter__(self) -> Self:
        deadline = self._fs.monotonic() + self._timeout
        while True:
            self._file.open()
            self._acquire(deadline)
            self._status = self._fs.status(self._file.fd)
            if not stat.S_ISREG(self._status.st_mode):
                raise OSError(errno.EINVAL, "the lock file is not a file", self._file.path)
            if self._is_in_place():
                return self
            # Somebody has replaced the file since we opened it, and others lock the new one: open that.

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # As in `LockFile.close`, which frees the lock in any case.
            self._fs.unlock(self._file.fd)

    @property
    def counter(self) -> GenerationCounter:
        """The generation counter, which is in the lock file."""
        return GenerationCounter(self._fs, self._file.fd, self._file.directory)

    def check_in_place(self) -> None:
        """Raise `OSError` (ESTALE) if the lock file that we hold is no longer the one that others would lock.

        Checked right before each change.  While this process is stopped inside, somebody may remove the directory by
        hand and others may make it again; a write would then replace a record that was never compared.
        """
        if not self._is_in_place():
            raise OSError(errno.ESTALE, "it was removed or replaced while we changed it", self._file.path)

    def _is_in_place(self) -> bool:
        try:
            found = self._fs.status_of(self._file.path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (self._status.st_dev, self._status.st_ino)

    def _acquire(self, deadline: float) -> None:
        # Polling, not a blocking flock: that has no time-out, and a thread left behind in one would take the lock long
        # after its caller was refused.
        pause = _FIRST_PAUSE
        while not self._fs.try_lock(self._file.fd):
            left = deadline - self._fs.monotonic()
            if left <= 0:
                raise StoreBusyError(self._file.path, self._timeout)
            self._fs.sleep(min(pause, left))
            pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)


_lock_files: WeakSet[LockFile] = WeakSet()


def _close_inherited_lock_files() -> None:
    # A child that another thread forks while we hold a lock shares the locked opening of the file.  Were the child to
    # keep it, our death would not free the lock until the child ends too.
    for file in list(_lock_files):
        file.close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_inherited_lock_files)
