"""What every store does: a register per key with one atomic write, compare-and-swap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol

from mcp_claims.model.records import Claim, Found, ScopedKey, Unreadable

LOCK_TIMEOUT = 5.0
"""Seconds that a change waits, unless told otherwise, for another one in the same namespace."""


SECRET_BYTES = 32


class Swap(NamedTuple):
    """What became of a compare-and-swap.

    `found` is what is stored now: after a swap that was won the new claim with its generation, after a lost one
    what the other party made of the key.
    """

    won: bool
    found: Found


class Store(Protocol):
    """A register per key; no policy lives here.

    Every method raises `StoreUnavailableError` when the store cannot answer and `UnsafeDirectoryError` when it
    must not be trusted; `swap` and `discard` also raise `StoreBusyError` after *wait* seconds, and then nothing
    was changed.  A `swap` that raises `StoreUnavailableError` may have been done all the same: read again.
    """

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
        """Remove *found* if and only if it is still what is stored there; tell whether it was."""

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        """Return 32 bytes that all who share the store have and nobody else has, made when they are first asked for.

        Raises `StoreBusyError` after *wait* seconds in which somebody else has been about to make them.
        """

    def scan(self, namespace: str | None = None, after: str = "") -> Iterator[Claim | Unreadable]:
        """Yield what is stored, in one namespace or in all, in the order of `position`; with *after* from behind that one.

        What changes meanwhile may be seen or not, and what comes before *after* is not read.
        """

    def watch(self, of: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        """Call *tell*, from any thread, whenever what is stored of a key, a namespace or all (`None`) may have changed.

        Yields whether changes can be watched now.  A notice can be lost, so whoever asks has to look now and then.
        """

    def wait_queue(self, scoped: ScopedKey, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        """Stand in line for *scoped*, and call *tell*, from any thread, when nobody is before us any more.

        Yields whether there is a line; where there is none, all are first.
        """

    def position(self, found: Claim | Unreadable) -> str:
        """Return where `scan` has *found*: a text that is greater than that of all that it yields before."""


class RemoteStore(Store):
    """A store that is asked over a network: an answer takes milliseconds, or seconds when it is in trouble.

    It holds what a process has claimed for as long as it hears from that process, and ends claims by a clock of its own.
    """

    def leave(self, *, within: float) -> None:
        """Free at once all that this process holds by being alive, in *within* seconds; for one that is about to end.

        Never raises: what is not freed by then goes when the store has not heard from the process for long enough.
        """


_WANTED: ContextVar[float | None] = ContextVar("wanted", default=None)


@contextmanager
def call_deadline(until: float) -> Iterator[None]:
    """Let what is asked in this block be answered, or fail, *until* then (`time.monotonic`), whatever was said outside it."""
    token = _WANTED.set(until)
    try:
        yield
    finally:
        _WANTED.reset(token)


def deadline_in(seconds: float) -> float:
    """Return the time (`time.monotonic`) that is *seconds* from now, or that of `answered_by` if it is sooner."""
    until, wanted = time.monotonic() + seconds, _WANTED.get()
    return until if wanted is None else min(until, wanted)
