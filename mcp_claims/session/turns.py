"""Turns: keys that are reserved for sessions that wait, and what is in the way of a claim.

The rules are W1 to W8 of docs/design/waiting.md; `operations` claims, renews and releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from mcp_claims.errors import SessionEndedError, StoreBusyError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import PLACES, conflict
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Found, Holder, Mode, Moment, ScopedKey, Ticket, Unreadable, Use, is_head
from mcp_claims.session.held import HeldClaims
from mcp_claims.session.members import Members
from mcp_claims.session.results import ClaimResult, Status, TakenOver
from mcp_claims.session.wait_queue import WaitQueue, end_reservation
from mcp_claims.stores.base import Change, Store, Swaps

CLOSE_TIMEOUT = 0.2
"""Seconds that the end of a session waits for locks by default, in all."""


class Turns(Members):
    """The turns of one session, *holder*, and those that it gives to others."""

    def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
        super().__init__(store, holder, machine)
        self._held = HeldClaims(holder.name, store.history)
        self.queue = WaitQueue(store, machine, lambda: self.holder)
        """The session's places among those who wait."""
        self._closed = False

    def _serve(
        self, ticket: Ticket, known: Mapping[ScopedKey, Found], now: Moment, lock_timeout: float
    ) -> Claim | Unreadable | None:
        """Reserve the keys of *ticket* for its session, all or none; return the claim in the way if there is one.

        *known* is what has just been read.  `None` means that they are reserved, or that something has changed.
        """
        first = ticket.keys[0]
        if not ticket.any and self._is_done(known[first] if first in known else self._store.read(first), now):
            # Its session keeps its place for work that is done, and will be told so.
            self.queue.dismiss(ticket)
            return None
        changes: list[Change] = []
        kept: Claim | None = None
        wanted = ticket.keys
        if ticket.any:
            wanted = tuple(key for key in ticket.keys if any(conflict(key, other) for other in known))[:1]
        if ticket.use.mode is not Mode.ALONE:
            return self._serve_members(ticket, known, now, lock_timeout)
        for key in wanted:
            found = known[key] if key in known else self._store.read(key)
            if is_head(found):
                holders = self._holders(found, now, lock_timeout)
                return None if holders is None else holders[0]
            state = self._state_of(found, now)
            if found is not None and state.in_force:
                if not isinstance(found, Claim) or not is_same_session(found.holder.name, ticket.holder.name):
                    return found
                kept = found
                continue
            if isinstance(found, Unreadable):
                self._store.discard(found, lock_timeout=lock_timeout)
                return None
            if found is not None and found.mode is Mode.RESERVED and found.ended is None:
                end_reservation(self._store, found, now, lock_timeout)
                return None
            group = wanted if len(wanted) > 1 else ()
            new = expiry.reserved(key, ticket.holder, now, found, state)._replace(group=group)
            changes.append(Change(key, found, new))
        # Whoever has all that it waits for is in the way itself.
        return self._put_reservations(changes, ticket, ticket.holder, lock_timeout).overlap if changes else kept

    def _serve_members(
        self, ticket: Ticket, known: Mapping[ScopedKey, Found], now: Moment, lock_timeout: float
    ) -> Claim | Unreadable | None:
        """Do what `_serve` does for a session that waits for a slot, or for keys that it would share."""
        changes: list[Change] = []
        found_at: dict[ScopedKey, Found] = {}
        kept: Claim | None = None
        for key in ticket.keys:
            found = found_at[key] = known[key] if key in known else self._store.read(key)
            seen = self._see(key, found, ticket.use, ticket.holder, now, lock_timeout)
            if seen is None:
                return None
            if seen.own is not None:
                kept = seen.own
            elif seen.in_the_way:
                return seen.in_the_way[0]
            else:
                new = self._reservation(seen.place, found, ticket.use, ticket.holder, now)
                changes.append(Change(seen.place, seen.old, new))
        group = tuple(change.scoped for change in changes) if len(ticket.keys) > 1 else ()
        changes = [change._replace(new=change.new and change.new._replace(group=group)) for change in changes]
        if not changes:
            return kept
        return self._put_reservations(changes, ticket, ticket.holder, lock_timeout, found_at).overlap

    def _reservation(self, place: ScopedKey, found: Found, use: Use, holder: Holder, now: Moment) -> Claim:
        """Return the reservation of *place* for the session of *holder*; *found* is what stands at the key itself."""
        left = self._left_at(found, now)
        replaced = left.found if left is not None and isinstance(left.found, Claim) else None
        new = expiry.reserved(place, holder, now, replaced, self._state_of(replaced, now))
        return expiry.in_place(new, use)

    def _put_reservations(
        self,
        changes: Sequence[Change],
        ticket: Ticket | None,
        holder: Holder,
        lock_timeout: float,
        known: Mapping[ScopedKey, Found] | None = None,
    ) -> Swaps:
        """Make *changes*, which reserve keys for *holder*, all or none; unless its session, that of *ticket*, has left.

        They were decided by what is *known* of the heads.
        """
        gives_way = None
        namespaces = {change.scoped.namespace for change in changes}
        if ticket is not None and ticket.keys[0].namespace in namespaces and not self._store.serves_queue:
            # Asked at the moment of the write: a session that has just been served and comes again would overtake all.
            gives_way = partial(self.queue.has_left, ticket)
        swaps = self._swap(changes, holder, lock_timeout, gives_way, known)
        reserved = [found for found in swaps.found if isinstance(found, Claim)] if swaps.won else []
        for claim, trace in zip(reserved, swaps.traces, strict=False):
            if trace is not None:
                # Only the response says what the store had kept of the claim before.
                kept = claim._replace(replaced=trace)
                self._swap_one(Change(claim.scoped, claim, kept), lock_timeout)
        # It may have left since, and have looked for a reservation in vain.
        if reserved and ticket is not None and not self.queue.wake(ticket):
            for scoped in [claim.scoped for claim in reserved]:
                found = self._store.read(scoped)
                if isinstance(found, Claim) and found.mode is Mode.RESERVED and found.holder == ticket.holder:
                    left = expiry.uncovered(found, self._machine.now())
                    self._swap_one(Change(scoped, found, left), lock_timeout)
        return swaps

    def _decline(self, scoped: ScopedKey, found: Found, lock_timeout: float) -> bool:
        """Give back *found* if it is a reservation for this session, with all of that turn; return whether it was one."""
        now = self._machine.now()
        if not isinstance(found, Claim) or not self._is_for_us(found, scoped, now):
            return False
        # Another key may have become free too, of those for any of which it waited.
        keys = (*(found.group or (scoped,)), *self.queue.beside(found.scoped.base))
        # Before the key is free: the place that it came from must not get it again.
        self.queue.give_up(found.scoped.base, lock_timeout)
        won = False
        for key, reserved in self._read_all(tuple(dict.fromkeys(keys))).items():
            if isinstance(reserved, Claim) and self._is_for_us(reserved, key, now):
                swap = self._swap_one(Change(key, reserved, expiry.uncovered(reserved, now)), lock_timeout)
                self._pass_on(key, swap.found)
                won = won or swap.won
        return won

    def _decline_all(self, keys: Sequence[ScopedKey], lock_timeout: float) -> None:
        """Give back what is reserved for this session of *keys*.  Raises nothing: what cannot be given back lapses."""
        with suppress(StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
            for key, found in self._read_all(keys).items():
                own = self._own_member(found)
                self._decline(key if own is None else own.scoped, found if own is None else own, lock_timeout)

    def _pass_on(self, scoped: ScopedKey, found: Found) -> None:
        """Wake the next waiter for *scoped*, which is free, or was in that place; *found* is what is stored there now.

        A session that keeps its place between two calls cannot be woken: the key is reserved for it, so that it loses the
        key 60 s from now and not from the next call of another session.
        """
        absent = self.queue.wake_next(scoped.base)
        if absent is None or isinstance(found, Unreadable) or (found is not None and found.ended is None):
            return
        now = self._machine.now()
        if not self._is_done(found, now):
            with suppress(StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
                known = {scoped: found} if scoped.member is None else {scoped.base: self._store.read(scoped.base)}
                self._serve(absent, known, now, 0)

    def _is_done(self, found: Found, now: Moment) -> bool:
        """Return whether *found* says that the work on its key is done, so that nobody is to begin it.

        Never so for a file or a branch, nor for a key that was held beside another one: the next one is told how it ended.
        """
        return (
            isinstance(found, Claim)
            and found.ended is not None  # What is held is not asked a second time whether its holder lives.
            and self._state_of(found, now) is ClaimState.DONE
            and found.mode is Mode.ALONE
            and found.scoped.namespace != PLACES
            and (not found.group or found.group[0] == found.scoped)
        )

    def _your_turn(self, reservation: Claim, now: Moment) -> ClaimResult:
        # As in `_record`: either `close` finds the reservation, or we see here that it has begun.
        if self._closed:
            self._decline(reservation.scoped, reservation, CLOSE_TIMEOUT)
            raise SessionEndedError
        return ClaimResult(Status.YOUR_TURN, reservation, now)

    def _is_for_us(self, found: Claim, scoped: ScopedKey, now: Moment) -> bool:
        """Return whether *found* is a reservation of *scoped* for this session that has not lapsed."""
        return (
            found.mode is Mode.RESERVED
            and found.scoped == scoped
            and is_same_session(found.holder.name, self.holder.name)
            and not expiry.is_expired(found, now)
        )

    def _replaced(self, reservation: Claim, now: Moment) -> TakenOver | None:
        """Return the marker that *reservation* replaced, which is the next holder's to know."""
        marker = reservation.replaced
        return None if marker is None else TakenOver(marker, self._state_of(marker, now))
