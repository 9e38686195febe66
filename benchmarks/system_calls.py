"""The system calls of a claim and nothing else: no decisions, no parsing, no error messages.

Each call is one that the file store needs for safety: the lock, the check that it is still the file at its path, the read
for the compare, the generation counter, the private mode, the write under another name and the rename, and both clocks.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_COUNTER = b"0000000000000001 boot".ljust(127) + b"\n"
_MAX_RECORD = 1 << 16


class BareClaims:
    """Claims in the existing *directory*; *record* is the content of each."""

    def __init__(self, directory: Path, record: bytes) -> None:
        self._directory, self._record = str(directory), record
        self._lock, self._new = f"{directory}/.lock", f"{directory.parent}/.new-{directory.name}"

    def read(self, key: str) -> None:
        """Read the record of *key* without the lock."""
        _content(f"{self._directory}/{key}.json")

    def claim(self, key: str) -> bool:
        """Write the record of *key* unless there is one; return whether it was written."""
        _read_clocks(2)
        path = f"{self._directory}/{key}.json"
        lock, inode = self._acquire()
        try:
            os.read(lock, len(_COUNTER))
            if _content(path) is not None:
                return False
            os.lseek(lock, 0, os.SEEK_SET)
            os.write(lock, _COUNTER)
            fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.fchmod(fd, 0o600)
            os.write(fd, self._record)
            os.close(fd)
            self._check(inode)
            os.replace(self._new, path)
            return True
        finally:
            self._release(lock)

    def release(self, key: str) -> None:
        """Remove the record of *key*."""
        _read_clocks(1)
        path = f"{self._directory}/{key}.json"
        lock, inode = self._acquire()
        try:
            _content(path)
            self._check(inode)
            os.unlink(path)
        finally:
            self._release(lock)

    def _acquire(self) -> tuple[int, int]:
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        inode = os.fstat(lock).st_ino
        self._check(inode)
        return lock, inode

    def _release(self, lock: int) -> None:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)

    def _check(self, inode: int) -> None:
        if os.lstat(self._lock).st_ino != inode:
            raise RuntimeError("the lock file was replaced")


def _read_clocks(times: int) -> None:
    os.getpid()
    for _ in range(times):
        time.time_ns()
        time.clock_gettime(time.CLOCK_BOOTTIME)


def _content(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    os.fstat(fd)
    data = os.read(fd, _MAX_RECORD)
    os.close(fd)
    return data
