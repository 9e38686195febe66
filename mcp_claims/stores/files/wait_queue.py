"""The wait queue of a key: first come, first served, without a ticket that could go stale.

A ticket is a request for a lock on a range of one file of the namespace, and it is the first once it has the lock.  The
kernel grants the lock in the order of the requests, and to the next one as soon as its owner drops it or dies.  So no
ticket needs to be cleaned up, and a release wakes one waiter instead of all.  The queue decides the order, not who holds
the key: the store alone grants claims.

The locks are Linux's open file description locks (fcntl(2)) on ranges of bytes, so that keys need no files of their own.
Other systems have no queues.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock

from mcp_claims.model.digest import sha256
from mcp_claims.stores.threads import start_daemon_thread

if sys.platform == "linux":
    import fcntl

QUEUE_FILE = ".line"  # As in earlier versions, whose waiters share the queue.

MAX_TICKETS = 64
"""Tickets of one process at a time; each costs a descriptor and, until it is the first, a thread."""


@contextmanager
def join_wait_queue(directory: str, key: str, notify: Callable[[], None]) -> Iterator[bool]:
    """Take a ticket in the wait queue of *key* in the namespace *directory*; call *notify* when it is the first.

    *notify* is called at once if no other ticket is before it, else later and in another thread.  Yields whether there
    is a queue; there is none where the system has no such locks or the file cannot be made.  One process has at most
    `MAX_TICKETS`; waiters beyond that get theirs when one is free.
    """
    if sys.platform != "linux":
        yield False
    else:
        waiter = _Waiter(f"{directory}/{QUEUE_FILE}", key, notify)
        # Joined inside: were an interrupt to leave the ticket behind, no later waiter would become the first.
        try:
            try:
                _TICKETS.join(waiter)
            except OSError:
                # No namespace yet, no space, no descriptor: without a queue, waiters are served in no particular order.
                queued = False
            else:
                queued = True
            yield queued
        finally:
            _TICKETS.leave(waiter)


if sys.platform == "linux":

    class _Waiter:
        """A caller of `join_wait_queue`."""

        def __init__(self, path: str, key: str, notify: Callable[[], None]) -> None:
            self.path, self.key, self.notify = path, key, notify

    class _Ticket:
        """A ticket in the queue of a key; `waiter` is `None` once its waiter has left the queue."""

        fd = -1

        def __init__(self, waiter: _Waiter) -> None:
            self.waiter: _Waiter | None = waiter
            self.queue = (waiter.path, waiter.key)
            self.fd = os.open(waiter.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            start = int.from_bytes(sha256(waiter.key.encode())[:7], "big")
            # struct flock: type, whence, start, length, PID; the last must be 0 here.
            self._range = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
            try:
                fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, self._range)
                self.first = True
            except BlockingIOError:
                self.first = False

        def __del__(self) -> None:
            # Of one that an error or an interrupt kept from the list: its lock would stay first in the queue.
            self.close()

        def close(self) -> None:
            """Drop the lock, or the request for it."""
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

        def wait(self) -> None:
            """Wait until no other ticket is before this one; nothing ends the wait earlier."""
            with suppress(OSError):  # Where the system has stopped granting such locks, every ticket is the first.
                fcntl.fcntl(self.fd, fcntl.F_OFD_SETLKW, self._range)

    class _Tickets:
        """The tickets of this process, and the waiters without one.

        A ticket cannot be freed before its turn, since nothing ends the thread that waits for its lock.  A client that
        waits and gives up, again and again, would use up all threads and descriptors.  So the next waiter for the same
        key inherits an abandoned ticket, and the number of tickets is bounded.
        """

        def __init__(self) -> None:
            self._reset()

        def _reset(self) -> None:
            self._lock = Lock()
            self._tickets: list[_Ticket] = []
            self._without_ticket: list[_Waiter] = []

        def join(self, waiter: _Waiter) -> None:
            """Give *waiter* a ticket, now or when one is free; raise `OSError` where no queue can be made."""
            with self._lock:
                queue = (waiter.path, waiter.key)
                abandoned = (each for each in self._tickets if each.waiter is None and each.queue == queue)
                if ticket := next(abandoned, None):
                    self._give(ticket, waiter)
                elif len(self._tickets) < MAX_TICKETS:
                    self._take(waiter)
                else:
                    self._without_ticket.append(waiter)

        def leave(self, waiter: _Waiter) -> None:
            """Notify *waiter* no more; if its ticket was the first, the next one is."""
            with self._lock:
                # Found in the list, as `_take` may have been interrupted right after it put the ticket there.
                ticket = next((each for each in self._tickets if each.waiter is waiter), None)
                if ticket is None:
                    if waiter in self._without_ticket:  # Unless it was notified because no ticket could be made.
                        self._without_ticket.remove(waiter)
                elif ticket.first:
                    self._free(ticket)
                else:
                    ticket.waiter = None
                    same_queue = (each for each in self._without_ticket if ticket.queue == (each.path, each.key))
                    if heir := next(same_queue, None):
                        self._without_ticket.remove(heir)
                        self._give(ticket, heir)

        def reset_after_fork(self) -> None:
            """Drop all tickets in a forked child: they are the parent's, and its release or death must free them."""
            for ticket in self._tickets:
                ticket.close()
            self._reset()

        def _take(self, waiter: _Waiter) -> None:
            ticket = _Ticket(waiter)
            if not ticket.first:
                # A thread of its own, as nothing else can wait for a lock.
                try:
                    start_daemon_thread(partial(self._advance, ticket), "mcp-claims wait queue")
                except RuntimeError as error:
                    raise OSError(str(error)) from error
            self._tickets.append(ticket)
            self._give(ticket, waiter)

        def _give(self, ticket: _Ticket, waiter: _Waiter) -> None:
            ticket.waiter = waiter
            if ticket.first:
                waiter.notify()

        def _advance(self, ticket: _Ticket) -> None:
            ticket.wait()
            with self._lock:
                ticket.first = True
                if ticket.waiter is None:
                    self._free(ticket)
                else:
                    ticket.waiter.notify()

        def _free(self, ticket: _Ticket) -> None:
            self._tickets.remove(ticket)
            ticket.close()
            while self._without_ticket and len(self._tickets) < MAX_TICKETS:
                waiter = self._without_ticket.pop(0)
                try:
                    self._take(waiter)
                except OSError:
                    waiter.notify()  # Where no queue can be made, every waiter is first.

    _TICKETS = _Tickets()
    os.register_at_fork(after_in_child=_TICKETS.reset_after_fork)
