"""The system calls that the file store makes, one method each, and what differs between systems.

This is the seam at which tests fail, stall, reorder and kill: everything that `FileStore` does to the outside goes
through here.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# O_NOFOLLOW: a link planted where a claim belongs must not make us read or write elsewhere.  O_NONBLOCK: opening a
# FIFO planted there must not hang.  Windows has neither, and needs O_BINARY to leave the bytes alone.
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
READ = os.O_RDONLY | _SAFE
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
LOCK = os.O_RDWR | _SAFE
CREATE_LOCK = LOCK | os.O_CREAT
_CREATES = os.O_CREAT

# Windows locks ranges of bytes against reading too, so the locked byte lies far behind the content.
_LOCKED_BYTE = 1 << 30
ASKED = 60
"""How often who finds a lock taken asks for it at once: whoever is inside is so for 50 µs, less than the shortest sleep."""

_let_others_run: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))
# Windows refuses to replace or remove a file while somebody reads it; a reader is done within microseconds.
_SHARING_RETRIES = 50


# A child that another thread forks while we are inside shares the opening that is locked.  Were it to keep that, our
# death would not free the lock until the child ends too.
_locked: set[int] = set()


def _close_inherited_locks() -> None:
    while _locked:
        with suppress(OSError):
            os.close(_locked.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_locks)


class FileSystem:
    """The operating system's side of the file store."""

    def open(self, path: str, flags: int) -> int:
        """Open *path*; what is made is for its owner to read and write, whatever the umask, and for nobody else."""
        fd = os.open(path, flags, 0o600)
        if flags & _CREATES and sys.platform != "win32":
            try:
                os.fchmod(fd, 0o600)
            except OSError:
                os.close(fd)
                raise
        return fd

    def close(self, fd: int) -> None:
        _locked.discard(fd)
        os.close(fd)

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def seek(self, fd: int, position: int) -> None:
        os.lseek(fd, position, os.SEEK_SET)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory survive a power cut; Windows does so by itself."""
        if sys.platform != "win32":
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def status(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def status_of(self, path: str) -> os.stat_result:
        """Return the status of the thing at *path* itself, links not followed."""
        return os.lstat(path)

    def status_behind(self, path: str) -> os.stat_result:
        """Return the status of what *path* leads to, links followed."""
        return os.stat(path)

    def replace(self, source: str, target: str) -> None:
        if sys.platform == "win32":
            _despite_readers(lambda: os.replace(source, target))
        else:
            os.replace(source, target)

    def remove(self, path: str) -> None:
        if sys.platform == "win32":
            _despite_readers(lambda: os.unlink(path))
        else:
            os.unlink(path)

    def make_directory(self, path: str) -> None:
        """Make a directory that is ours alone; its parents, where missing, get the usual permissions."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)
        except FileExistsError:
            # Another process was faster, or the name is taken by a file, which opening inside will tell.
            return

    def names(self, path: str) -> Iterator[str]:
        with os.scandir(path) as entries:
            for entry in entries:
                yield entry.name

    def try_lock(self, fd: int, *, asked: int = ASKED) -> bool:
        """Take the kernel lock on *fd* unless somebody has it each of the *asked* times, letting others run in between.

        The lock belongs to this opening of the file, so it keeps out other threads of this process as well, and the
        kernel drops it when the process dies.
        """
        for _ in range(asked):
            try:
                if sys.platform == "win32":
                    os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
                    msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
                else:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                _let_others_run()
            else:
                _locked.add(fd)
                return True
        return False

    def unlock(self, fd: int) -> None:
        """Drop the lock at once, even if a forked child still has the same opening of the file."""
        if sys.platform == "win32":
            os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _despite_readers(change: Callable[[], None]) -> None:
    for _ in range(_SHARING_RETRIES):
        try:
            change()
        except PermissionError:
            time.sleep(0.001)
        else:
            return
    change()


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


def unsafe(status: os.stat_result) -> str | None:
    """Say why a directory is not ours alone, or `None` if it is; Windows keeps user profiles private by default."""
    if stat.S_ISLNK(status.st_mode):
        return "is a link to elsewhere"
    if sys.platform == "win32":
        return None
    if status.st_uid != os.geteuid():
        return f"belongs to another user (uid {status.st_uid})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return None
