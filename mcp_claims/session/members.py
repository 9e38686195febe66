"""Who holds a key, one session or several, as a session sees it, and changes with those of the heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from mcp_claims.liveness import Machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import is_file_key
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import ALONE, Claim, Found, Holder, Mode, Moment, ScopedKey, Unreadable, Use, is_head
from mcp_claims.session import heads
from mcp_claims.session.results import TakenOver
from mcp_claims.session.wait_queue import end_reservation
from mcp_claims.stores.base import LOCK_TIMEOUT, Blocks, Change, GivesWay, Store, Swap, Swaps, holders_of

_LAST = timedelta.max


class Sight(NamedTuple):
    """How a session finds a key that it asks for in a way that several can have: the *place* that it would get.

    `old` is what is there; `own` the claim or the reservation that it has already.  `holders` are all who are in.
    """

    place: ScopedKey
    old: Claim | None = None
    own: Claim | None = None
    in_the_way: tuple[Claim | Unreadable, ...] = ()
    holders: tuple[Claim | Unreadable, ...] = ()


class Members:
    """What the session of *holder* sees in *store*."""

    def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
        self._store, self._machine = store, machine
        self.holder = holder
        """The public name of the session and the process that it lives in."""

    def _see(
        self, scoped: ScopedKey, found: Found, use: Use, holder: Holder, now: Moment, lock_timeout: float
    ) -> Sight | None:
        """Return how a session of *holder* that asks for *scoped* in the way *use*, shared or a slot, finds it.

        *found* is what is stored there.  `None` means that something dead was removed: look again.
        """
        if isinstance(found, Unreadable) or (isinstance(found, Claim) and not found.members):
            state = self._state_of(found, now)
            is_turn = state is ClaimState.RESERVED and is_of(found, holder)
            if state.in_force and not is_turn:
                return Sight(scoped, in_the_way=(found,))
            if isinstance(found, Unreadable):
                self._store.discard(found, lock_timeout=lock_timeout)
                return None
            if found.mode is Mode.RESERVED and found.ended is None and not is_turn:
                end_reservation(self._store, found, now, lock_timeout)
                return None
        holders: tuple[Claim | Unreadable, ...] = ()
        if is_head(found):
            if (live := self._holders(found, now, lock_timeout)) is None:
                return None
            holders = tuple(live)
            if found.use != use:
                return Sight(scoped, in_the_way=holders)
            own = next((each for each in holders if is_of(each, holder)), None)
            if isinstance(own, Claim):
                return Sight(own.scoped, own, own, holders=holders)
        if use.slots is None:
            place = scoped.place(heads.shared_member(holder))
        else:
            taken = found.members if isinstance(found, Claim) else ()
            free = next((str(slot) for slot in range(use.slots) if str(slot) not in taken), None)
            if free is None:
                return Sight(scoped, in_the_way=holders)
            place = scoped.place(free)
        # What was revoked there, or what a store has kept of a claim that it has ended.
        old = self._store.read(place)
        if isinstance(old, Unreadable) or self._state_of(old, now).in_force:
            assert old is not None
            # Most likely a change half made, seen without the lock.  Were it in the way, a slot that is free would be refused;
            # beside a crash, until somebody else takes the lock.  A compare under the lock, which changes nothing, settles it.
            settled = self._store.swap_all([Change(place, None, None)], lock_timeout=lock_timeout).found[0]
            if settled != old or self._store.read(scoped) != found:
                return None
            return Sight(scoped, in_the_way=(old,))
        return Sight(place, old, holders=holders)

    def _holders(self, head: Claim, now: Moment, lock_timeout: float) -> list[Claim | Unreadable] | None:
        """Return the living members of *head*, that which ends first in front.

        `None` means that some were dead, and have been removed, or that the key is no longer held by several: read it again.
        """
        found, members = holders_of(head, self._store.read_all)
        if found != head:
            return None
        live: list[Claim | Unreadable] = []
        dead: list[Change] = []
        for place, each in members.items():
            # Asked once: a process may end between two questions, and the list of the living would be empty.
            state = self._state_of(each, now)
            if each is not None and state.in_force:
                live.append(each)
                continue
            if isinstance(each, Claim) and each.mode is Mode.RESERVED and each.ended is None:
                end_reservation(self._store, each, now, lock_timeout)
                return None
            if isinstance(each, Unreadable):
                self._store.discard(each, lock_timeout=lock_timeout)
                return None
            trace = expiry.trace_of(each, state, now)
            dead.append(Change(place, each, trace if isinstance(trace, Claim) else None, found_dead=True))
        if dead:
            heads.drop(self._store, head, dead, now, lock_timeout)
            return None
        return _soonest_first(live, now)

    def _living(self, head: Claim, now: Moment) -> list[Claim | Unreadable]:
        """Return what `_holders` does, and remove nothing; empty if all are dead."""
        _, members = holders_of(head, self._store.read_all)
        live = [each for each in members.values() if each is not None and self._state_of(each, now).in_force]
        return _soonest_first(live, now)

    def _own_member(self, found: Found) -> Claim | None:
        """Return what this session has in a place of its own, a claim or a reservation, if *found* is the head of a key."""
        if not is_head(found):
            return None
        _, members = holders_of(found, self._store.read_all)
        own = (each for each in members.values() if isinstance(each, Claim) and is_of(each, self.holder))
        return next((each for each in own if each.ended is None), None)

    def _left_at(self, found: Found, now: Moment) -> TakenOver | None:
        """Return what whoever comes next is told of a key at which *found* stands: a marker, a dead claim, or what a head keeps."""
        if is_head(found) or (isinstance(found, Claim) and found.mode is Mode.RESERVED and found.ended is None):
            found = found.replaced
        return None if not isinstance(found, Claim) else TakenOver(found, self._state_of(found, now))

    def _swap(
        self,
        changes: Sequence[Change],
        holder: Holder,
        lock_timeout: float,
        gives_way: GivesWay | None = None,
        known: Mapping[ScopedKey, Found] | None = None,
    ) -> Swaps:
        """Make *changes* for *holder*, all or none, unless a claim of others on a file that overlaps is in the way.

        They were decided by what is *known* of the heads; without that, the heads are changed as they are.
        """
        new = [change.new for change in changes if change.new is not None]
        blocks = next(filter(None, (self._blocks(claim.scoped, holder, claim.use) for claim in new)), None)
        return heads.swap(
            self._store,
            changes,
            self._machine.now,
            known=known,
            lock_timeout=lock_timeout,
            gives_way=gives_way,
            blocks=blocks,
        )

    def _swap_one(self, change: Change, lock_timeout: float = LOCK_TIMEOUT) -> Swap:
        """Make *change*, which claims nothing, with that of the head if it is in the place of a member."""
        return heads.swap(self._store, [change], self._machine.now, lock_timeout=lock_timeout).only

    def _blocks(self, scoped: ScopedKey, holder: Holder, use: Use = ALONE) -> Blocks | None:
        """Return what is in the way of a claim of *holder* on *scoped*, if that is a file: claims on files that overlap.

        Those of a use that goes with *use* are not.  A claim that is dead is not.  Its holder may still renew it, so a renewal looks at the files that overlap, too.
        """
        if not is_file_key(scoped):
            return None
        now = self._machine.now()
        return lambda found: (
            not (isinstance(found, Claim) and (is_of(found, holder) or found.use.goes_with(use)))
            and self._state_of(found, now).in_force
        )

    def _read_all(self, keys: Sequence[ScopedKey]) -> dict[ScopedKey, Found]:
        """Return what is stored for each of *keys*."""
        return dict(zip(keys, self._store.read_all(keys), strict=True))

    def _state_of(self, found: Found, now: Moment) -> ClaimState:
        return expiry.state_of(found, now, self._machine.provably_dead)


def _soonest_first(claims: list[Claim | Unreadable], now: Moment) -> list[Claim | Unreadable]:
    return sorted(claims, key=lambda each: expiry.remaining(each.expires, now) if isinstance(each, Claim) else _LAST)


def is_of(found: Claim | Unreadable, holder: Holder) -> bool:
    """Return whether *found* is a claim of the session of *holder*."""
    return isinstance(found, Claim) and is_same_session(found.holder.name, holder.name)
