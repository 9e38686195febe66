"""Keys that several sessions may hold at once: shared, or N slots with one session in each.

Such a claim stands in a place of its own, and `heads` keeps those who may not be together apart.  A session may pass from
sharing a key to having it alone, if no other shares it, and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from mcp_claims.errors import ContendedError, InvalidInputError
from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Found, Mode, Moment, ScopedKey, Unreadable, Use
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session import heads
from mcp_claims.session.groups import Groups
from mcp_claims.session.members import Sight, is_of
from mcp_claims.session.results import ClaimResult, Status, TakenOver
from mcp_claims.stores.base import MAX_SWAPS, Change

_MAX_TOLD = 32


class Several(Groups):
    """The claims of one session, beside those of others on the same keys."""

    def _try_several(self, request: ClaimRequest, lock_timeout: float, *, reserve: bool) -> ClaimResult:
        """Do what `try_request` does, for keys that others may have, too: all of them or none."""
        queued = self.queue.waits_for(request.scoped)
        cached = self._held.get(self._place_of(request.scoped))
        granted: dict[ScopedKey, TakenOver | None] = {}
        lost: Claim | None = None
        for _ in range(MAX_SWAPS):
            known, now = self._read_all(request.keys), self._machine.now()
            done = known[request.scoped]
            if isinstance(done, Claim) and self._is_done(done, now) and not request.redo:
                return ClaimResult(Status.DONE, done, now, lost=self._held.lost(cached, done))
            if isinstance(done, Claim) and self._holds(done, done.scoped) and self._may_share(request, done):
                if (result := self._share_own(request, done, lock_timeout, now)) is None:
                    continue
                return result
            if (sights := self._look(request, known, lock_timeout, now)) is None:
                continue
            if blocking := self._in_the_way_of(request, sights):
                return self._refused(blocking, now, cached)
            found = {sight.place: sight.old for sight in sights}
            held = [each for each in (sight.own for sight in sights) if each and each.mode is not Mode.RESERVED]
            fresh: dict[ScopedKey, Found] = {key: each for key, each in found.items() if each not in held}
            if held and (not fresh if len(found) == 1 else self._is_of_one_group(found, held)):
                if (result := self._renew_group(request, held[0], lock_timeout)) is None:
                    continue
                return self._with_grants(tuple(found), result, granted)
            waiting = {key: each for key, each in fresh.items() if not self._is_turn(each, key, now)}
            # Who is in a slot already has what it waits for, or has its turn there.
            served = {each.holder.name for sight in sights for each in sight.holders if isinstance(each, Claim)}
            first = None
            if queued and waiting:
                held_keys, keys = self._held.granted, request.keys
                first = self.queue.first_ahead(request.scoped, held_keys, also=keys, use=request.use, served=served)
            overlap: Claim | Unreadable | None
            if first is not None:
                if _is_other_number(first.use, request.use) and not sights[0].holders:
                    _refuse_number(request, first.use)
                overlap = self._serve(first, known, now, lock_timeout)
            elif reserve and fresh:
                if not waiting:
                    turns = tuple((each, None) for each in fresh.values() if isinstance(each, Claim))
                    return self._your_turn(turns[0][0], now)._replace(grants=turns)
                overlap = self._reserve_places(request, waiting, known, now, lock_timeout)
            else:
                if cached is not None and all(each.scoped != cached.scoped for each in held):
                    lost = self._held.lost(cached, self._store.read(cached.scoped)) or lost
                whole: dict[ScopedKey, Found] = dict(found)
                result, queued = self._grant_group(
                    request, whole, fresh, now, lock_timeout, queued=queued, known=known, served=served
                )
                if result is not None and not self._is_over(result):
                    return result._replace(lost=lost)
                granted |= {} if result is None else {claim.scoped: taken_over for claim, taken_over in result.grants}
                continue
            if overlap is not None:
                return self._refused((overlap,), now, cached)
        raise ContendedError(request.scoped.key, MAX_SWAPS)

    def _look(
        self, request: ClaimRequest, known: Mapping[ScopedKey, Found], lock_timeout: float, now: Moment
    ) -> list[Sight] | None:
        """Return how this session finds each key of *request*; `None` if something dead had to be removed first."""
        sights = []
        for key, found in known.items():
            sight = self._see(key, found, request.use, self.holder, now, lock_timeout)
            if sight is None:
                return None
            if sight.in_the_way and isinstance(found, Claim) and _is_other_number(found.use, request.use):
                _refuse_number(request, found.use)
            sights.append(sight)
        return sights

    def _in_the_way_of(self, request: ClaimRequest, sights: list[Sight]) -> tuple[Claim | Unreadable, ...]:
        """Return every claim in the way; if there is one, those on files that overlap, too."""
        blocking = [each for sight in sights for each in sight.in_the_way]
        return self._with_overlaps(blocking, request.keys, request.use)

    def _refused(self, blocking: tuple[Claim | Unreadable, ...], now: Moment, cached: Claim | None) -> ClaimResult:
        lost = None if cached is None else self._held.lost(cached, self._store.read(cached.scoped))
        own = any(is_of(each, self.holder) for each in blocking)
        several = blocking[:_MAX_TOLD] if len(blocking) > 1 else ()
        return ClaimResult(Status.HELD, blocking[0], now, lost=lost, in_the_way=several, blocked_by_own=own)

    def _reserve_places(
        self,
        request: ClaimRequest,
        waiting: Mapping[ScopedKey, Found],
        known: Mapping[ScopedKey, Found],
        now: Moment,
        lock_timeout: float,
    ) -> Claim | Unreadable | None:
        """Reserve the places *waiting*; return the claim on a file that overlaps if one is in the way."""
        group = tuple(waiting) if len(waiting) > 1 else ()
        changes = []
        for place, old in waiting.items():
            assert not isinstance(old, Unreadable)
            new = self._reservation(place, known[place.base], request.use, self.holder, now)
            changes.append(Change(place, old, new._replace(group=group)))
        return self._put_reservations(changes, None, self.holder, lock_timeout, known).overlap

    def _may_share(self, request: ClaimRequest, alone: Claim) -> bool:
        """Return whether this session, which holds *alone*, may share that key from now on."""
        return request.use.mode is Mode.SHARED and not request.also and not alone.group

    def _share_own(self, request: ClaimRequest, alone: Claim, lock_timeout: float, now: Moment) -> ClaimResult | None:
        """Share the key of *alone*, which this session holds; `None` means that something has changed."""
        place = alone.scoped.place(heads.shared_member(self.holder))
        old = self._store.read(place)
        if isinstance(old, Unreadable):
            return ClaimResult(Status.HELD, old, now, blocked_by_own=True)
        new = expiry.in_place(
            expiry.renewed(alone, request, self.holder, now, self.maker)._replace(scoped=place, replaced=None),
            request.use,
        )
        swaps = self._swap([Change(place, old, new)], self.holder, lock_timeout, known={alone.scoped: alone})
        if swaps.overlap is not None:  # It had expired, and a file that overlaps was granted to others.
            return self._refused((swaps.overlap,), now, alone)
        (claim,) = swaps.found
        if not swaps.won or not isinstance(claim, Claim):
            return None
        self._held.remove(alone)
        lost = self._record(claim)
        self._pass_on(place, None)
        return ClaimResult(Status.RENEWED, claim, now, lost=lost)

    def _try_alone(self, request: ClaimRequest, head: Claim, lock_timeout: float, now: Moment) -> ClaimResult | None:
        """Claim for this session alone the key of *head*: refused, unless no other session shares it; `None` as above."""
        if (live := self._holders(head, now, lock_timeout)) is None:
            return None
        own = next((each for each in live if is_of(each, self.holder)), None)
        only = isinstance(own, Claim) and len(live) == 1 and own.mode is Mode.SHARED and not own.group
        if not isinstance(own, Claim) or not only:
            several = tuple(live[:_MAX_TOLD]) if len(live) > 1 else ()
            return ClaimResult(Status.HELD, live[0], now, in_the_way=several, blocked_by_own=own is not None)
        new = expiry.renewed(own, request, self.holder, now, self.maker)._replace(scoped=head.scoped, mode=Mode.ALONE)
        changes = [Change(head.scoped, head, new), Change(own.scoped, own, None)]
        swaps = self._swap(changes, self.holder, lock_timeout)
        if swaps.overlap is not None:
            return ClaimResult(Status.HELD, swaps.overlap, now, blocked_by_own=True)
        claim = swaps.found[0]
        if not swaps.won or not isinstance(claim, Claim):
            return None
        self._held.remove(own)
        # Nobody else can be told any more of what the head has kept.
        return ClaimResult(Status.RENEWED, claim, now, self._left_at(head, now), self._record(claim))


def _is_other_number(use: Use, asked: Use) -> bool:
    return use.slots is not None and asked.slots is not None and use != asked


def _refuse_number(request: ClaimRequest, use: Use) -> NoReturn:
    rule = f"must be {use.slots} for {request.scoped.key!r}, as those say who hold or wait for it now"
    raise InvalidInputError("slots", rule)
