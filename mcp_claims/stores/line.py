"""The line of those who wait for a key: first come, first served, without a queue that could go stale.

Whoever waits asks for a lock on a place of its key in one file of the namespace, and is first once it has it.  The
kernel grants it in the order of asking, and to the next as soon as its owner lets go or dies.  So nobody has to clean
up after anybody, and a release wakes one of those who wait instead of all.  It is a courtesy, not exclusion: claims are
granted by the store alone, whoever is first or not.

The locks are Linux's open file description locks (fcntl(2)): ranges of bytes, so that keys need no files of their own.
Elsewhere there are no lines.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread

if sys.platform == "linux":
    import fcntl

_FILE = ".line"


@contextmanager
def place_in_line(directory: str, key: str, tell: Callable[[], None]) -> Iterator[bool]:
    """Stand in the line for *key* in the namespace *directory*; call *tell* when nobody is before us any more.

    *tell* is called at once if nobody is, else later and in another thread.  Yields whether there is a line; there is
    none where the system has no such locks or the file cannot be made.
    """
    place = None
    if sys.platform == "linux":
        try:
            place = _Place(f"{directory}/{_FILE}", key, tell)
        except OSError:
            # No namespace yet, no space, no descriptor: who waits without a line is served in no particular order.
            place = None
    try:
        yield place is not None
    finally:
        if place is not None:
            place.leave()


if sys.platform == "linux":

    class _Place:
        def __init__(self, path: str, key: str, tell: Callable[[], None]) -> None:
            self._tell = tell
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            import hashlib  # Few need it, and it takes longer than all else here.

            start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
            # struct flock: type, whence, start, length, PID; the last has to be 0 here.
            self._range = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
            self._lock = Lock()
            self._left = False
            try:
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._range)
            except BlockingIOError:
                self._first = False
                # A thread of its own for each, as nothing else can wait for a lock.  A daemon: one that waits for
                # somebody who never leaves must not keep the process from ending.
                Thread(target=self._advance, name="mcp-claims line", daemon=True).start()
            except OSError:
                os.close(self._fd)
                raise
            else:
                self._first = True
                tell()

        def leave(self) -> None:
            """Leave the line, so that who is next is first; where our turn has not come yet, the thread does when it does."""
            with self._lock:
                self._left = True
                if self._first:
                    os.close(self._fd)

        def _advance(self) -> None:
            with suppress(OSError):  # Where the system takes back what it granted to others, all are first.
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, self._range)
            with self._lock:
                self._first = True
                if self._left:
                    os.close(self._fd)
                    return
            self._tell()
