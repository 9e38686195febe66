"""The place of a session among those who wait for a key: taking it, keeping it, and waking whoever is next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from threading import RLock

from mcp_claims.errors import StoreBusyError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, tickets
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Holder, ScopedKey, Ticket
from mcp_claims.stores.base import LOCK_TIMEOUT, Store, TicketChange

_STORE_ERRORS = (StoreUnavailableError, StoreBusyError, UnsafeDirectoryError)
_MAX_CYCLE = 100


class WaitQueue:
    """The tickets of one session; *holder* returns it as it is now.  Thread-safe.

    What fails here costs a place or a wake-up, after which waiters look for themselves every few seconds; so errors of the
    store are not raised.
    """

    def __init__(self, store: Store, machine: Machine, holder: Callable[[], Holder]) -> None:
        self._store, self._machine, self._holder = store, machine, holder
        # The keys for which the session may have a ticket, and how many of its calls wait for each.
        self._waits: dict[ScopedKey, int] = {}
        self._lock = RLock()

    def keys(self) -> list[ScopedKey]:
        """Return the keys for which the session may have a ticket."""
        with self._lock:
            return list(self._waits)

    def waits_for(self, scoped: ScopedKey) -> bool:
        """Return whether the session may have a ticket for *scoped*."""
        return scoped in self._waits

    def join(self, scoped: ScopedKey, wait_seconds: float) -> Ticket | None:
        """Return the session's ticket for *scoped*, a new one if it has none; `None` where there are no tickets.

        The caller calls `end_wait` in the end.
        """
        holder, now = self._holder(), self._machine.now()

        def join(found: tuple[Ticket, ...]) -> tuple[Ticket, ...]:
            current = tickets.current(found, now, self._machine.provably_dead)
            after = tickets.joined(current, scoped, holder, now, timedelta(seconds=wait_seconds))
            return after if len(after) <= tickets.MAX_TICKETS else current

        with self._lock:
            self._waits[scoped] = self._waits.get(scoped, 0) + 1
        return tickets.place_of(self._change(scoped, join, LOCK_TIMEOUT), scoped, holder, now)

    def end_wait(self, scoped: ScopedKey, *, keeps_place: bool) -> None:
        """End a wait that began with `join`; unless it *keeps_place* or another call waits, give up the place."""
        with self._lock:
            if scoped not in self._waits:
                return
            self._waits[scoped] -= 1
            others = self._waits[scoped] > 0
        if not others and not keeps_place:
            self.leave(scoped)

    def end(self, scoped: ScopedKey, lock_timeout: float, *, everywhere: bool) -> None:
        """End all waits of the session for *scoped*, which it has just been granted; *everywhere*: in other processes, too."""
        if self._store.serves_queue:
            self._forget(scoped)
        elif everywhere or scoped in self._waits:
            with suppress(*_STORE_ERRORS):
                self.give_up(scoped, lock_timeout)
            self.wake_next(scoped)

    def leave(self, scoped: ScopedKey, lock_timeout: float = LOCK_TIMEOUT) -> None:
        """Give up the session's place for *scoped*, if it has one, and wake whoever is next."""
        if scoped not in self._waits:
            return
        with suppress(*_STORE_ERRORS):
            self.give_up(scoped, lock_timeout)
        self.wake_next(scoped)

    def give_up(self, scoped: ScopedKey, lock_timeout: float = LOCK_TIMEOUT) -> None:
        """Give up the session's place for *scoped*, also one that it took in another process; raises what the store does.

        A place that outlives its reservation gets the key reserved for it again.
        """
        with self._lock:
            self._waits.setdefault(scoped, 0)  # If this fails, the release and the end of the session try again.
        if self._store.has_tickets:
            self._store.change_tickets(
                scoped, lambda found: tickets.left(found, scoped, self._holder()), lock_timeout=lock_timeout
            )
        self._forget(scoped)

    def is_waited_for(self, scoped: ScopedKey) -> bool:
        """Return whether a call of the session waits for *scoped* just now."""
        with self._lock:
            return self._waits.get(scoped, 0) > 0

    def _forget(self, scoped: ScopedKey) -> None:
        with self._lock:
            self._waits.pop(scoped, None)

    def lapse(self, reservation: Claim, lock_timeout: float) -> None:
        """Take the place from the session that has let *reservation* lapse; raises what the store does.

        Were that not to happen, the key would be reserved for it again and again.
        """
        if self._store.has_tickets:
            self._store.change_tickets(
                reservation.scoped.namespace,
                lambda found: tickets.lapsed(found, reservation),
                lock_timeout=lock_timeout,
            )

    def first_ahead(self, scoped: ScopedKey) -> Ticket | None:
        """Return the ticket that goes before all others, if it goes before this session."""
        return next(self._living(self._ahead(scoped)), None)

    def last_ahead(self, scoped: ScopedKey) -> Ticket | None:
        """Return the ticket right before that of this session."""
        return next(self._living(self._ahead(scoped)[::-1]), None)

    def wake_next(self, scoped: ScopedKey) -> Ticket | None:
        """Wake the first of those who wait for *scoped* that listens, unless the store does.

        If none listens, return the first that keeps its place.
        """
        if self._store.serves_queue:
            return None
        now = self._machine.now()
        waiting = [each for each in self._read(scoped) if scoped in each.keys and tickets.is_waiting(each, now)]
        if any(map(self._store.wake, waiting)):
            return None
        return next(self._living(waiting), None)

    def wake(self, ticket: Ticket) -> None:
        """Wake the waiter that has *ticket*."""
        self._store.wake(ticket)

    def find_cycle(self, scoped: ScopedKey) -> tuple[Claim, ...]:
        """Return the claims of a cycle that a wait of this session for *scoped* is part of, if it has to give way.

        The first claim is that on *scoped*; the holder of each waits for the key of the next, and the last belongs to this
        session.  Of the waits in the cycle the one that began last gives way.
        """
        own = self._holder().name
        all_tickets = self._read(None)
        now = self._machine.now()
        waiting: dict[str, list[Ticket]] = {}
        for ticket in all_tickets:
            if tickets.is_waiting(ticket, now):
                waiting.setdefault(ticket.holder.name, []).append(ticket)
        ours = next((each for each in waiting.get(own, []) if scoped in each.keys), None)
        if ours is None:
            return ()
        return self._path(scoped, own, waiting, ours, ())

    def _path(
        self, scoped: ScopedKey, own: str, waiting: dict[str, list[Ticket]], ours: Ticket, path: tuple[Claim, ...]
    ) -> tuple[Claim, ...]:
        """Return *path* and what leads from *scoped* back to session *own*, by waits that began before *ours*."""
        found = None
        with suppress(*_STORE_ERRORS):
            found = self._store.read(scoped)
        if not isinstance(found, Claim) or len(path) == _MAX_CYCLE or any(found == each for each in path):
            return ()
        if expiry.state_of(found, self._machine.now(), self._machine.provably_dead) is not ClaimState.HELD:
            return ()
        path = (*path, found)
        if is_same_session(found.holder.name, own):
            return path
        for ticket in waiting.get(found.holder.name, []):
            if _began(ticket) < _began(ours):
                for key in ticket.keys:
                    if cycle := self._path(key, own, waiting, ours, path):
                        return cycle
        return ()

    def _ahead(self, scoped: ScopedKey) -> list[Ticket]:
        return tickets.ahead_of(self._read(scoped), scoped, self._holder(), self._machine.now())

    def _living(self, found: list[Ticket]) -> Iterator[Ticket]:
        return (ticket for ticket in found if not self._machine.provably_dead(ticket.holder))

    def _read(self, target: ScopedKey | None) -> tuple[Ticket, ...]:
        with suppress(*_STORE_ERRORS):
            return self._store.tickets(target) if self._store.has_tickets else ()
        return ()

    def _change(self, scoped: ScopedKey, change: TicketChange, lock_timeout: float) -> tuple[Ticket, ...]:
        with suppress(*_STORE_ERRORS):
            if self._store.has_tickets:
                return self._store.change_tickets(scoped, change, lock_timeout=lock_timeout)
        return ()


def _began(ticket: Ticket) -> tuple[float, float, str]:
    """Return what orders waits in all namespaces alike, whichever session looks."""
    return ticket.taken.wall.timestamp(), ticket.taken.ticks, ticket.holder.name
