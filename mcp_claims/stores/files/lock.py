"""The lock file of a namespace: the kernel lock that serializes changes, and the generation mark inside it."""

from __future__ import annotations

import errno
import os
import stat
import time
from types import TracebackType
from typing import TYPE_CHECKING

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model.records import MAX_GENERATION
from mcp_claims.stores.files.filesystem import ASKED, CREATE_LOCK, LOCK, FileSystem, write_all

if TYPE_CHECKING:
    from typing import Self

LOCK_FILE = ".lock"
"""No claim's file name begins with a dot."""

LEAP = 1_000_000
"""How far the mark jumps where grants may have been forgotten: more than can be made between two power cuts' syncs."""

MARK_BYTES = 128
_NO_BOOT, _UNKNOWN_BOOT, _DAMAGED = "none", "unknown", "damaged"
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_GROWTH = 0.000_02, 0.002, 1.5
# Who waits for a thread of this process waits for the interpreter too, each time it asks.  Asking 60 times at once took
# 20 ms while a thread pruned, since that one gives the interpreter up in its system calls, mostly inside.
_ASKED_OF_OURS, _LONGEST_FOR_OURS = 1, 0.000_2
_TURN_OF_OURS = 0.002
"""Seconds that even who may not wait, as the event loop, waits for a thread of this process, which is as good as out."""

# The lock files that threads of this process are inside by, and whether that one is still worth a turn's wait.  Were it
# waited for by each who asks, one that a slow disk keeps inside would keep the event loop for 2 ms times all calls.  Only
# how long to wait depends on this, never whether the lock is free.
_ours: dict[str, bool] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ours.clear)


class namespace_lock:
    """Hold the lock of the namespace in *directory*, made if missing; others may be waited for up to *wait* seconds.

    The kernel frees the lock when its owner dies, so there is never a stale lock to break, and an owner that is
    merely slow is never broken into.

    The lock file is never removed.  Were it unlinked, a waiter on the old file and a newcomer that makes a new one
    would each lock a file of their own and both be inside.  Somebody may still remove the whole directory under us;
    hence the check that the locked file is the one at the path, and another try if it is not.

    The file has the mark: the highest generation that was given in the namespace, and the boot that wrote it.  A new
    grant gets one more than the mark, so no generation of a key comes twice although nothing is kept per key, and although
    people remove claims by hand.

    Raises `StoreBusyError` when the wait is over, `OSError` as the system does.
    """

    __slots__ = ("_directory", "_fd", "_file", "_fs", "_mark", "_path", "_wait")

    def __init__(self, fs: FileSystem, directory: str, lock_timeout: float) -> None:
        self._fs, self._directory, self._wait = fs, directory, lock_timeout
        self._path = f"{directory}/{LOCK_FILE}"
        self._mark: bytes | None = None  # Read when it is needed, as no release does.

    def __enter__(self) -> Self:
        fs, path = self._fs, self._path
        deadline = None
        while True:
            try:
                self._fd = fs.open(path, LOCK)
            except FileNotFoundError:
                make_namespace(fs, self._directory)
                self._fd = fs.open(path, CREATE_LOCK)
            try:
                if not fs.try_lock(self._fd, asked=_ASKED_OF_OURS if path in _ours else ASKED):
                    if deadline is None:
                        turn = _TURN_OF_OURS if _ours.get(path) else 0.0
                        deadline = fs.monotonic() + max(self._wait, turn)
                    self._wait_for_it(deadline)
                self._file = fs.status(self._fd)
                if not stat.S_ISREG(self._file.st_mode):
                    raise OSError(errno.EINVAL, "the lock file is not a file", path)
                if self._is_at_its_path():
                    _ours[path] = True
                    return self
            except BaseException:
                self._leave()
                raise
            self._leave()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ours.pop(self._path, None)
        self._leave()

    def still_locked(self) -> None:
        """Raise `OSError` (ESTALE) if the lock file that we hold is no longer the one that others would lock.

        Asked right before each change: somebody who removes the directory by hand, while we are stopped inside, lets
        others make it anew, and what we would write then is no longer compared with what is there.
        """
        if not self._is_at_its_path():
            raise OSError(errno.ESTALE, "it was removed or replaced while we changed it", self._path)

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
            self._fs.sync(self._fd)
            self._fs.sync_directory(self._directory)
            self._fs.sync_directory(os.path.dirname(self._directory))
        value = max(given, after) + 1
        if value > MAX_GENERATION:
            used_up = OSError(errno.EOVERFLOW, "the generations are used up; a damaged record or mark says so")
            raise StoreUnavailableError(self._directory, used_up)
        # The boot is noted only now: were it noted before the sync, a sync that fails would never be made up for.
        self._store(value, boot)
        return value

    def _last(self) -> tuple[int, str]:
        if self._mark is None:
            self._mark = self._fs.read(self._fd, MARK_BYTES)
        if self._mark:
            return _parse(self._mark) or _above_all()
        # Nothing was ever granted here; unless there are claims, whose mark somebody has removed.
        lost = any(not name.startswith(".") for name in self._fs.names(self._directory))
        return _above_all() if lost else (0, "")

    def _store(self, value: int, boot: str) -> None:
        self._fs.seek(self._fd, 0)
        self._mark = f"{value:016d} {boot or _NO_BOOT}\n".ljust(MARK_BYTES).encode()
        write_all(self._fs, self._fd, self._mark)

    def _is_at_its_path(self) -> bool:
        try:
            found, ours = self._fs.status_of(self._path), self._file
        except FileNotFoundError:
            return False
        return found.st_ino == ours.st_ino and found.st_dev == ours.st_dev

    def _wait_for_it(self, deadline: float) -> None:
        pause = _FIRST_PAUSE
        while True:
            left = deadline - self._fs.monotonic()
            if left <= 0:
                if self._path in _ours:
                    _ours[self._path] = False
                raise StoreBusyError(self._path, self._wait)
            # Asking again, not a blocking flock: that has no time-out, and a thread left behind in one would take the
            # lock long after its caller was told that the store is busy.
            self._fs.sleep(min(pause, left))
            ours = self._path in _ours
            if self._fs.try_lock(self._fd, asked=_ASKED_OF_OURS if ours else ASKED):
                return
            pause = min(pause * _PAUSE_GROWTH, _LONGEST_FOR_OURS if ours else _LONGEST_PAUSE)

    def _leave(self) -> None:
        # What was changed is changed, so a failure here must not be told as one of the change.  Closing frees the lock
        # too, and if even that fails, the end of the process does.
        try:
            self._fs.unlock(self._fd)
        except OSError:
            pass
        finally:
            try:
                self._fs.close(self._fd)
            except OSError:
                pass


def is_mark(data: bytes) -> bool:
    """Tell whether *data*, what a lock file begins with, is a mark that is not damaged."""
    return _parse(data) is not None


def _parse(data: bytes) -> tuple[int, str] | None:
    words = data.decode("ascii", "replace").split()
    if len(words) == 2 and words[0].isdigit():
        value = int(words[0])
        if value <= MAX_GENERATION - LEAP:
            return value, words[1]
    return None


def _above_all() -> tuple[int, str]:
    """Return a mark above every number that may have been given: microseconds since 1970 outrun any count of grants."""
    return time.time_ns() // 1_000, _DAMAGED


def make_namespace(fs: FileSystem, directory: str) -> None:
    """Make the directory of a namespace, and the claims directory above it, ours alone from the start."""
    fs.make_directory(os.path.dirname(directory))
    fs.make_directory(directory)
