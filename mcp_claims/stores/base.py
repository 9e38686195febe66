"""What every store does: a register per key with one atomic write, compare-and-swap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from mcp_claims.model.keys import is_file_key
from mcp_claims.model.records import Claim, Found, ScopedKey, Ticket, Unreadable, is_head

if TYPE_CHECKING:
    from mcp_claims.stores.history.history import History

T = TypeVar("T")

LOCK_TIMEOUT = 5.0
"""Seconds that a change waits by default for another change in the same namespace."""

MAX_SWAPS = 1_000
"""Compare-and-swaps lost to others after which an operation gives up; each loss means that somebody made progress."""

MAX_CHANGES = 64
"""The most keys that one `swap_all` changes; a transaction of etcd has room for 42 new claims."""

SECRET_BYTES = 32

NEVER = datetime.max.replace(tzinfo=UTC)
"""The time of change of an unreadable record of unknown age, which therefore never counts as expired."""


class Swap(NamedTuple):
    """The result of a compare-and-swap.

    `found` is what is stored now: the new claim with its generation if the swap was won, else what another session
    stored.  `trace` is the marker of a claim that the store has ended by itself, if a new grant took its place unread.
    With `queued` the swap was lost because somebody who waits may go before, with `overlap` because of that claim on another
    file.
    """

    won: bool
    found: Found
    trace: Claim | None = None
    queued: bool = False
    overlap: Claim | Unreadable | None = None


class Change(NamedTuple):
    """One change of a `swap_all`: *new* (`None` removes) in the place of *old*.

    With `found_dead` a claim is removed because it has expired, or its process has ended: the history says so.
    """

    scoped: ScopedKey
    old: Claim | None
    new: Claim | None
    found_dead: bool = False

    @property
    def claims_files(self) -> bool:
        """Whether it puts a claim on files in force, which may overlap with others; a head comes with its members."""
        return self.new is not None and self.new.ended is None and not self.new.members and is_file_key(self.scoped)


class Swaps(NamedTuple):
    """The result of a `swap_all`: as a `Swap`, with what is stored now for each change, in their order.

    `traces`, too, has one for each change, or is empty.
    """

    won: bool
    found: tuple[Found, ...]
    traces: tuple[Claim | None, ...] = ()
    queued: bool = False
    overlap: Claim | Unreadable | None = None

    @classmethod
    def of_one(cls, swap: Swap) -> Swaps:
        """Return the result of a single change."""
        return cls(swap.won, (swap.found,), (swap.trace,), swap.queued, swap.overlap)

    @property
    def only(self) -> Swap:
        """The result of the only change."""
        return Swap(self.won, self.found[0], self.traces[0] if self.traces else None, self.queued, self.overlap)


TicketChange = Callable[[tuple[Ticket, ...]], tuple[Ticket, ...]]

GivesWay = Callable[[tuple[Ticket, ...]], bool]
"""Whether a claim has to wait, because somebody among those with tickets goes before it."""

Blocks = Callable[[Claim | Unreadable], bool]
"""Whether a claim on a file that overlaps is in the way of a new one."""


class Alarm(Protocol):
    """What wakes a waiter: it becomes readable, or calls the waiter's *notify*."""

    def fileno(self) -> int | None:
        """Return the descriptor to wait for; `None` if there is only *notify*."""

    def reset(self) -> None:
        """Consume the wake-ups that have come so far."""

    def aim(self, blocking: Claim | Ticket) -> bool:
        """Wake the waiter once *blocking*, as it was read, is no longer what is stored; forget what it was aimed at before.

        Returns false, and does nothing, where a session that changes something wakes the next waiter itself.
        """


class Store(Protocol):
    """A register per key; no policy lives here.

    Every method raises `StoreUnavailableError` when the store cannot answer and `UnsafeDirectoryError` when others could
    change it; each change and `secret` also raise `StoreBusyError` after *lock_timeout* seconds, and then nothing
    was changed.  A `swap` or `swap_all` that raises `StoreUnavailableError` may have taken effect all the same: read again.

    `remote` is true for a store behind a network: an answer takes milliseconds, or seconds when the network or the store
    is in trouble.  Such a store keeps the claims of a process only while it hears from that process, and ends claims by
    its own clock.

    `contact_timeout` is the seconds without an answer after which such a store has ended the claims of a process.

    `has_tickets` is false for a store that keeps none: waiters there are served in no particular order.

    `serves_queue` is true for a store that keeps claims and tickets together: a grant removes the ticket of its session, and
    each change wakes the waiter that it concerns, by its alarm.  In any other, the caller removes the ticket and calls `wake`.
    It counts the tickets of all namespaces together, so that their numbers can be compared.

    `has_places` is false for a store that cannot hold files and branches: other programs use it, and see no overlap.
    """

    remote: bool
    has_tickets: bool
    serves_queue: bool
    has_places: bool

    @property
    def contact_timeout(self) -> float | None: ...

    @property
    def history(self) -> History | None:
        """Where it writes what it changes; `None` for a store that ends with its process."""

    def read(self, scoped: ScopedKey) -> Found:
        """Return what is stored, without waiting for a lock."""

    def read_all(self, keys: Sequence[ScopedKey]) -> list[Found]:
        """Return what is stored for each key, without waiting for a lock; on a remote store in few requests."""

    def fingerprint(self, scoped: ScopedKey) -> object:
        """Return what differs, for less than a `read`, once the record has changed; `None` where only reading shows it."""

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swap:
        """Store *new* (`None` removes) if and only if *old* is what is stored.

        A *new* claim of generation 0 is a new grant: the store gives it a generation higher than that of any earlier
        grant of this key, removed ones included, in the place of any member as well.  The swap is lost if *gives_way* is true for the tickets that are stored at
        that moment; a store that `serves_queue` asks it nothing, and loses the swap while anybody has a ticket for the key,
        or for a file that overlaps.  On a file it is lost, too, if *blocks* is true for any record that `overlapping` would
        yield: no two swaps that are given *blocks* are both won on files that overlap.
        """

    def swap_all(
        self,
        changes: Sequence[Change],
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swaps:
        """Do what `swap` does for each of *changes*, at most `MAX_CHANGES`, each of another key: all of them or none.

        The keys may be in several namespaces, and *gives_way* receives the tickets of all of these.  *blocks* is not asked
        about the records of these keys themselves.  A reader may see the first changes made and the others not yet, but
        never a key free that is held before and after.  A store without places takes one change only, and raises
        `InvalidInputError` for more.
        """

    def overlapping(self, scoped: ScopedKey) -> Iterator[Claim | Unreadable]:
        """Yield what is stored for the other file keys that overlap with the file key *scoped*, dead claims included.

        Of a key that several hold, those are its members, not the head.  A record that may be about such a key counts: one that cannot be read, under a name that does not say its key.
        """

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        """Remove *found* if and only if it is still what is stored there; return whether it was."""

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        """Return the 32 bytes that only the users of this store know; the first call makes them."""

    def scan(self, namespace: str | None = None, after: str = "", since: float = inf) -> Iterator[Claim | Unreadable]:
        """Yield what is stored behind the position *after*, in the order of `position`, in one namespace or in all.

        A change that is made meanwhile may be seen or not.  Claims before *after* are not read.  A claim that was first
        made after *since* (`time.monotonic`) may be left out: a walk in pages that began then needs no new list of names
        for each page.
        """

    def names(self, namespace: str, limit: int) -> Iterable[str]:
        """Yield keys of *namespace*, of at most *limit* claims, as far as they are known without reading any.

        A store that would have to read them, or to ask over a network, yields none.
        """

    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        """Call *notify*, from any thread, whenever a key, a namespace or anything (`None`) may have changed.

        Yields whether changes can be watched now.  A notification can be lost, so poll now and then as well.
        """

    def tickets(self, target: ScopedKey | str | None) -> tuple[Ticket, ...]:
        """Return the tickets of those who wait, in their order, without waiting for a lock.

        Those in a namespace, or all (`None`); for a key at least those for that key.
        """

    def change_tickets(
        self, target: ScopedKey | str, change: TicketChange, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> tuple[Ticket, ...]:
        """Replace the tickets of a namespace, or at least those for a key, by what *change* makes of them; return them.

        A ticket of number 0 is new: the store gives it a number higher than all others.  *change* may be called again if
        somebody else changes them meanwhile.
        """

    def alarm(self, ticket: Ticket, notify: Callable[[], None]) -> AbstractContextManager[Alarm | None]:
        """Let `wake` wake the caller, who has *ticket*: it calls *notify*, from any thread, or makes the alarm readable.

        Yields `None` if there is nothing that can become readable.
        """

    def wake(self, ticket: Ticket) -> bool:
        """Wake the waiter that has *ticket*, of whatever process; return whether it may have heard that."""

    def position(self, found: Claim | Unreadable) -> str:
        """Return the place of *found* in a `scan`: a text greater than that of everything yielded before it."""

    def close(self, *, within: float) -> None:
        """Free, within *within* seconds, what the store keeps only while this process lives; never raises.

        The store frees the rest once it has not heard from the process for some time.  A store on this machine has
        nothing to free.
        """


_CALL_DEADLINE: ContextVar[float | None] = ContextVar("call_before", default=None)


def call_before(until: float, call: Callable[[], T]) -> T:
    """Return `call()`; every request to a remote store in it succeeds or fails by *until* (`time.monotonic`).

    One deadline for a whole call, however many requests it takes; it replaces that of an enclosing call.
    """
    # In a context of its own: a Ctrl-C between the set and its undoing would leave the thread a deadline that has passed,
    # and every later request would fail.
    context = copy_context()
    context.run(_CALL_DEADLINE.set, until)
    return context.run(call)


def deadline_in(seconds: float) -> float:
    """Return the time (`time.monotonic`) in *seconds*, or that of `call_before` if it is sooner."""
    until, limit = time.monotonic() + seconds, _CALL_DEADLINE.get()
    return until if limit is None else min(until, limit)


def check_changes(changes: Sequence[Change]) -> None:
    """Raise `ValueError` unless *changes* are for one `swap_all`: two changes of one key have no order."""
    if not 1 <= len(changes) <= MAX_CHANGES or len({change.scoped for change in changes}) < len(changes):
        raise ValueError(f"swap_all takes 1 to {MAX_CHANGES} changes, each of another key")


def holders_of(
    head: Claim, read_all: Callable[[Sequence[ScopedKey]], list[Found]]
) -> tuple[Found, dict[ScopedKey, Found]]:
    """Return what is stored in the place of each member of *head*, and the head as it is then.

    If the key is no longer held by several, that is what is stored for it instead, without members.
    """
    while True:
        members = dict(zip(head.places, read_all(head.places), strict=True))
        if None not in members.values():
            return head, members
        # A session that held it with others may hold it alone now: it must not be found free in between.
        (again,) = read_all([head.scoped])
        if again == head:
            return head, members
        if not is_head(again):
            return again, {}
        head = again


def without_head(
    found: Claim | Unreadable, read_all: Callable[[Sequence[ScopedKey]], list[Found]]
) -> list[Claim | Unreadable]:
    """Return *found*; if it is the head of a key that several hold, what is stored in the places of these."""
    if not is_head(found):
        return [found]
    again, members = holders_of(found, read_all)
    each = members.values() if members else (again,)
    return [one for one in each if one is not None]


def first_overlap(
    changes: Sequence[Change],
    blocks: Blocks,
    overlapping: Callable[[ScopedKey], Iterable[Claim | Unreadable]],
    passed: list[Claim] | None = None,
) -> Claim | Unreadable | None:
    """Return the first record, not of *changes* themselves, that is in the way of a claim on files; the caller excludes others.

    The claims that are not in the way are added to *passed*.
    """
    changed = {change.scoped for change in changes}
    for change in changes:
        for found in overlapping(change.scoped.base) if change.claims_files else ():
            if isinstance(found, Claim) and found.scoped in changed:
                continue
            if blocks(found):
                return found
            if passed is not None and isinstance(found, Claim):
                passed.append(found)
    return None
