"""The place of a session among those that wait for a key: take it, keep it, and wake the next one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from threading import RLock
from typing import NamedTuple

from mcp_claims.errors import StoreBusyError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, tickets
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import ALONE, Claim, Holder, Moment, ScopedKey, Ticket, Use
from mcp_claims.session import heads
from mcp_claims.session.cycles import CycleSearch
from mcp_claims.stores.base import LOCK_TIMEOUT, Change, Store, Swap, TicketChange

_STORE_ERRORS = (StoreUnavailableError, StoreBusyError, UnsafeDirectoryError)
_MAX_KEYS_OF_A_TICKET = 32
"""On a store with one ticket a key: its transactions have a limit, and whoever waits for more tries again and again."""


class Place(NamedTuple):
    """Where a session stands among those that wait for a key.

    `has_ticket` is whether it has a ticket at all; `before` the ticket that has to go before it can be served, `None` for the
    first.  With `is_near` it can be served though `before` still stands, as one of those that are next for several slots.
    """

    has_ticket: bool
    before: Ticket | None
    is_near: bool


class WaitQueue:
    """The tickets of one session; *holder* returns it as it is now.  Thread-safe.

    Errors of the store are not raised unless a method says so: they cost a place or a wake-up, and waiters also try without
    one every few seconds.
    """

    def __init__(self, store: Store, machine: Machine, holder: Callable[[], Holder]) -> None:
        self._store, self._machine, self._holder = store, machine, holder
        # The keys for which the session may have a ticket, and how many of its calls wait for each.
        self._waits: dict[ScopedKey, int] = {}
        # By the first of them, the keys for which a call waits together: each of them can be reserved for the session.
        self._choices: dict[ScopedKey, tuple[ScopedKey, ...]] = {}
        self._lock = RLock()

    def keys(self) -> list[ScopedKey]:
        """Return the keys for which the session may have a ticket."""
        with self._lock:
            return list(dict.fromkeys(each for scoped in self._waits for each in self.choices(scoped)))

    def choices(self, scoped: ScopedKey) -> tuple[ScopedKey, ...]:
        """Return the keys that the wait for *scoped* is for: that one alone, or all that it joined with."""
        return self._choices.get(scoped, (scoped,))

    def beside(self, scoped: ScopedKey) -> list[ScopedKey]:
        """Return the keys of all waits for several keys of which *scoped* is one."""
        return [key for keys in list(self._choices.values()) if scoped in keys for key in keys]

    def waits_for(self, scoped: ScopedKey) -> bool:
        """Return whether the session may have a ticket for *scoped*."""
        return scoped in self._waits or bool(self.beside(scoped))

    def join(
        self,
        scoped: ScopedKey,
        wait_seconds: float,
        others: tuple[ScopedKey, ...] = (),
        *,
        any_of_them: bool = False,
        use: Use = ALONE,
    ) -> Ticket | None:
        """Return the session's ticket for *scoped* and *others*, a new one if it has none; `None` where there are no tickets.

        It is for all of them, or for any, each in the way *use*.  The wait lasts until `end_wait`, which needs only *scoped*, as all other methods do.
        """
        with self._lock:
            self._waits[scoped] = self._waits.get(scoped, 0) + 1
        return self.rejoin(scoped, wait_seconds, others, any_of_them=any_of_them, use=use)

    def rejoin(
        self,
        scoped: ScopedKey,
        wait_seconds: float,
        others: tuple[ScopedKey, ...] = (),
        *,
        any_of_them: bool = False,
        use: Use = ALONE,
    ) -> Ticket | None:
        """Return what `join` does, for a wait that goes on although it has lost its place."""
        keys = (scoped, *others)
        with self._lock:
            self._waits.setdefault(scoped, 1)  # Else nobody would give up the place at the end of the wait.
            if others:
                self._choices[scoped] = keys
        if self._store.serves_queue and len(keys) > _MAX_KEYS_OF_A_TICKET:
            return None
        holder, now, wait = self._holder(), self._machine.now(), timedelta(seconds=wait_seconds)

        def join(found: tuple[Ticket, ...]) -> tuple[Ticket, ...]:
            current = tickets.current(found, now, self._machine.provably_dead)
            after = tickets.joined(current, keys, holder, now, wait, any_of_them=any_of_them, use=use)
            return after if len(after) <= tickets.MAX_TICKETS else current

        return tickets.ticket_of(self._change(scoped, join, LOCK_TIMEOUT), scoped, holder, now)

    def end_wait(self, scoped: ScopedKey, *, keeps_place: bool) -> bool:
        """End a wait that began with `join`; unless it *keeps_place* or another call waits, give up the place.

        Return whether it was given up.
        """
        with self._lock:
            if scoped not in self._waits:
                return False
            self._waits[scoped] -= 1
        if self.is_waited_for(scoped):
            return False
        if keeps_place:
            # The wake-up may have come after the last attempt: were it not passed on, all would wait for their next poll.
            self.wake_next(scoped)
        else:
            self.leave(scoped)
        return not keeps_place

    def end(self, scoped: ScopedKey, lock_timeout: float, *, everywhere: bool) -> None:
        """End the session's waits for *scoped*, which it has just been granted; with *everywhere* in other processes too."""
        if self._store.serves_queue and scoped not in self._choices:
            self._forget(scoped)
        elif everywhere or scoped in self._waits:
            keys = self.choices(scoped)
            with suppress(*_STORE_ERRORS):
                self.give_up(scoped, lock_timeout)
            for key in keys:
                self.wake_next(key)

    def leave(self, scoped: ScopedKey, lock_timeout: float = LOCK_TIMEOUT) -> None:
        """Give up the session's place for *scoped*, if it has one, and wake the next one."""
        if scoped not in self._waits:
            return
        keys = self.choices(scoped)
        with suppress(*_STORE_ERRORS):
            self.give_up(scoped, lock_timeout)
        for key in keys:
            self.wake_next(key)

    def give_up(self, scoped: ScopedKey, lock_timeout: float = LOCK_TIMEOUT) -> None:
        """Give up the session's place for *scoped*, also one that it took in another process.  Raises what the store raises.

        A place that outlives its reservation gets the key reserved for it again.
        """
        with self._lock:
            self._waits.setdefault(scoped, 0)  # If this fails, the release and the end of the session try again.
            # A grant of this key alone may have taken away what a store keeps of the ticket beside it.
            target = scoped.namespace if scoped in self._choices else scoped
        if self._store.has_tickets:
            self._store.change_tickets(
                target, lambda found: tickets.left(found, scoped, self._holder()), lock_timeout=lock_timeout
            )
        self._forget(scoped)

    def is_waited_for(self, scoped: ScopedKey) -> bool:
        """Return whether a call of the session waits for *scoped* just now."""
        with self._lock:
            return self._waits.get(scoped, 0) > 0

    def _forget(self, scoped: ScopedKey) -> None:
        with self._lock:
            self._waits.pop(scoped, None)
            self._choices.pop(scoped, None)

    def first_ahead(
        self,
        scoped: ScopedKey,
        held: Callable[[], Collection[ScopedKey]] = tuple,
        also: tuple[ScopedKey, ...] = (),
        use: Use = ALONE,
        served: Collection[str] = (),
    ) -> Ticket | None:
        """Return the ticket to serve before this session gets *scoped* and *also*; `None` if it goes first.

        Those of the sessions *served* do not count, which have what they wait for.  This session does not give way to one
        that waits for a key of *held*: each would wait for the other for ever.
        """
        found, keys = self._read(scoped.namespace if also else scoped), (scoped, *also)
        counts = partial(_is_given_way, served, held)
        first = self._first_before(self._holder(), keys, use, found, counts)
        # One that would share the key with this session may go before that one.  Only by what is asked for here: to follow
        # the other keys of a set would let this session wait for whoever holds those, in a cycle that nobody sees.
        asked = [each for each in found if tickets.wants(each, *keys)]
        while first is not None and (before := self._first_before(first.holder, first.keys, first.use, asked, counts)):
            first = before
        return first

    def is_behind(
        self,
        scoped: ScopedKey,
        held: Callable[[], Collection[ScopedKey]],
        also: tuple[ScopedKey, ...],
        use: Use,
        served: Collection[str],
        found: tuple[Ticket, ...],
    ) -> bool:
        """Return whether a living session with a ticket in *found* goes before this one, which holds the keys *held*.

        Tickets of other namespaces do not count: their numbers cannot be compared.
        """
        own = [each for each in found if each.keys[0].namespace == scoped.namespace]
        counts = partial(_is_given_way, served, held)
        return bool(own) and self._first_before(self._holder(), (scoped, *also), use, own, counts) is not None

    def read_all(self) -> tuple[Ticket, ...]:
        """Return the tickets of all namespaces; none if they cannot be read."""
        return self._read(None)

    def place(
        self,
        scoped: ScopedKey,
        found: tuple[Ticket, ...] | None = None,
        also: tuple[ScopedKey, ...] = (),
        served: Collection[str] = (),
    ) -> Place:
        """Return where this session stands among those that wait for *scoped* or *also*.

        *found* is what `read_all` has just returned.  The tickets of the sessions *served* do not count.
        """
        holder, now = self._holder(), self._machine.now()
        found = self._read(scoped.namespace if also else scoped) if found is None else found
        own = tickets.ticket_of(found, scoped, holder, now)
        # Not by the keys of the ticket: another call of the session may have put one for others in its place.
        others, use = ((), ALONE) if own is None else (also, own.use)
        ahead = tickets.ahead_of(found, scoped, holder, now, others, use)
        waiting = [each for each in self._living(ahead[::-1]) if each.holder.name not in served]
        # With n slots n can be next.  Twice as many count, since some may let the others go by before they take their turn.
        count = 2 * use.slots if use.slots and self._store.serves_queue else 1
        is_near = len(waiting) < count
        before = waiting[0 if is_near else count - 1] if waiting else None
        return Place(own is not None, before, is_near)

    def wake_next(self, scoped: ScopedKey) -> Ticket | None:
        """Wake the first waiter for *scoped* that has its alarm open, unless the store wakes it.

        If none has, return the first ticket of a session that keeps its place.
        """
        if self._store.serves_queue:
            return None
        now = self._machine.now()
        waiting = [each for each in tickets.wanting(self._read(scoped), scoped) if tickets.is_waiting(each, now)]
        absent, woken = None, False
        # Only the living: the alarm of a dead process may still be open in a child that it has forked.
        for ticket in self._living(waiting):
            woken = self._store.wake(ticket) or woken
            # Of those who wait for overlapping files several can be next.
            if woken and ticket.keys == (scoped,):
                return None
            absent = absent or ticket
        return None if woken else absent

    def wake(self, ticket: Ticket) -> bool:
        """Wake the waiter that has *ticket*; return whether it still has its place, as far as that can be known."""
        self._store.wake(ticket)
        # Another process of its session may have been granted some of its keys, and its ticket for those is gone.
        first, *others = ticket.keys
        return not self.has_left(ticket, self._read(first.namespace if others else first))

    def dismiss(self, ticket: Ticket) -> None:
        """Take *ticket* from a session that need not wait any more."""
        scoped = ticket.keys[0]
        self._change(scoped, lambda found: tickets.left(found, scoped, ticket.holder), LOCK_TIMEOUT)
        self._store.wake(ticket)

    def has_left(self, ticket: Ticket, found: tuple[Ticket, ...]) -> bool:
        """Return whether the waiter that had *ticket* has none among *found*."""
        return not any(
            (each.number, each.keys) == (ticket.number, ticket.keys)
            and is_same_session(each.holder.name, ticket.holder.name)
            for each in found
        )

    def find_cycle(self, scoped: ScopedKey, found: tuple[Ticket, ...] | None = None) -> tuple[Claim, ...]:
        """Return the claims of a cycle of waits that this session's wait for *scoped* is in, if that wait has to give way.

        See `CycleSearch`.  *found* is what `read_all` has just returned.
        """
        search = CycleSearch(self._store, self._machine, self.read_all() if found is None else found)
        return search.find(scoped, self._holder().name, self.read_all)

    def _first_before(
        self,
        holder: Holder,
        keys: tuple[ScopedKey, ...],
        use: Use,
        found: Sequence[Ticket],
        counts: Callable[[Ticket], bool],
    ) -> Ticket | None:
        """Return the first of *found* that goes before *holder*, which wants *keys*, of the living that count."""
        ahead = tickets.ahead_of(found, keys[0], holder, self._machine.now(), keys, use)
        return next((each for each in self._living(ahead) if counts(each)), None)

    def _living(self, found: list[Ticket]) -> Iterator[Ticket]:
        return (ticket for ticket in found if not self._machine.provably_dead(ticket.holder))

    def _read(self, target: ScopedKey | str | None) -> tuple[Ticket, ...]:
        with suppress(*_STORE_ERRORS):
            return self._store.tickets(target) if self._store.has_tickets else ()
        return ()

    def _change(self, scoped: ScopedKey, change: TicketChange, lock_timeout: float) -> tuple[Ticket, ...]:
        with suppress(*_STORE_ERRORS):
            if self._store.has_tickets:
                return self._store.change_tickets(scoped, change, lock_timeout=lock_timeout)
        return ()


def end_reservation(store: Store, reservation: Claim, now: Moment, lock_timeout: float) -> Swap:
    """Put back what *reservation* replaced, and note that its session has let its turn lapse, which costs it its place.

    Raises what the store raises.  If the lapse cannot be noted nothing is changed: the key would be reserved for the same
    session again and again.
    """
    scoped = reservation.scoped
    if store.has_tickets:
        store.change_tickets(scoped.base, lambda found: tickets.lapsed(found, reservation), lock_timeout=lock_timeout)
    change = Change(scoped, reservation, expiry.uncovered(reservation, now), found_dead=True)
    return heads.swap(store, [change], lambda: now, lock_timeout=lock_timeout).only


def _is_given_way(served: Collection[str], held: Callable[[], Collection[ScopedKey]], ticket: Ticket) -> bool:
    """Return whether a session that holds the keys *held* gives way to *ticket*, unless that is of one of *served*."""
    return ticket.holder.name not in served and not tickets.wants(ticket, *held())
