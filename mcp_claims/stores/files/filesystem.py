"""The system calls that the file store makes, one method each, and what differs between systems.

This is the seam at which tests fail, stall, reorder and kill: the file store acts on the outside only through here.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from types import TracebackType

from mcp_claims.stores.files.ancestors import find_replaceable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# O_NOFOLLOW: a link planted in the place of a claim must not make us read or write elsewhere.  O_NONBLOCK: opening a
# FIFO planted there must not hang.  Windows has neither, and needs O_BINARY to leave the bytes alone.
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
READ = os.O_RDONLY | _SAFE
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
LOCK = os.O_RDWR | _SAFE
# Also for writing: else each end of a writer would end the wait of the reader.
LISTEN = os.O_RDWR | _SAFE
WAKE = os.O_WRONLY | _SAFE
CREATE_LOCK = LOCK | os.O_CREAT
APPEND = os.O_WRONLY | os.O_APPEND | _SAFE
CREATE_TO_APPEND = APPEND | os.O_CREAT

ERRORS_OF_ONE_FILE = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.EMLINK, errno.ENXIO})
"""Errors of `open` that are about one file and not about the store: no permission, a link (FreeBSD says EMLINK), a socket."""

SPINS = 60
"""Spin count before sleeping: a critical section (50 µs) is shorter than the shortest sleep."""

# How the system reports a lock that is taken; any other error is one of the system, and another try does not help.
_TAKEN = PermissionError if sys.platform == "win32" else BlockingIOError
# Windows locks ranges of bytes against reading too, so the locked byte lies far behind the content.
_LOCKED_BYTE = 1 << 30
# Windows refuses to replace or remove a file while somebody reads it, which takes microseconds.
_SHARING_RETRIES, _SHARING_PAUSE = 50, 0.001  # s

_yield_processor: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


class FileSystem:
    """The operating system's side of the file store."""

    # Those that are one system call on every system.
    close: Callable[[int], None] = staticmethod(os.close)
    read: Callable[[int, int], bytes] = staticmethod(os.read)
    write: Callable[[int, bytes], int] = staticmethod(os.write)
    sync: Callable[[int], None] = staticmethod(os.fsync)
    seek: Callable[[int, int, int], int] = staticmethod(os.lseek)
    truncate: Callable[[int, int], None] = staticmethod(os.ftruncate)
    status: Callable[[int], os.stat_result] = staticmethod(os.fstat)
    status_of: Callable[[str], os.stat_result] = staticmethod(os.lstat)  # of a path itself: links are not followed
    status_behind: Callable[[str], os.stat_result] = staticmethod(os.stat)  # of what a path leads to
    find_replaceable: Callable[[str], tuple[str, str, bool] | None] = staticmethod(find_replaceable)
    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    sleep: Callable[[float], None] = staticmethod(time.sleep)

    if sys.platform == "win32":

        def replace(self, source: str, target: str) -> None:
            _despite_readers(lambda: os.replace(source, target))

        def remove(self, path: str) -> None:
            _despite_readers(lambda: os.unlink(path))
    else:
        replace: Callable[[str, str], None] = staticmethod(os.replace)
        remove: Callable[[str], None] = staticmethod(os.unlink)

    def make_fifo(self, path: str) -> None:
        """Make a FIFO for its owner alone; Windows has none, which is an error like any other of the system."""
        if sys.platform == "win32":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)
        os.mkfifo(path, 0o600)

    def open(self, path: str, flags: int) -> int:
        """Open *path*; a file that this makes has mode 0600, whatever the umask."""
        fd = -1
        try:
            fd = os.open(path, flags, 0o600)
            if flags & os.O_CREAT and sys.platform != "win32":
                os.fchmod(fd, 0o600)
            return fd
        except BaseException:
            # Even an interrupt must not leave a descriptor that nobody can close.
            if fd >= 0:
                os.close(fd)
            raise

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory survive a power cut; Windows does so by itself."""
        if sys.platform != "win32":
            with OpenFile(self, path, os.O_RDONLY) as fd:
                os.fsync(fd)

    def make_directory(self, path: str) -> None:
        """Make a directory for its owner alone; others may enter missing parents but not write there, whatever the umask."""
        missing, above = list[str](), os.path.dirname(path)
        while above and not os.path.lexists(above):
            missing.append(above)
            above = os.path.dirname(above)
        for parent in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(parent, 0o755)
        # It may be there already: another process was faster, or a file has that name and opening a file inside fails.
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)

    def names(self, path: str, limit: int | None = None) -> list[str]:
        """Return the names in a directory, at most *limit* of them, in no order."""
        if limit is None:
            return os.listdir(path)
        with os.scandir(path) as entries:
            return [entry.name for entry in islice(entries, limit)]

    def try_lock(self, fd: int) -> bool:
        """Take the kernel lock on *fd*; return false if it is still taken after a short spin.

        The lock belongs to this opening of the file, so it also excludes other threads of this process, and the kernel
        drops it when the process dies.
        """
        for _ in range(SPINS):
            try:
                if sys.platform == "win32":
                    os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
                    msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
                else:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except _TAKEN:
                _yield_processor()
            else:
                return True
        return False

    def unlock(self, fd: int) -> None:
        """Drop the lock at once, even if a forked child still shares this opening of the file."""
        if sys.platform == "win32":
            os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(fd, fcntl.LOCK_UN)


def _despite_readers(change: Callable[[], None]) -> None:
    for _ in range(_SHARING_RETRIES):
        try:
            change()
        except PermissionError:
            time.sleep(_SHARING_PAUSE)
        else:
            return
    change()


class OpenFile:
    """The owner of a descriptor: closes it at the end of a `with` block, at the latest when nothing refers to it."""

    #: The descriptor; -1, for which every call fails with EBADF, before it is open and once it is closed.
    fd = -1

    def __init__(self, fs: FileSystem, path: str, flags: int) -> None:
        self._fs = fs
        self.fd = fs.open(path, flags)

    def close(self) -> None:
        # Forgotten before it is closed.  After an interrupt in between it stays open; were it closed twice instead, the
        # second time could close, and so unlock, a file that another thread has opened meanwhile.
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._fs.close(fd)

    def __enter__(self) -> int:
        return self.fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self.fd >= 0:
            with suppress(OSError):
                self.close()


def read_file(fs: FileSystem, path: str, limit: int) -> tuple[bytes, os.stat_result] | None:
    """Return up to *limit* bytes of the file at *path*, and its status; `None` if there is none.

    Of what is not a regular file, it returns no bytes.
    """
    try:
        file = OpenFile(fs, path, READ)
    except FileNotFoundError:
        return None
    with file as fd:
        status = fs.status(fd)
        if not stat.S_ISREG(status.st_mode):
            return b"", status
        # The file is never changed in place, so nothing follows the bytes of its size and no read has to find their end.
        size = min(status.st_size + 1, limit)
        data = fs.read(fd, size)
        while len(data) < min(status.st_size, limit):
            part = fs.read(fd, size - len(data))
            if not part:
                break
            data += part
        return data, status


def create_file(fs: FileSystem, path: str, data: bytes, *, sync: bool = False) -> None:
    """Write *data* to a new file at *path*, with *sync* to the disk; raises `FileExistsError` if there is one."""
    with OpenFile(fs, path, CREATE) as fd:
        write_all(fs, fd, data)
        if sync:
            fs.sync(fd)


def write_all(fs: FileSystem, fd: int, data: bytes) -> None:
    """Write all of *data*; a full disk or a signal may take it in pieces."""
    while data:
        data = data[fs.write(fd, data) :]


def last_change(status: os.stat_result) -> float:
    """Return the latest time, in seconds since 1970, at which a file can have been written.

    On POSIX that is the time of the last change of its inode, which nobody can set; on Windows that field is the
    file's creation.
    """
    return status.st_mtime if sys.platform == "win32" else status.st_ctime
