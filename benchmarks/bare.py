"""The system calls that a claim needs, and nothing else: no judgement, no parsing, no errors explained.

What each is needed for is in docs/design: S1 (the lock), S2 (is it still the file at the path), S3 (compare), S4 (rename),
S8 (modes), G1 (the counter), P2 (proof of life), P5 (who calls), T1 (both clocks, before a
change and after it).
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_MARK = b"0000000000000001 boot".ljust(127) + b"\n"
_MOST = 1 << 16


class Bare:
    """Claims in *directory*, which has to exist; *record* is what is written for each."""

    def __init__(self, directory: Path, record: bytes) -> None:
        self._directory, self._record = str(directory), record
        self._lock, self._new = f"{directory}/.lock", f"{directory.parent}/.new-{directory.name}"

    def look(self, key: str) -> None:
        """Read, without the lock."""
        _content(f"{self._directory}/{key}.json")

    def begin_close(self, key: str, pid: int) -> None:
        """Read, without the lock, and ask whether *pid* lives and when it was started."""
        self._tell_time(1)
        self.look(key)
        os.kill(pid, 0)
        _content(f"/proc/{pid}/stat")

    def try_once(self, key: str) -> bool:
        """Lock, read, and write if nobody has *key*; tell whether."""
        self._tell_time(2)
        path = f"{self._directory}/{key}.json"
        lock, ours = self._enter()
        try:
            os.read(lock, len(_MARK))
            if _content(path) is not None:
                return False
            os.lseek(lock, 0, os.SEEK_SET)
            os.write(lock, _MARK)
            self._write(path, ours)
            return True
        finally:
            self._leave(lock)

    def release(self, key: str) -> None:
        """Lock, read and remove."""
        self._tell_time(1)
        path = f"{self._directory}/{key}.json"
        lock, ours = self._enter()
        try:
            _content(path)
            self._check(ours)
            os.unlink(path)
        finally:
            self._leave(lock)

    def put(self, key: str) -> None:
        """Write a file that appears whole, and nothing else: no lock, no comparison."""
        fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, self._record)
        os.close(fd)
        os.replace(self._new, f"{self._directory}/{key}.json")

    def drop(self, key: str) -> None:
        """Remove what `put` wrote."""
        os.unlink(f"{self._directory}/{key}.json")

    def _tell_time(self, times: int) -> None:
        os.getpid()
        for _ in range(times):
            time.time_ns()
            time.clock_gettime(time.CLOCK_BOOTTIME)

    def _enter(self) -> tuple[int, int]:
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        ours = os.fstat(lock).st_ino
        self._check(ours)
        return lock, ours

    def _leave(self, lock: int) -> None:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)

    def _check(self, ours: int) -> None:
        if os.lstat(self._lock).st_ino != ours:
            raise RuntimeError("the lock file was replaced")

    def _write(self, path: str, ours: int) -> None:
        fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.fchmod(fd, 0o600)
        os.write(fd, self._record)
        os.close(fd)
        self._check(ours)
        os.replace(self._new, path)


def _content(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    os.fstat(fd)
    data = os.read(fd, _MOST)
    os.close(fd)
    return data
