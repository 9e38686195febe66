"""What every store does: a register per key with one atomic write, compare-and-swap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol

from mcp_claims.model.records import Claim, Found, ScopedKey, Unreadable

LOCK_TIMEOUT = 5.0
"""Seconds that a change waits by default for another change in the same namespace."""

SECRET_BYTES = 32


class Swap(NamedTuple):
    """The result of a compare-and-swap.

    `found` is what is stored now: after a swap that was won the new claim with its generation, after a lost one
    what the other party stored.
    """

    won: bool
    found: Found


class Store(Protocol):
    """A register per key; no policy lives here.

    Every method raises `StoreUnavailableError` when the store cannot answer and `UnsafeDirectoryError` when it
    must not be trusted; `swap`, `discard` and `secret` also raise `StoreBusyError` after *lock_timeout* seconds, and
    then nothing was changed.  A `swap` that raises `StoreUnavailableError` may have been done all the same: read again.

    `remote` is true for a store that is asked over a network: an answer takes milliseconds, or seconds when it is in
    trouble.  Such a store keeps what a process claims only while it hears from that process, and ends claims by a
    clock of its own.
    """

    remote: bool

    def read(self, scoped: ScopedKey) -> Found:
        """Return what is stored, without waiting for anybody."""

    def swap(
        self, scoped: ScopedKey, old: Claim | None, new: Claim | None, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> Swap:
        """Store *new* (`None` removes) if and only if *old* is what is stored.

        A *new* claim of generation 0 is a new grant: the store numbers it, higher than any grant of this key
        before it, removed ones included.
        """

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        """Remove *found* if and only if it is still what is stored there; return whether it was."""

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        """Return the 32 bytes that all who share the store have and nobody else has; the first call makes them."""

    def scan(self, namespace: str | None = None, after: str = "") -> Iterator[Claim | Unreadable]:
        """Yield what is stored behind the position *after*, in the order of `position`, in one namespace or in all.

        A change made meanwhile may be seen or not.  What comes before *after* is not read.
        """

    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        """Call *notify*, from any thread, whenever a key, a namespace or anything (`None`) may have changed.

        Yields whether changes can be watched now.  A notice can be lost, so poll now and then as well.
        """

    def wait_queue(self, scoped: ScopedKey, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        """Join the wait queue of *scoped*; call *notify*, from any thread, once nobody is before us.

        Yields whether there is a queue; where there is none, everybody is first.
        """

    def position(self, found: Claim | Unreadable) -> str:
        """Return where `scan` has *found*: a text greater than that of everything it yields before."""

    def close(self, *, within: float) -> None:
        """Free at once, in *within* seconds, what the store keeps only while this process lives; never raises.

        What is not freed by then goes when the store has not heard from the process for long enough.  A store of
        this machine keeps nothing so, and does nothing.
        """


_CALL_DEADLINE: ContextVar[float | None] = ContextVar("call_deadline", default=None)


@contextmanager
def call_deadline(until: float) -> Iterator[None]:
    """Let every question to a remote store in this block be answered, or fail, by *until* (`time.monotonic`).

    One deadline for the whole call, however many questions it takes; it replaces that of an enclosing block.
    """
    token = _CALL_DEADLINE.set(until)
    try:
        yield
    finally:
        _CALL_DEADLINE.reset(token)


def deadline_in(seconds: float) -> float:
    """Return the time (`time.monotonic`) in *seconds*, or that of `call_deadline` if it is sooner."""
    until, limit = time.monotonic() + seconds, _CALL_DEADLINE.get()
    return until if limit is None else min(until, limit)
