"""The operations of a session on parsed requests: try, inspect, release, renew.

Every operation decides on what it read, and the store's compare-and-swap refuses the decision if the key has changed
since.  Nothing is decided by a file's path or by the PID alone.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from weakref import WeakSet

from mcp_claims.errors import (
    ContendedError,
    StoreBusyError,
    StoreUnavailableError,
)
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import ALONE, Claim, Found, Holder, Mode, Moment, ScopedKey, Ticket, Unreadable, is_head
from mcp_claims.model.validation import ClaimRequest, InspectRequest, ReleaseRequest
from mcp_claims.session import admin
from mcp_claims.session.guarded import Guarded
from mcp_claims.session.members import is_of
from mcp_claims.session.results import ClaimResult, Inspection, ReleaseResult, Status, TakenOver
from mcp_claims.session.wait_queue import end_reservation
from mcp_claims.stores.base import LOCK_TIMEOUT, MAX_SWAPS, Change, Store


class _Attempt:
    """One call of `try_request`, and what its rounds have found out."""

    def __init__(
        self, request: ClaimRequest, lock_timeout: float, cached: Claim | None, *, queued: bool, found: Found
    ) -> None:
        self.request = request
        self.lock_timeout = lock_timeout
        self.cached = cached
        self.queued = queued
        """Whether somebody may wait for the key."""
        self.found = found
        self.taken_over: TakenOver | None = None
        self.acquired = False
        """Whether the claim was granted in this call, and not held before."""


class Operations(Guarded):
    """The operations of one session, *holder*; several threads may use it.  Programs use its subclass `Session`."""

    def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
        super().__init__(store, holder, machine)
        self.is_here = True
        """Whether whoever uses the session works in the working directory of this process."""
        self.has_handle = False
        """Whether a handle names it, which another process may be given, so that it makes claims for the session too."""
        self.remote = store.remote
        """Whether the store is asked over a network, so that each method may take seconds."""
        _sessions.add(self)

    @property
    def holds_anything(self) -> bool:
        """Whether there is a claim that the session was granted and has not released, expired ones included."""
        return bool(self._held)

    @property
    def has_anything_to_end(self) -> bool:
        """Whether `close` has something to do: claims to release, or places to give up."""
        return bool(self._held or self.queue.keys())

    def try_request(
        self, request: ClaimRequest, *, lock_timeout: float = LOCK_TIMEOUT, reserve: bool = False
    ) -> ClaimResult:
        """Do what `try_claim` does, for a checked request; with *reserve*, reserve the key instead of taking it.

        If the key is free and another session waits for it before this one, it is reserved for that session.
        """
        self._check_usable()
        self._adopt(request.keys, lock_timeout)
        if request.use.mode is not Mode.ALONE:
            return self._try_several(request, lock_timeout, reserve=reserve)
        if request.also:
            return self._try_group(request, lock_timeout, reserve=reserve)
        scoped = request.scoped
        cached = self._held.get(scoped)
        # Others may wait too.  If we have not waited, the swap finds that out without a question of its own.
        queued = self.queue.waits_for(scoped)
        # Remote: skip the read and start from our cached grant or None.  The swap's compare corrects a wrong guess;
        # never refuse from the cache.  A session that waits reads, since a write in vain costs the cluster more; so does one
        # that has the key in the place of a member, which is no wrong guess but one that others may be in the way of.
        guess = self._store.remote and not queued and self._place_of(scoped) == scoped
        found: Found = cached if guess else self._store.read(scoped)
        attempt = _Attempt(request, lock_timeout, cached, queued=queued, found=found)
        # Each further round means that the key changed between our read and our write, so somebody made progress.
        for _ in range(MAX_SWAPS):
            if (result := self._try_once(attempt, reserve=reserve)) is not None:
                return result
        raise ContendedError(scoped.key, MAX_SWAPS)

    def _try_once(self, attempt: _Attempt, *, reserve: bool) -> ClaimResult | None:
        """Decide on what *attempt* has found: refuse, make room, serve a session that waits, reserve, or grant.

        `None` means that the key has changed, and that the next round decides on what is stored then.
        """
        request, found, now = attempt.request, attempt.found, self._machine.now()
        if is_head(found):
            result = self._try_alone(request, found, attempt.lock_timeout, now)
            attempt.found = self._store.read(request.scoped) if result is None else found
            return result
        if isinstance(found, Claim) and self._holds(found, request.scoped):
            if found.group:
                result = self._renew_group(request, found, attempt.lock_timeout)
                attempt.found = self._store.read(request.scoped) if result is None else found
                return result
            renewed = expiry.renewed(found, request, self.holder, now, self.maker)
            return self._grant(attempt, found, renewed, is_renewal=True)
        if isinstance(found, Claim) and self._is_for_us(found, request.scoped, now):
            if reserve:
                return self._your_turn(found, now)
            if found.group:
                # In the order of the group: what is done blocks the key that was named first.
                whole = request._replace(scoped=found.group[0], also=found.group[1:])
                result = self._try_group(whole, attempt.lock_timeout, reserve=False)
                own = self._held.get(request.scoped)
                return result._replace(found=own) if result.claimed and own is not None else result
            attempt.taken_over = self._replaced(found, now)
            new = expiry.granted(request, self.holder, now, self.maker)._replace(generation=found.generation)
            return self._grant(attempt, found, new, is_turn=True)
        state = self._state_of(found, now)
        is_done = self._is_done(found, now)
        if found is not None:
            if state.in_force or (is_done and not request.redo):
                status = Status.DONE if is_done else Status.HELD
                return ClaimResult(status, found, now, lost=self._held.lost(attempt.cached, found))
            if isinstance(found, Unreadable) or found.mode is Mode.RESERVED:
                self._make_room(attempt, found, state, now)
                return None
            attempt.taken_over = TakenOver(found, state)
        first = None
        # Nobody waits for what is done: a session that still has a place there has not asked for it to be done again.
        if attempt.queued and not is_done:
            first = self.queue.first_ahead(request.scoped, self._held.granted)
        if first is not None or reserve:
            return self._reserve(attempt, found, first, now)
        new = expiry.granted(request, self.holder, now, self.maker)
        return self._grant(attempt, found, new, in_line=not is_done)

    def _make_room(self, attempt: _Attempt, found: Claim | Unreadable, state: ClaimState, now: Moment) -> None:
        """Remove *found*, an unreadable record that is old enough, or a reservation that has lapsed."""
        scoped, lock_timeout = attempt.request.scoped, attempt.lock_timeout
        if isinstance(found, Unreadable):
            discarded = self._store.discard(found, lock_timeout=lock_timeout)
            attempt.taken_over = TakenOver(found, state) if discarded else None
            attempt.found = self._store.read(scoped)
        else:
            # What it replaced is there again, such as the marker of work that is done.
            attempt.found = end_reservation(self._store, found, now, lock_timeout).found

    def _reserve(self, attempt: _Attempt, old: Claim | None, first: Ticket | None, now: Moment) -> ClaimResult | None:
        """Reserve for the session of the ticket *first* what it waits for, or the key for this one if none goes before it.

        Returns the result if a claim is in the way: of this session, or of the one that it gives way to.
        """
        scoped, lock_timeout = attempt.request.scoped, attempt.lock_timeout
        replaced, state = attempt.taken_over or (None, ClaimState.FREE)
        if first is None:
            marker = replaced if isinstance(replaced, Claim) else None
            change = Change(scoped, old, expiry.reserved(scoped, self.holder, now, marker, state))
            overlap = self._put_reservations([change], None, self.holder, lock_timeout).overlap
        else:
            overlap = self._serve(first, {scoped: old}, now, lock_timeout)
        if overlap is not None:
            return ClaimResult(Status.HELD, overlap, now, lost=self._held.lost(attempt.cached, old))
        attempt.found, attempt.taken_over = self._store.read(scoped), None
        return None

    def _grant(
        self,
        attempt: _Attempt,
        old: Claim | None,
        new: Claim,
        *,
        is_renewal: bool = False,
        is_turn: bool = False,
        in_line: bool = False,
    ) -> ClaimResult | None:
        """Put *new* in the place of *old*; return the result unless the key has changed or *new* has expired.

        With *in_line* nobody who waits is overtaken.
        """
        scoped, lock_timeout = attempt.request.scoped, attempt.lock_timeout
        gives_way = None
        # A remote store says only that somebody waits; once that is known, the tickets have been read.
        if in_line and not (self._store.serves_queue and attempt.queued):
            # Asked by the store at the moment of the write: one that waits for the lock meanwhile may grow too old to be overtaken.
            gives_way = partial(self.queue.is_behind, scoped, self._held.granted, (), ALONE, ())
        # A renewal leaves nothing in doubt: what it renews was held before.
        with nullcontext() if is_renewal else self._held.in_doubt(new):
            blocks = self._blocks(scoped, self.holder)
            swap = self._store.swap(scoped, old, new, lock_timeout=lock_timeout, gives_way=gives_way, blocks=blocks)
            found = swap.found
            if swap.overlap is not None:
                lost = self._held.lost(attempt.cached, swap.overlap) if is_renewal else None
                return ClaimResult(Status.HELD, swap.overlap, self._machine.now(), lost=lost)
            attempt.found, attempt.queued = found, attempt.queued or swap.queued
            if not swap.won or not isinstance(found, Claim):
                attempt.taken_over = None
                return None
            attempt.acquired = attempt.acquired or not is_renewal or self._held.take_doubt(found)
            now = self._machine.now()
            if swap.trace is not None:
                attempt.taken_over = TakenOver(swap.trace, self._state_of(swap.trace, now))
            # A claim that expired while we waited for the lock is renewed, not handed over dead.
            if expiry.has_passed(found.expires, now):
                return None
            lost = self._record(found, attempt.cached, attempt.taken_over)
            self.queue.end(scoped, lock_timeout, everywhere=is_turn)
            status = Status.ACQUIRED if attempt.acquired else Status.RENEWED
            return ClaimResult(status, found, now, attempt.taken_over, lost)

    def near_claims(self, scoped: ScopedKey) -> tuple[Claim, ...]:
        """Return other sessions' claims in force on keys that look like *scoped*, and so may mean the same event.

        At most three, of at most 200 claims of the namespace in no order.  Raises nothing, as the key was just granted.
        """
        return admin.near_claims(self._store, self._machine, scoped, self.holder)

    def contact_timeout(self, result: ClaimResult) -> float | None:
        """Return the seconds without contact to the store after which it ends what *result* grants; `None` if it does not."""
        found = result.found
        if not result.claimed or not isinstance(found, Claim):
            return None
        # Others have a lease of their own: they last as long as their TTL.
        return self._store.contact_timeout if self.ends_with_process else None

    @property
    def ends_with_process(self) -> bool:
        """Whether the session ends when this process does, so that no other one acts for it."""
        holder, proof = self.holder, self._machine.proof()
        return holder.pid == self._machine.pid() and holder.proof == proof and proof.boot is not None

    def inspect_request(self, request: InspectRequest) -> Inspection:
        """Do what `inspect` does, for a checked request."""
        self._check_usable()
        scoped = request.scoped
        cached = self._held.get(self._place_of(scoped))
        for _ in range(MAX_SWAPS):
            found = self._store.read(scoped)
            now = self._machine.now()
            if is_head(found):
                try:
                    live = self._holders(found, now, 0)
                except (StoreBusyError, StoreUnavailableError):
                    live = self._living(found, now)  # As below: dead stays dead.
                if live is None:
                    continue
                return self._inspect_several(request, found, live, now)
            trace = expiry.trace_of(found, self._state_of(found, now), now)
            if trace is found or found is None:
                break
            try:
                if not admin.replace_dead(self._store, found, trace, now, 0):
                    continue  # It changed since it was read, so somebody made progress.
            except (StoreBusyError, StoreUnavailableError):
                # It cannot be replaced just now, but the answer does not depend on that: dead stays dead.
                pass
            found = trace
            break
        else:
            raise ContendedError(scoped.key, MAX_SWAPS)
        in_force = None
        if request.generation is not None:
            in_force = (
                isinstance(found, Claim)
                and found.ended is None
                and found.mode is not Mode.RESERVED
                and found.generation == request.generation
            )
        your_turn = isinstance(found, Claim) and self._is_for_us(found, scoped, now)
        there = found if cached is None or cached.scoped == scoped else self._store.read(cached.scoped)
        lost = self._held.lost(cached, there)
        is_free = found is None or (isinstance(found, Claim) and found.ended is not None)
        if is_free and (blocks := self._blocks(scoped, self.holder)) is not None:
            found = next(filter(blocks, self._store.overlapping(scoped)), found)
        held = self._holds(found, scoped) or self._is_guarded_for_us(found)
        return Inspection(found, held, now, lost, in_force, your_turn)

    def _inspect_several(
        self, request: InspectRequest, head: Claim, live: list[Claim | Unreadable], now: Moment
    ) -> Inspection:
        """Return what `inspect_request` does of a key that several hold: *live*."""
        holders = [each for each in live if isinstance(each, Claim) and each.mode is not Mode.RESERVED]
        own = next((each for each in live if isinstance(each, Claim) and is_of(each, self.holder)), None)
        cached = self._held.get(self._place_of(request.scoped))
        lost = None if cached is None else self._held.lost(cached, own or self._store.read(cached.scoped))
        in_force = None
        if request.generation is not None:
            in_force = any(each.generation == request.generation for each in holders)
        return Inspection(
            own or next(iter(live), None),
            own is not None and own in holders,
            now,
            lost,
            in_force,
            your_turn=own is not None and own not in holders,
            beside=tuple(each for each in live if each is not own),
            is_full=head.slots is not None and len(live) >= head.slots,
        )

    def release_request(self, request: ReleaseRequest, *, lock_timeout: float = LOCK_TIMEOUT) -> ReleaseResult:
        """Do what `release` does, for a checked request."""
        self._check_usable()
        return self._release(request, lock_timeout)

    def renew(self, grant: Claim, ttl: timedelta) -> Claim | None:
        """Renew *grant*, without waiting for locks; return the claim as it is now.

        `None` means that it was lost or released: a renewal never claims anew.
        """
        self._check_usable()
        grant = self._as_it_is_held(grant)
        scoped = grant.scoped
        found = self._store.read(scoped)
        while isinstance(found, Claim) and self._holds(found, scoped) and found.generation == grant.generation:
            if found.group:
                return self._renew_whole(found, ttl)
            renewed = expiry.renewed(found, ClaimRequest(scoped, ttl), self.holder, self._machine.now())
            swap = self._swap([Change(scoped, found, renewed)], self.holder, 0).only
            found = swap.found if swap.overlap is None else swap.overlap
            if swap.won and isinstance(found, Claim):
                self._record(found)
                return found
        self._held.note_loss(scoped, found)
        # The others of its group are still this session's.
        others = (self._held.get(key) for key in grant.group if key != scoped)
        kept = next((each for each in others if each is not None and each.group == grant.group), None)
        return None if kept is None else self._renew_whole(kept, ttl)

    def _renew_whole(self, held: Claim, ttl: timedelta) -> Claim | None:
        """Renew the group of *held*; return that claim as it is now, `None` if it was lost."""
        for _ in range(MAX_SWAPS):
            if (result := self._renew_group(ClaimRequest(held.scoped, ttl), held, 0)) is not None:
                own = self._held.get(held.scoped)
                return own if result.claimed or result.missing else None
            found = self._store.read(held.scoped)
            if not isinstance(found, Claim) or not self._holds(found, held.scoped) or found.group != held.group:
                self._held.note_loss(held.scoped, found)
                return None
        raise ContendedError(held.scoped.key, MAX_SWAPS)

    def take_losses(self, but: ScopedKey | None = None) -> list[tuple[Claim, Found]]:
        """Return each lost grant that no call has reported yet, with what is stored instead.

        On a store of this machine this looks at up to 100 of the keys held, except *but*, which the call has just read.  On
        a remote store it reads nothing, and returns the losses that renewals have found.  Raises nothing.
        """
        return self._held.take_losses(None if self.remote or self._in_forked_child else self._store, but)

    def end_wait(self, scoped: ScopedKey, *, keeps_place: bool) -> None:
        """End a wait that `queue.join` began.  Unless it *keeps_place*, nothing stays reserved for it.  Raises nothing."""
        keys = self.queue.choices(scoped)
        if self.queue.end_wait(scoped, keeps_place=keeps_place):
            self._decline_all(keys, LOCK_TIMEOUT)


_sessions: WeakSet[Operations] = WeakSet()


def _disown_in_forked_child() -> None:
    # The PID alone does not reveal a fork: a child in a new PID namespace may have the PID of its parent.
    for session in list(_sessions):
        session._in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_in_forked_child)
