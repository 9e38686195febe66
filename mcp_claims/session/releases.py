"""What a session releases: at its caller's word, when a call is undone, and at its end.

A claim is released with those of its group, and only as the grant that it was: one that was granted since stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from mcp_claims.errors import (
    ForkedError,
    SessionEndedError,
    StoreBusyError,
    StoreUnavailableError,
    UnsafeDirectoryError,
)
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, validation
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Found, Holder, Maker, Mode, ScopedKey, Unreadable
from mcp_claims.model.validation import ReleaseRequest
from mcp_claims.session.members import is_of
from mcp_claims.session.results import ClaimResult, ReleaseResult, Status, TakenOver
from mcp_claims.session.turns import CLOSE_TIMEOUT, Turns
from mcp_claims.stores.base import Change, Store, Swaps


class Releases(Turns):
    """The claims of one session, and how they end."""

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
            with self._held.releasing([change.old for change in changes if change.old is not None]):
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
            lost = self._held.lost(cached, found)
            result = self._release(request._replace(scoped=elsewhere.scoped), lock_timeout, elsewhere, left)
            return result._replace(lost=result.lost or lost)
        return ReleaseResult(False, found, self._machine.now(), self._held.lost(cached, found))

    def _own_claim(self, scoped: ScopedKey) -> Claim | None:
        """Return what this session holds of the key of *scoped*, alone or in the place of a member."""
        found = self._store.read(scoped.base)
        own = self._own_member(found) or found
        return own if isinstance(own, Claim) and self._holds(own, own.scoped) else None

    def _passed_on(self, grant: Claim) -> Claim | None:
        """Return what has become of *grant* if it was passed from shared to alone or back, and the call was an error all the same.

        Else its session would hold it unknowingly: it looks where the claim was before.
        """
        own = self._own_claim(grant.scoped)
        moved = own is not None and own.scoped != grant.scoped and own.generation == grant.generation
        return own if moved else None

    def _held_elsewhere(self, scoped: ScopedKey) -> Claim | None:
        """Return what another process of this session holds of the key of *scoped*."""
        own = self._own_claim(scoped)
        # What a parallel call of this process has just claimed is not ours to release.
        is_known = own is None or self._held.get(own.scoped) is not None or self._held.doubts(own.scoped)
        return None if is_known else own

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
            if change.new is not None:
                self._held.note_end(change.scoped)
            self.queue.leave(change.scoped.base, lock_timeout)
            self._pass_on(change.scoped, after)
        self._decline_all(waited_for, lock_timeout)
        # In the place of a member nothing stays: what the next holder is told is in the head.
        released = swaps.found[0] or changes[0].new or changes[0].old
        return ReleaseResult(True, released, self._machine.now(), keys=keys)

    def _untaken(self, grant: Claim, taken_over: TakenOver | None) -> Claim | None:
        """Return what stays in the place of *grant*, of which nobody was told, or of a reservation."""
        now = self._machine.now()
        if taken_over is None or isinstance(taken_over.found, Unreadable):
            return expiry.uncovered(grant, now)
        return expiry.untaken(grant, taken_over.found, taken_over.state, now)

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

    def _check_usable(self, namespace: str | None = None) -> None:
        if namespace is not None:
            validation.scoped_key("any", namespace)
        if self._in_forked_child:
            raise ForkedError
        if self._closed:
            raise SessionEndedError
