"""The lock of a namespace, held for all of compare-and-write, and the generation counter in its lock file.

The kernel frees the lock when its owner dies, so no stale lock ever has to be broken, and an owner that is merely slow
keeps it.

The lock file is never removed.  Were it unlinked, a waiter on the old file and a newcomer that makes a new one would
each lock a file of their own and both be inside.  Somebody may still remove the whole directory under a running
process, hence the checks that the locked file is the one at the path.

The lock file holds the generation counter of the namespace: the highest generation that was given in it, and the boot in
which it was written.  So no generation of a key is given twice, although nothing is kept per key, and the number of a
removed claim is remembered, even if somebody removed the claim by hand.

Behind the counter stands the intent of a change of several keys while one is under way (see `intents`).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Self
from weakref import WeakSet

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model.records import MAX_GENERATION
from mcp_claims.stores.files.directories import make_namespace
from mcp_claims.stores.files.filesystem import CREATE_LOCK, LOCK, FileSystem, OpenFile, write_all

LOCK_FILE = ".lock"
"""No claim's file name begins with a dot."""

LEAP = 1_000_000
"""How far the counter jumps where grants may be forgotten: more grants than fit between two power cuts' syncs."""

COUNTER_BYTES = 128
_MAX_INTENT_BYTES = 64 * 1024
"""More than the longest intent has: `MAX_CHANGES` paths of two names each."""
_NO_BOOT, _UNKNOWN_BOOT, _DAMAGED = "none", "unknown", "damaged"

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

    Until *deadline* instead, by the clock of the file system, where several locks share one timeout.  Raises
    `StoreBusyError` when the time is over, `OSError` as the system does.
    """

    def __init__(self, file: LockFile, timeout: float, deadline: float | None = None) -> None:
        self._fs, self._file, self._timeout, self._deadline = file.fs, file, timeout, deadline

    def __enter__(self) -> Self:
        deadline = self._fs.monotonic() + self._timeout if self._deadline is None else self._deadline
        while True:
            self._file.open()
            self._acquire(deadline)
            self._status = self._fs.status(self._file.fd)
            if not stat.S_ISREG(self._status.st_mode):
                raise OSError(errno.EINVAL, "the lock file is not a file", self._file.path)
            if self._is_in_place():
                # The status is needed anyway, so a change of one key pays nothing for the intents of others.
                self.has_intent = self._status.st_size > COUNTER_BYTES
                return self
            # Somebody has replaced the file since we opened it, and others lock the new one: open that.

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # As in `LockFile.close`, which frees the lock in any case.
            self._fs.unlock(self._file.fd)

    def check_in_place(self) -> None:
        """Raise `OSError` (ESTALE) if the lock file that we hold is no longer the one that others would lock.

        Checked right before each change.  While this process is stopped inside, somebody may remove the directory by
        hand and others may make it again; a write would then replace a record that was never compared.
        """
        if not self._is_in_place():
            raise OSError(errno.ESTALE, "it was removed or replaced while we changed it", self._file.path)

    def read_intent(self) -> bytes:
        """Return what stands behind the counter, as far as it can be an intent."""
        self._fs.seek(self._file.fd, COUNTER_BYTES, os.SEEK_SET)
        data = b""
        while part := self._fs.read(self._file.fd, _MAX_INTENT_BYTES - len(data)):
            data += part
        return data

    def append_intent(self, data: bytes) -> None:
        """Write *data* behind the counter and what stands there already."""
        if (end := self._fs.status(self._file.fd).st_size) < COUNTER_BYTES:
            # The zeros of a gap would count as a damaged counter.
            self._write_counter(*self._read_counter())
            end = COUNTER_BYTES
        self.has_intent = True
        self._fs.seek(self._file.fd, end, os.SEEK_SET)
        write_all(self._fs, self._file.fd, data)

    def remove_intent(self) -> None:
        """Remove what stands behind the counter."""
        self._fs.truncate(self._file.fd, COUNTER_BYTES)
        self.has_intent = False

    def next_generation(self, after: int, boot: str | None) -> int:
        """Number a new grant of a key, higher than *after*, the generation of the key's stored claim (0 if there is none).

        The counter is written before the claim: a crash between the two wastes a number instead of giving it twice.
        Raises `StoreUnavailableError` when the numbers are used up, `OSError` as the system does.
        """
        boot = boot or _UNKNOWN_BOOT
        given, written_in = self._read_counter()
        if written_in != boot:
            # Nothing else is synced to disk, so a power cut may have undone the last writes of the last boot.  The leap
            # is synced: were it undone too, two boots would leap to the same number.
            given = given + LEAP if given or written_in else 0
            self._write_counter(given, written_in)
            self._fs.sync(self._file.fd)
            self._fs.sync_directory(self._file.directory)
            self._fs.sync_directory(os.path.dirname(self._file.directory))
        value = max(given, after) + 1
        if value > MAX_GENERATION:
            used_up = OSError(errno.EOVERFLOW, "the generations are used up; a record or the counter is damaged")
            raise StoreUnavailableError(self._file.directory, used_up)
        # The boot is noted after the sync: were it noted before, a sync that fails would never be repeated.
        self._write_counter(value, boot)
        return value

    def _read_counter(self) -> tuple[int, str]:
        """Return the highest generation given, and the boot that noted it, "" for a namespace without any grant."""
        self._fs.seek(self._file.fd, 0, os.SEEK_SET)
        data = self._fs.read(self._file.fd, COUNTER_BYTES)
        if data:
            return _parse(data) or _above_all()
        # Claims without a counter: somebody has removed the lock file.
        lost = any(not name.startswith(".") for name in self._fs.names(self._file.directory))
        return _above_all() if lost else (0, "")

    def _write_counter(self, value: int, boot: str) -> None:
        self._fs.seek(self._file.fd, 0, os.SEEK_SET)
        write_all(self._fs, self._file.fd, f"{value:016d} {boot or _NO_BOOT}\n".ljust(COUNTER_BYTES).encode())

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


def is_counter(data: bytes) -> bool:
    """Return whether *data*, the beginning of a lock file, is an undamaged counter."""
    return _parse(data) is not None


def _parse(data: bytes) -> tuple[int, str] | None:
    words = data.decode("ascii", "replace").split()
    if len(words) == 2 and words[0].isdigit():
        value = int(words[0])
        if value <= MAX_GENERATION - LEAP:
            return value, words[1]
    return None


def _above_all() -> tuple[int, str]:
    """Return a counter above every generation given: microseconds since 1970 are more than any count of grants."""
    return time.time_ns() // 1_000, _DAMAGED


_lock_files: WeakSet[LockFile] = WeakSet()


def _close_inherited_lock_files() -> None:
    # A child that another thread forks while we hold a lock shares the locked opening of the file.  Were the child to
    # keep it, our death would not free the lock until the child ends too.
    for file in list(_lock_files):
        file.close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_inherited_lock_files)
