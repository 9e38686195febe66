"""Turns: keys that are reserved for sessions that wait, and what is in the way of a claim.

The rules are W1 to W8 of docs/design/waiting.md; `operations` claims, renews and releases.
"""

from __future__ import annotations

from contextlib import suppress

from mcp_claims.errors import SessionEndedError, StoreBusyError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import PLACES, conflict, is_file_key
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Found, Holder, Mode, Moment, ScopedKey, Ticket, Unreadable
from mcp_claims.session.held import HeldClaims
from mcp_claims.session.results import ClaimResult, Status, TakenOver
from mcp_claims.session.wait_queue import WaitQueue
from mcp_claims.stores.base import Blocks, Store, Swap

CLOSE_TIMEOUT = 0.2
"""Seconds that the end of a session waits for locks by default, in all."""


class Turns:
    """The turns of one session, *holder*, and those that it gives to others."""

    def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
        self._store, self._machine = store, machine
        self.holder = holder
        """The public name of the session and the process that it lives in."""
        self._held = HeldClaims(holder.name)
        self.queue = WaitQueue(store, machine, lambda: self.holder)
        """The session's places among those who wait."""
        self._closed = False

    def _put_reservation(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        replaced: Found,
        ticket: Ticket | None,
        now: Moment,
        lock_timeout: float,
    ) -> Swap:
        """Reserve *scoped* in the place of *old* for the session of *ticket*, or for this one; *replaced* comes back if it lapses."""
        served = self.holder if ticket is None else ticket.holder
        marker = replaced if isinstance(replaced, Claim) else None
        new = expiry.reserved(scoped, served, now, marker, self._state_of(marker, now))
        swap = self._store.swap(scoped, old, new, lock_timeout=lock_timeout, blocks=self._blocks(scoped, served))
        if swap.trace is not None and isinstance(swap.found, Claim):
            # Only the response says what the store had kept of the claim before.
            kept = swap.found._replace(replaced=swap.trace)
            swap = swap._replace(found=self._store.swap(scoped, swap.found, kept, lock_timeout=lock_timeout).found)
        if ticket is not None and swap.won and isinstance(swap.found, Claim):
            swap = swap._replace(found=self._unless_left(ticket, swap.found, lock_timeout))
        return swap

    def _decline(self, scoped: ScopedKey, found: Found, lock_timeout: float) -> bool:
        """Give back *found* if it is a reservation for this session; return whether it was."""
        now = self._machine.now()
        if not isinstance(found, Claim) or not self._is_for_us(found, scoped, now):
            return False
        # Before the key is free: the place that it came from must not get it again.
        self.queue.give_up(found.scoped, lock_timeout)
        swap = self._store.swap(found.scoped, found, expiry.uncovered(found, now), lock_timeout=lock_timeout)
        self._pass_on(found.scoped, swap.found)
        return swap.won

    def _pass_on(self, scoped: ScopedKey, found: Found) -> None:
        """Wake the next waiter for *scoped*, which is free; *found* is what is stored there now.

        A session that keeps its place between two calls cannot be woken: the key is reserved for it, so that it loses the
        key 60 s from now and not from the next call of another session.
        """
        absent = self.queue.wake_next(scoped)
        if absent is None or isinstance(found, Unreadable) or (found is not None and found.ended is None):
            return
        now = self._machine.now()
        if self._state_of(found, now) is ClaimState.DONE and scoped.namespace != PLACES:
            return
        with suppress(StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
            if (wanted := wanted_key(absent, scoped)) != scoped:
                found = self._store.read(wanted)
            if not isinstance(found, Unreadable) and (found is None or found.ended is not None):
                self._put_reservation(wanted, found, found, absent, now, 0)

    def _unless_left(self, ticket: Ticket, reservation: Claim, lock_timeout: float) -> Found:
        """Wake the session of *ticket*, for which the key has just been reserved; return what is stored then.

        It may have left since its ticket was read, and have looked for a reservation in vain.
        """
        if self.queue.wake(ticket):
            return reservation
        left = expiry.uncovered(reservation, self._machine.now())
        return self._store.swap(reservation.scoped, reservation, left, lock_timeout=lock_timeout).found

    def _your_turn(self, reservation: Claim, now: Moment) -> ClaimResult:
        # As in `_record`: either `close` finds the reservation, or we see here that it has begun.
        if self._closed:
            self._decline(reservation.scoped, reservation, CLOSE_TIMEOUT)
            raise SessionEndedError
        return ClaimResult(Status.YOUR_TURN, reservation, now)

    def _blocks(self, scoped: ScopedKey, holder: Holder) -> Blocks | None:
        """Return what is in the way of a claim of *holder* on *scoped*, if that is a file: claims on files that overlap.

        A claim that is dead is not.  Its holder may still renew it, so a renewal looks at the files that overlap, too.
        """
        if not is_file_key(scoped):
            return None
        now = self._machine.now()
        return lambda found: (
            not (isinstance(found, Claim) and is_same_session(found.holder.name, holder.name))
            and self._state_of(found, now) in (ClaimState.HELD, ClaimState.RESERVED)
        )

    def _held_files(self, scoped: ScopedKey) -> list[ScopedKey]:
        """Return what this session holds if *scoped* is a file, so that others may wait for it and overlap with *scoped*."""
        return self._held.keys() if is_file_key(scoped) else []

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

    def _state_of(self, found: Found, now: Moment) -> ClaimState:
        return expiry.state_of(found, now, self._machine.provably_dead)


def wanted_key(ticket: Ticket, scoped: ScopedKey) -> ScopedKey:
    """Return the key that *ticket* waits for and that conflicts with *scoped*: the same, or a file that overlaps."""
    return scoped if scoped in ticket.keys else next(each for each in ticket.keys if conflict(each, scoped))
