"""The generation counter of a namespace: no generation of a key is given twice, although nothing is kept per key.

The lock file holds the highest generation that was given in the namespace, and the boot in which it was written.  So
the number of a removed claim is remembered, even if somebody removed the claim by hand.
"""

from __future__ import annotations

import errno
import os
import time

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.records import MAX_GENERATION
from mcp_claims.stores.files.filesystem import FileSystem, write_all

LEAP = 1_000_000
"""How far the counter jumps where grants may be forgotten: more grants than fit between two power cuts' syncs."""

COUNTER_BYTES = 128
_NO_BOOT, _UNKNOWN_BOOT, _DAMAGED = "none", "unknown", "damaged"


class GenerationCounter:
    """The counter in the lock file *fd* of the namespace in *directory*; the caller holds the lock."""

    def __init__(self, fs: FileSystem, fd: int, directory: str) -> None:
        self._fs, self._fd, self._directory = fs, fd, directory

    def next_generation(self, after: int, boot: str | None) -> int:
        """Number a new grant of a key, higher than *after*, the generation of the key's stored claim (0 if there is none).

        The counter is written before the claim: a crash between the two wastes a number instead of giving it twice.
        Raises `StoreUnavailableError` when the numbers are used up, `OSError` as the system does.
        """
        boot = boot or _UNKNOWN_BOOT
        given, written_in = self._read()
        if written_in != boot:
            # Nothing else is synced to disk, so a power cut may have undone the last writes of the last boot.  The leap
            # is synced: were it undone too, two boots would leap to the same number.
            given = given + LEAP if given or written_in else 0
            self._write(given, written_in)
            self._fs.sync(self._fd)
            self._fs.sync_directory(self._directory)
            self._fs.sync_directory(os.path.dirname(self._directory))
        value = max(given, after) + 1
        if value > MAX_GENERATION:
            used_up = OSError(errno.EOVERFLOW, "the generations are used up; a record or the counter is damaged")
            raise StoreUnavailableError(self._directory, used_up)
        # The boot is noted after the sync: were it noted before, a sync that fails would never be repeated.
        self._write(value, boot)
        return value

    def _read(self) -> tuple[int, str]:
        """Return the highest generation given, and the boot that noted it, "" for a namespace without any grant."""
        self._fs.seek(self._fd, 0)
        data = self._fs.read(self._fd, COUNTER_BYTES)
        if data:
            return _parse(data) or _above_all()
        # Claims without a counter: somebody has removed the lock file.
        lost = any(not name.startswith(".") for name in self._fs.names(self._directory))
        return _above_all() if lost else (0, "")

    def _write(self, value: int, boot: str) -> None:
        self._fs.seek(self._fd, 0)
        write_all(self._fs, self._fd, f"{value:016d} {boot or _NO_BOOT}\n".ljust(COUNTER_BYTES).encode())


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
