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
from functools import partial
from threading import Lock

from mcp_claims.stores.threads import start_daemon_thread

if sys.platform == "linux":
    import fcntl

_FILE = ".line"

MOST_PLACES = 64
"""Places that one process has at a time, each of which costs a descriptor and, until it is first, a thread."""


@contextmanager
def join_wait_queue(directory: str, key: str, notify: Callable[[], None]) -> Iterator[bool]:
    """Stand in the line for *key* in the namespace *directory*; call *tell* when nobody is before us any more.

    *tell* is called at once if nobody is, else later and in another thread.  Yields whether there is a line; there is
    none where the system has no such locks or the file cannot be made.  Of those who wait in one process, `MOST_PLACES`
    stand in lines; the others are not told before one of those leaves.
    """
    waiter = None
    if sys.platform == "linux":
        waiter = _Waiter(f"{directory}/{_FILE}", key, notify)
        try:
            _LINES.come(waiter)
        except OSError:
            # No namespace yet, no space, no descriptor: who waits without a line is served in no particular order.
            waiter = None
    try:
        yield waiter is not None
    finally:
        if sys.platform == "linux" and waiter is not None:
            _LINES.leave(waiter)


if sys.platform == "linux":

    class _Waiter:
        """One who waits; *place* is what it stands on, if there was one left."""

        def __init__(self, path: str, key: str, notify: Callable[[], None]) -> None:
            self.path, self.key, self.notify = path, key, notify
            self.place: _Place | None = None

    class _Place:
        """A place in the line for a key; *waiter* is who stands on it, if that has not left."""

        def __init__(self, waiter: _Waiter) -> None:
            self.waiter: _Waiter | None = waiter
            self.of = (waiter.path, waiter.key)
            self.fd = os.open(waiter.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            import hashlib  # Few need it, and it takes longer than all else here.

            start = int.from_bytes(hashlib.sha256(waiter.key.encode()).digest()[:7], "big")
            # struct flock: type, whence, start, length, PID; the last has to be 0 here.
            self._range = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
            try:
                fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, self._range)
                self.first = True
            except BlockingIOError:
                self.first = False
            except OSError:
                os.close(self.fd)
                raise

        def wait(self) -> None:
            """Wait until nobody is before us; nothing ends that earlier."""
            with suppress(OSError):  # Where the system takes back what it granted to others, all are first.
                fcntl.fcntl(self.fd, fcntl.F_OFD_SETLKW, self._range)

    class _Lines:
        """The places of this process, and who waits for one.

        A place that has been asked for cannot be given back before its turn, as nothing ends the thread that waits for the
        lock.  Were each left with its thread and descriptor, a client that waits and gives up, again and again, would take
        all there are.  So the next one who waits for the key gets it, and there is a bound.
        """

        def __init__(self) -> None:
            self._begin()

        def _begin(self) -> None:
            self._lock = Lock()
            self._places: list[_Place] = []
            self._without: list[_Waiter] = []

        def come(self, waiter: _Waiter) -> None:
            """Have *waiter* told when it is first; raise `OSError` where no line can be made."""
            with self._lock:
                left = (
                    place for place in self._places if place.waiter is None and place.of == (waiter.path, waiter.key)
                )
                if place := next(left, None):
                    self._give(place, waiter)
                elif len(self._places) < MOST_PLACES:
                    self._ask(waiter)
                else:
                    self._without.append(waiter)

        def leave(self, waiter: _Waiter) -> None:
            """Tell *waiter* nothing any more; who is next is first."""
            with self._lock:
                place = waiter.place
                if place is None:
                    if waiter in self._without:  # Unless no line could be made when one of the others left.
                        self._without.remove(waiter)
                elif place.first:
                    self._free(place)
                else:
                    place.waiter = None
                    same = (other for other in self._without if place.of == (other.path, other.key))
                    if heir := next(same, None):
                        self._without.remove(heir)
                        self._give(place, heir)

        def forget(self) -> None:
            """Have no places: in a forked child they are its parent's, whose leaving or death is to free them."""
            for place in self._places:
                os.close(place.fd)
            self._begin()

        def _ask(self, waiter: _Waiter) -> None:
            place = _Place(waiter)
            if not place.first:
                # A thread of its own for each, as nothing else can wait for a lock.
                try:
                    start_daemon_thread(partial(self._advance, place), "mcp-claims line")
                except RuntimeError as error:
                    os.close(place.fd)
                    raise OSError(str(error)) from error
            self._places.append(place)
            self._give(place, waiter)

        def _give(self, place: _Place, waiter: _Waiter) -> None:
            place.waiter, waiter.place = waiter, place
            if place.first:
                waiter.notify()

        def _advance(self, place: _Place) -> None:
            place.wait()
            with self._lock:
                place.first = True
                if place.waiter is None:
                    self._free(place)
                else:
                    place.waiter.notify()

        def _free(self, place: _Place) -> None:
            os.close(place.fd)
            self._places.remove(place)
            while self._without and len(self._places) < MOST_PLACES:
                waiter = self._without.pop(0)
                try:
                    self._ask(waiter)
                except OSError:
                    waiter.notify()  # Where no line can be made, all are first.

    _LINES = _Lines()
    os.register_at_fork(after_in_child=_LINES.forget)
