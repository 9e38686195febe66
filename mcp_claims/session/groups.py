"""What a session holds, one key or several that were claimed together: granted, renewed and released as one.

Each key has a record of its own, with its own generation, which names all keys of its group.  A key belongs to the group of
the last call that granted it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from mcp_claims.errors import (
    ContendedError,
    ForkedError,
    SessionEndedError,
    StoreBusyError,
    StoreUnavailableError,
    UnsafeDirectoryError,
)
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Found, Holder, Maker, Mode, Moment, ScopedKey, Unreadable
from mcp_claims.model.validation import ClaimRequest, ReleaseRequest
from mcp_claims.session.results import ClaimResult, ReleaseResult, Status, TakenOver
from mcp_claims.session.turns import CLOSE_TIMEOUT, Turns, is_of
from mcp_claims.session.wait_queue import end_reservation
from mcp_claims.stores.base import MAX_SWAPS, Change, Store, Swaps, without_head

_IN_THE_WAY = (ClaimState.HELD, ClaimState.RESERVED)


class Groups(Turns):
    """The claims of one session, and the groups that they belong to."""

    def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
        super().__init__(store, holder, machine)
        self.maker = Maker.LIBRARY
        """Through what the session makes its claims, for people."""
        self._in_forked_child = False

    def undo(self, result: ClaimResult, *, turns: bool = True) -> None:
        """Take back what *result* says was granted, and with *turns* what was reserved: its caller has never heard of it.

        Raises nothing.
        """
        if result.status is Status.YOUR_TURN:
            if turns and isinstance(result.found, Claim):
                for turn in self._turns_with(result.found):
                    self.release_grant(turn)
            return
        grants = result.grants
        if not grants and result.status is Status.ACQUIRED and isinstance(result.found, Claim):
            grants = ((result.found, result.taken_over),)
        for grant, taken_over in grants:
            self.release_grant(grant, taken_over)
        for claim, group in result.regrouped:
            with suppress(StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
                swap = self._swap_one(Change(claim.scoped, claim, claim._replace(group=group)))
                if swap.won and isinstance(swap.found, Claim):
                    self._held.add(swap.found)

    def _turns_with(self, turn: Claim) -> list[Claim]:
        """Return the reservations for this session of the group of *turn*, that one included."""
        now = self._machine.now()
        found = [turn if key == turn.scoped else self._store.read(key) for key in turn.group or (turn.scoped,)]
        return [each for each in found if isinstance(each, Claim) and self._is_for_us(each, each.scoped, now)]

    def release_grant(self, grant: Claim, taken_over: TakenOver | None = None) -> None:
        """Release *grant*, or decline that reservation, which never reached its caller, unless it has changed since.

        What the grant has *taken_over* is there again: the caller was told neither that it is done nor the note of a dead.
        """
        if self._in_forked_child:
            return
        try:
            if grant.mode is Mode.RESERVED and not self.queue.is_waited_for(grant.scoped.base):
                self.queue.give_up(grant.scoped.base)
            swap = self._swap_one(Change(grant.scoped, grant, self._untaken(grant, taken_over)))
            if swap.won:
                self._held.remove(grant)
                self._pass_on(grant.scoped, swap.found)
        except (StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
            # No caller is left to report to.  The end of the session or the expiry frees the claim.
            return

    def release_own(self, grant: Claim, lock_timeout: float) -> ReleaseResult:
        """Release *grant*, renewed or not, and no other grant of this session, which a parallel call may just have got.

        Works on a closed session too, which may have failed to release it.
        """
        grant = self._as_it_is_held(grant)
        result = self._release(ReleaseRequest(grant.scoped), lock_timeout, grant)
        # If that key was lost, the others of its group are still this session's.
        for key in grant.group:
            if not result.released and (held := self._held.get(key)) is not None and held.group == grant.group:
                result = self._release(ReleaseRequest(key), lock_timeout, held)
        return result

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
                    return ClaimResult(Status.HELD, blocking[0], now, lost=lost, in_the_way=blocking, own=own)
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
            if each is not None and self._state_of(each, now) in _IN_THE_WAY and not self._is_turn(each, key, now)
            for one in without_head(each, self._store.read_all) or [each]
        ]
        for key in fresh if blocking else ():
            if (blocks := self._blocks(key, self.holder)) is not None:
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
            if isinstance(each, Claim) and each.members:
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
                new = expiry.renewed(each, request, self.holder, now)
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
        changes = [Change(each.scoped, each, expiry.renewed(each, request, self.holder, now)) for each in members]
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

    def _check_usable(self, namespace: str | None = None) -> None:
        if namespace is not None:
            validation.scoped_key("any", namespace)
        if self._in_forked_child:
            raise ForkedError
        if self._closed:
            raise SessionEndedError

    def _untaken(self, grant: Claim, taken_over: TakenOver | None) -> Claim | None:
        """Return what stays in the place of *grant*, of which nobody was told, or of a reservation."""
        now = self._machine.now()
        if taken_over is None or isinstance(taken_over.found, Unreadable):
            return expiry.uncovered(grant, now)
        return expiry.untaken(grant, taken_over.found, taken_over.state, now)

    def _release(
        self,
        request: ReleaseRequest,
        lock_timeout: float,
        grant: Claim | None = None,
        left: Mapping[ScopedKey, Claim | None] | None = None,
    ) -> ReleaseResult:
        """Release our claim on the key of *request*, with those of its group; with *grant* only if it is that one.

        What is *left* for a key stays in its place.
        """
        if self._in_forked_child:
            return ReleaseResult(False, None, self._machine.now())  # The claim is the parent's, which goes on.
        scoped = self._place_of(request.scoped)
        cached, doubts = self._held.get(scoped), self._held.doubts(scoped)
        if grant is not None and (cached is None or cached.generation != grant.generation):
            first: Found = grant
        else:
            first = self._store.read(scoped) if cached is None else cached
            if (own := self._own_member(first)) is not None:
                # It got it in another process, or has its turn there.
                scoped, first = own.scoped, own
        found: Found = first
        # A parallel call may have claimed the key again: that claim has a new generation, and must stay.
        while isinstance(found, Claim) and isinstance(first, Claim) and self._holds(found, scoped):
            if found.generation != first.generation:
                break
            changes = [
                Change(each.scoped, each, self._left_by(each, request, left))
                for each in ([found] if not found.group else self._group_of(found))
            ]
            swaps = self._swap(changes, self.holder, lock_timeout)
            if swaps.won:
                self._held.remove(first)
                return self._note_release(changes, swaps, lock_timeout)
            # Of several keys another one may have changed.
            found = swaps.found[0]
            if not self._holds(found, scoped) and (moved := self._passed_on(first)) is not None:
                scoped, found = moved.scoped, moved
        self._held.settle(doubts, found)
        if grant is None and self._decline(scoped, found, lock_timeout):
            return ReleaseResult(True, None, self._machine.now(), declined=True)
        if grant is None and cached is not None and (elsewhere := self._held_elsewhere(scoped)) is not None:
            if elsewhere.generation == cached.generation:
                self._held.remove(cached)  # Passed on, not lost.
            lost = self._held.lost(cached, found)
            result = self._release(request._replace(scoped=elsewhere.scoped), lock_timeout, elsewhere, left)
            return result._replace(lost=result.lost or lost)
        return ReleaseResult(False, found, self._machine.now(), self._held.lost(cached, found))

    def _passed_on(self, grant: Claim) -> Claim | None:
        """Return what has become of *grant* if it was passed from shared to alone or back, and the call was an error all the same.

        Else its session would hold it unknowingly: it looks where the claim was before.
        """
        found = self._store.read(grant.scoped.base)
        own = self._own_member(found) or found
        moved = isinstance(own, Claim) and own.scoped != grant.scoped and own.generation == grant.generation
        return own if isinstance(own, Claim) and moved and self._holds(own, own.scoped) else None

    def _place_of(self, scoped: ScopedKey) -> ScopedKey:
        """Return where this session holds *scoped*, as far as it knows: there, or in the place of a member."""
        if scoped.member is not None:
            return scoped
        held = (self._held.get(key) for key in self._held.granted() if key.base == scoped)
        # Of one that was lost and not reported yet, and another that was granted since, the latter.
        last = max(filter(None, held), key=lambda claim: claim.generation, default=None)
        return scoped if last is None else last.scoped

    def _as_it_is_held(self, grant: Claim) -> Claim:
        """Return *grant*; if the session has passed from sharing its key to having it alone, or back, what it has become."""
        if self._held.get(grant.scoped) is not None or not is_of(grant, self.holder):
            return grant
        held = (self._held.get(key) for key in self._held.granted() if key.base == grant.scoped.base)
        return next((each for each in held if each is not None and each.generation == grant.generation), grant)

    def _held_elsewhere(self, scoped: ScopedKey) -> Claim | None:
        """Return what another process of this session holds of the key of *scoped*, alone or in the place of a member."""
        found = self._store.read(scoped.base)
        own = self._own_member(found) or found
        if not isinstance(own, Claim) or not self._holds(own, own.scoped):
            return None
        # What a parallel call of this process has just claimed is not ours to release.
        is_known = self._held.get(own.scoped) is not None or self._held.doubts(own.scoped)
        return None if is_known else own

    def _group_of(self, claim: Claim) -> list[Claim]:
        """Return what this session still holds of the group of *claim*, that one first."""
        others = self._read_all([key for key in claim.group if key != claim.scoped])
        held = [each for key, each in others.items() if isinstance(each, Claim) and self._holds(each, key)]
        return [claim, *(each for each in held if each.group == claim.group)]

    def _left_by(
        self, claim: Claim, request: ReleaseRequest, left: Mapping[ScopedKey, Claim | None] | None
    ) -> Claim | None:
        """Return what stays in the place of *claim* when *request* releases it: its outcome, or what is *left*."""
        if request.outcome is not None:
            return expiry.marker_of(claim, request.outcome, self._machine.now(), request.retention, request.note)
        return None if left is None else left.get(claim.scoped)

    def _note_release(self, changes: Sequence[Change], swaps: Swaps, lock_timeout: float) -> ReleaseResult:
        """Note that *changes* have released their keys, and let the next ones have them; decline what is kept beside them."""
        keys = tuple(change.scoped for change in changes)
        waited_for = [each for key in keys for each in self.queue.choices(key.base) if each not in keys]
        for change, after in zip(changes, swaps.found, strict=True):
            assert change.old is not None
            self._held.remove(change.old)
            self.queue.leave(change.scoped.base, lock_timeout)
            self._pass_on(change.scoped, after)
        self._decline_all(waited_for, lock_timeout)
        # In the place of a member nothing stays: what the next holder is told is in the head.
        released = swaps.found[0] or changes[0].new or changes[0].old
        return ReleaseResult(True, released, self._machine.now(), keys=keys)

    def _holds(self, found: Found, scoped: ScopedKey) -> bool:
        """Return whether *found* is this session's claim on *scoped*, and not a marker.

        Where two keys share a file name, *found* may be this session's claim on the other key.
        """
        return (
            isinstance(found, Claim)
            and is_same_session(found.holder.name, self.holder.name)
            and found.ended is None
            and found.mode is not Mode.RESERVED
            and found.scoped == scoped
        )

    def _record(self, grant: Claim, cached: Claim | None = None, taken_over: TakenOver | None = None) -> Claim | None:
        """Record *grant* as held; return *cached*, the grant of the key known before, if that was lost.

        If the session has ended meanwhile, what *grant* has *taken_over* is there again.
        """
        lost = self._held.add(grant, cached)
        # Either `close`, in another thread, finds this claim among those held, or we see here that it has begun.
        if self._closed:
            left = {grant.scoped: self._untaken(grant, taken_over)}
            self._release(ReleaseRequest(grant.scoped), CLOSE_TIMEOUT, left=left)
            raise SessionEndedError
        return lost

    def _record_all(self, claims: Sequence[Claim], left: Mapping[ScopedKey, Claim | None] | None = None) -> None:
        """Record *claims*, a group, as held; if the session has ended meanwhile, what is *left* for each key is there again."""
        for claim in claims:
            self._held.add(claim)
        if self._closed:  # As in `_record`.
            self._release(ReleaseRequest(claims[0].scoped), CLOSE_TIMEOUT, left=left)
            raise SessionEndedError
