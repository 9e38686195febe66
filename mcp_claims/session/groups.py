"""What a session holds, one key or several that were claimed together: granted, renewed and released as one.

Each key has a record of its own, with its own generation, which names all keys of its group.  A key belongs to the group of
the last call that granted it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from mcp_claims.errors import (
    ContendedError,
)
from mcp_claims.model import expiry
from mcp_claims.model.records import ALONE, Claim, Found, Mode, Moment, ScopedKey, Unreadable, Use, is_head
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.members import is_of
from mcp_claims.session.releases import Releases
from mcp_claims.session.results import ClaimResult, Status, TakenOver
from mcp_claims.session.wait_queue import end_reservation
from mcp_claims.stores.base import MAX_SWAPS, Change, without_head


class Groups(Releases):
    """The claims of one session, and the groups that they belong to."""

    def _try_group(self, request: ClaimRequest, lock_timeout: float, *, reserve: bool) -> ClaimResult:
        """Do what `try_request` does, for all keys of *request* or none."""
        cached = self._held.get(request.scoped)
        queued = self.queue.waits_for(request.scoped)
        # What was granted in this call, and expired while it waited for the lock.
        granted: dict[ScopedKey, TakenOver | None] = {}
        for _ in range(MAX_SWAPS):
            found, now = self._read_all(request.keys), self._machine.now()
            if self._make_room_in_group(found, now, lock_timeout):
                continue
            held = [each for key, each in found.items() if isinstance(each, Claim) and self._holds(each, key)]
            fresh = {key: each for key, each in found.items() if each not in held}
            if held and self._is_of_one_group(request.keys, held):
                if (result := self._renew_group(request, held[0], lock_timeout)) is None:
                    continue
                return self._with_grants(request.keys, result, granted)
            done = found[request.scoped]
            if (blocking := self._all_in_the_way(fresh, now)) or (self._is_done(done, now) and not request.redo):
                lost = self._held.lost(cached, done)
                if blocking:
                    own = any(is_of(each, self.holder) for each in blocking)
                    return ClaimResult(
                        Status.HELD, blocking[0], now, lost=lost, in_the_way=blocking, blocked_by_own=own
                    )
                assert isinstance(done, Claim)
                return ClaimResult(Status.DONE, done, now, lost=lost)
            waiting = {key: each for key, each in fresh.items() if not self._is_turn(each, key, now)}
            first = None
            if queued and waiting:
                first = self.queue.first_ahead(request.scoped, self._held.granted, also=request.keys)
            if first is not None:
                overlap = self._serve(first, found, now, lock_timeout)
            elif reserve and fresh:
                if not waiting:
                    turns = tuple((each, None) for each in fresh.values() if isinstance(each, Claim))
                    return self._your_turn(turns[0][0], now)._replace(grants=turns)
                overlap = self._reserve_group(request, waiting, now, lock_timeout)
            else:
                result, queued = self._grant_group(request, found, fresh, now, lock_timeout, queued=queued)
                if result is not None and not self._is_over(result):
                    return result
                granted |= {} if result is None else {claim.scoped: taken_over for claim, taken_over in result.grants}
                continue
            if overlap is not None:
                lost = self._held.lost(cached, found[request.scoped])
                return ClaimResult(Status.HELD, overlap, now, lost=lost, in_the_way=(overlap,))
        raise ContendedError(request.scoped.key, MAX_SWAPS)

    def _is_of_one_group(self, keys: Iterable[ScopedKey], held: Sequence[Claim]) -> bool:
        """Return whether *keys* belong to the group that all of *held* were granted in, one that was lost included."""
        return set(keys) <= set(held[0].group) and all(each.group == held[0].group for each in held)

    def _all_in_the_way(self, fresh: Mapping[ScopedKey, Found], now: Moment) -> tuple[Claim | Unreadable, ...]:
        """Return every claim on the keys *fresh*, of others or shared; if there is one, those on files that overlap with them, too."""
        blocking = [
            one
            for key, each in fresh.items()
            if each is not None and self._state_of(each, now).in_force and not self._is_turn(each, key, now)
            for one in without_head(each, self._store.read_all) or [each]
        ]
        return self._with_overlaps(blocking, fresh, ALONE)

    def _with_overlaps(
        self, blocking: list[Claim | Unreadable], keys: Iterable[ScopedKey], use: Use
    ) -> tuple[Claim | Unreadable, ...]:
        """Return *blocking*; unless that is empty, with the claims on files that overlap with *keys*, asked for in the way *use*."""
        for key in keys if blocking else ():
            if (blocks := self._blocks(key, self.holder, use)) is not None:
                blocking += [each for each in filter(blocks, self._store.overlapping(key)) if each not in blocking]
        return tuple(blocking)

    def _with_grants(
        self, keys: Sequence[ScopedKey], result: ClaimResult, granted: Mapping[ScopedKey, TakenOver | None]
    ) -> ClaimResult:
        """Return the *result* of a renewal of *keys* as one of a grant, as far as they were *granted* in the same call."""
        if not granted or result.status is not Status.RENEWED:
            return result
        grants = tuple((claim, granted[key]) for key in granted if (claim := self._held.get(key)) is not None)
        status = Status.ACQUIRED if granted.keys() >= set(keys) else Status.RENEWED
        return result._replace(status=status, taken_over=granted.get(keys[0]), grants=grants)

    def _is_over(self, result: ClaimResult) -> bool:
        """Return whether what was granted expired while we waited for the lock: it is renewed, not handed over dead."""
        return (
            result.claimed and isinstance(result.found, Claim) and expiry.has_passed(result.found.expires, result.now)
        )

    def _is_turn(self, found: Found, scoped: ScopedKey, now: Moment) -> bool:
        return isinstance(found, Claim) and self._is_for_us(found, scoped, now)

    def _make_room_in_group(self, found: dict[ScopedKey, Found], now: Moment, lock_timeout: float) -> bool:
        """Remove an unreadable record that is old enough, or a reservation that has lapsed; return whether there was one."""
        for each in found.values():
            if is_head(each):
                if self._holders(each, now, lock_timeout) is None:
                    return True
                continue
            if each is None or not self._state_of(each, now).dead:
                continue
            if isinstance(each, Unreadable):
                self._store.discard(each, lock_timeout=lock_timeout)
                return True
            if each.mode is Mode.RESERVED and each.ended is None:
                end_reservation(self._store, each, now, lock_timeout)
                return True
        return False

    def _reserve_group(
        self, request: ClaimRequest, waiting: dict[ScopedKey, Found], now: Moment, lock_timeout: float
    ) -> Claim | Unreadable | None:
        """Reserve those keys that this session waits for; return the claim on a file that overlaps if one is in the way."""
        changes = [
            Change(
                key,
                each,
                expiry.reserved(key, self.holder, now, each, self._state_of(each, now))._replace(group=request.keys),
            )
            for key, each in waiting.items()
            if not isinstance(each, Unreadable)
        ]
        return self._put_reservations(changes, None, self.holder, lock_timeout).overlap

    def _grant_group(
        self,
        request: ClaimRequest,
        found: dict[ScopedKey, Found],
        fresh: dict[ScopedKey, Found],
        now: Moment,
        lock_timeout: float,
        *,
        queued: bool,
        known: Mapping[ScopedKey, Found] | None = None,
        served: Collection[str] = (),
    ) -> tuple[ClaimResult | None, bool]:
        """Claim *fresh* and renew the others of *found*; return the result unless something has changed, and whether somebody waits.

        Of keys that others may have, too, *found* is what is in the places, and *known* what is at the keys themselves.  Those who
        are *served* go before nobody.
        """
        group = tuple(found) if len(found) > 1 else ()
        taken_over: dict[ScopedKey, TakenOver | None] = {}
        changes: list[Change] = []
        turns = 0
        for key, each in found.items():
            assert not isinstance(each, Unreadable)  # It would be in the way, or have been removed.
            if key not in fresh:
                assert each is not None
                new = expiry.renewed(each, request, self.holder, now, self.maker)
            else:
                new = expiry.granted(request._replace(scoped=key), self.holder, now, self.maker)
                taken_over[key] = None if each is None else TakenOver(each, self._state_of(each, now))
                if each is not None and self._is_turn(each, key, now):
                    new, taken_over[key] = new._replace(generation=each.generation), self._replaced(each, now)
                    turns += 1
                if known is not None:
                    taken_over[key] = taken_over[key] or self._left_at(known[key.base], now)
            changes.append(Change(key, each, new._replace(group=group)))
        gives_way = None
        # What is reserved for this session is its own: whoever waits goes before it only where something else is asked for.
        if len(taken_over) > turns and not (self._store.serves_queue and queued):
            gives_way = partial(
                self.queue.is_behind, request.scoped, self._held.granted, request.keys, request.use, served
            )
        with ExitStack() as doubts:
            for change in changes:
                if change.new is not None and change.scoped in fresh:
                    doubts.enter_context(self._held.in_doubt(change.new))
            swaps = self._swap(changes, self.holder, lock_timeout, gives_way, known)
            now = self._machine.now()
            if swaps.overlap is not None:
                return ClaimResult(Status.HELD, swaps.overlap, now, in_the_way=(swaps.overlap,)), queued
            if not swaps.won:
                return None, queued or swaps.queued
            claims = [claim for claim in swaps.found if isinstance(claim, Claim)]
            grants = tuple((claim, taken_over[claim.scoped]) for claim in claims if claim.scoped in fresh)
            self._record_all(claims, {claim.scoped: self._untaken(claim, each) for claim, each in grants})
            self.queue.end(request.scoped, lock_timeout, everywhere=turns > 0)
        # One that held a part of them before may have several callers: the one of these that has it acts on that part.
        status = Status.ACQUIRED if len(fresh) == len(found) else Status.RENEWED
        regrouped = tuple(
            (claim, each.group)
            for claim in claims
            if claim.scoped not in fresh and isinstance(each := found[claim.scoped], Claim)
        )
        first = taken_over.get(claims[0].scoped)
        return ClaimResult(status, claims[0], now, first, grants=grants, regrouped=regrouped), queued

    def _renew_group(self, request: ClaimRequest, held: Claim, lock_timeout: float) -> ClaimResult | None:
        """Renew all of the group of *held* that this session still holds; `None` means that something has changed.

        Takes nothing anew: a key of the group that was lost is named in the result, which is then `held`.
        """
        found, now = self._read_all(held.group or (held.scoped,)), self._machine.now()
        members = [
            each
            for key, each in found.items()
            if isinstance(each, Claim) and self._holds(each, key) and each.group == held.group
        ]
        if not members:
            return None
        changes = [
            Change(each.scoped, each, expiry.renewed(each, request, self.holder, now, self.maker)) for each in members
        ]
        swaps = self._swap(changes, self.holder, lock_timeout)
        if swaps.overlap is not None:
            # Of those that had expired, a file was granted to others.
            for each in members:
                if expiry.has_passed(each.expires, now):
                    self._held.note_loss(each.scoped, swaps.overlap)
            return ClaimResult(Status.HELD, swaps.overlap, now, in_the_way=(swaps.overlap,))
        if not swaps.won:
            return None
        claims = [claim for claim in swaps.found if isinstance(claim, Claim)]
        self._record_all(claims)
        own = next((claim for claim in claims if claim.scoped.base == request.scoped.base), claims[0])
        missing = tuple(key for key, each in found.items() if not self._holds(each, key))
        for key in missing:
            self._held.note_loss(key, found[key])
        if missing:
            others = self._all_in_the_way({key: found[key] for key in missing}, now)
            return ClaimResult(Status.HELD, (*others, own)[0], now, missing=missing, in_the_way=others)
        # Granted to a call that failed, of which nobody knows yet.
        doubted = tuple((claim, None) for claim in claims if self._held.take_doubt(claim))
        status = Status.ACQUIRED if len(doubted) == len(claims) else Status.RENEWED
        return ClaimResult(status, own, now, grants=doubted)
