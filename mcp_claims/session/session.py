"""Claims: one session's view of the shared claims, and the policy of who may take what.

What holds for every method (DESIGN.md, C1 to C9): it decides on what it read, and the store's compare-and-swap
refuses the decision if the key has changed since.  Nothing is decided by a file's path or by the PID alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from mcp_claims.errors import (
    ContendedError,
    ForkedError,
    InvalidInputError,
    SessionEndedError,
    StoreBusyError,
    StoreUnavailableError,
    UnsafeDirectoryError,
)
from mcp_claims.liveness import Machine, ProcessExit, fork_count
from mcp_claims.model import expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Ended, Found, Holder, Moment, Outcome, ScopedKey, Unreadable
from mcp_claims.model.validation import DEFAULT_NAMESPACE
from mcp_claims.session.held import HeldClaims
from mcp_claims.session.results import ClaimResult, Inspection, ReleaseResult, Status, TakenOver
from mcp_claims.stores.base import LOCK_TIMEOUT, Store

if TYPE_CHECKING:
    from typing import Self

    from mcp_claims.session.results import ClaimPage, PruneResult

CLOSE_TIMEOUT = 0.2
"""Seconds that the end of a session may wait for other processes in all."""

_MAX_CLIENT = 100
_MOST_ROUNDS = 1_000


class Session:
    """The claims as one session, *holder*, sees and changes them.

    Methods may be called from several threads.  Each raises `InvalidInputError` for arguments outside the rules,
    `StoreUnavailableError`, `StoreBusyError` or `UnsafeDirectoryError` where the store cannot answer,
    `ContendedError` where others never let us finish, `SessionEndedError` after `end` and `ForkedError` in a forked
    child; whichever it is, nothing is claimed.  *wait* is how many seconds, 0 to 3,600, a method may wait for another
    process that is changing the same namespace.
    """

    def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
        self._store = store
        self._holder = holder
        self._machine = machine
        self._held = HeldClaims(holder.name)
        self._ended = False
        self._forks, self._pid = fork_count(), machine.pid()

    @property
    def holder(self) -> Holder:
        return self._holder

    @property
    def remote(self) -> bool:
        """Tell whether the store is asked over a network, so that each method may take seconds."""
        return self._store.remote

    @property
    def holds_anything(self) -> bool:
        """Tell whether there is a claim that the session believes to hold, expired ones included."""
        return bool(self._held)

    def watch(self, of: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        """Call *tell*, from any thread, when claims on a key, in a namespace or anywhere (`None`) may have changed.

        Yields whether that can be watched; a notice can be lost all the same.
        """
        return self._store.watch(of, notify)

    def wait_queue(self, scoped: ScopedKey, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        """Stand in line for *scoped*; call *tell*, from any thread, when nobody is before us.  Yields whether there is one."""
        return self._store.wait_queue(scoped, notify)

    def watch_exit(self, holder: Holder) -> ProcessExit | None:
        """Return what becomes readable when the process of *holder* ends, where that can be watched."""
        return self._machine.watch_exit(holder)

    def describe_client(self, client: str) -> None:
        """Say which program the session belongs to (name and version), for people who read claims."""
        self._holder = self._holder._replace(client=validation.one_line(client[:_MAX_CLIENT])[:_MAX_CLIENT])

    def try_claim(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        ttl_minutes: float = validation.DEFAULT_TTL.total_seconds() / 60,
        note: str | None = None,
        redo: bool = False,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> ClaimResult:
        """Claim *key*, or renew our claim on it, unless another live session holds it or the work is done.

        A renewal keeps the generation, and the later of the two expiries; a note replaces the old one.  With *redo* work
        that is done is claimed all the same.
        """
        scoped = validation.scoped_key(key, namespace)
        ttl, note, lock_timeout = validation.ttl(ttl_minutes), validation.note(note), validation.wait(lock_timeout)
        self._check_usable()
        cached = self._held.of(scoped)
        taken_over: TakenOver | None = None
        lost: Claim | None = None
        acquired = False
        # Over a network a look takes as long as a swap, so it begins with what probably is: nobody's claim or ours, on which
        # only a swap follows, which finds out if that was wrong.  Never a refusal.
        found: Found = cached if self._store.remote else self._store.read(scoped)
        # Each further round means that the key changed between our read and our write, so somebody made progress.
        for _ in range(_MOST_ROUNDS):
            now = self._machine.now()
            if isinstance(found, Unreadable):
                if not expiry.is_past_any_ttl(found, now):
                    return ClaimResult(Status.HELD, found, now, lost=lost or self._held.lost(cached, found))
                if self._store.discard(found, lock_timeout=lock_timeout):
                    taken_over = TakenOver(found, ClaimState.EXPIRED)
                found = self._store.read(scoped)
                continue
            ours = found is not None and self._is_ours(found, scoped)
            if found is not None and not ours:
                state = self._state_of(found, now)
                if state is ClaimState.HELD or (state is ClaimState.DONE and not redo):
                    status = Status.HELD if state is ClaimState.HELD else Status.DONE
                    return ClaimResult(status, found, now, lost=lost or self._held.lost(cached, found))
                taken_over = TakenOver(found, state)
            swap = self._store.swap(scoped, found, self._next(scoped, found, now, ttl, note), lock_timeout=lock_timeout)
            found = swap.found
            if not swap.won or not isinstance(found, Claim):
                taken_over = None
                continue
            acquired = acquired or not ours
            lost = lost or self._held.lost(cached, found)
            now = self._machine.now()
            # A claim that ran out while we waited for the lock is renewed, not handed over dead.
            if not expiry.has_passed(found.expires, now):
                self._record_grant(found)
                return ClaimResult(Status.ACQUIRED if acquired else Status.RENEWED, found, now, taken_over, lost)
        raise ContendedError(key, _MOST_ROUNDS)

    def inspect(self, key: str, namespace: str = DEFAULT_NAMESPACE, *, generation: int | None = None) -> Inspection:
        """Tell whether another live session holds *key*.  Claims nothing; removes a dead claim that it meets.

        With a *generation* it also tells whether that grant, whoever's it is, still holds the key.
        """
        scoped, generation = validation.scoped_key(key, namespace), validation.generation(generation)
        self._check_usable()
        cached = self._held.of(scoped)
        for _ in range(_MOST_ROUNDS):
            found = self._store.read(scoped)
            now = self._machine.now()
            if found is None or self._state_of(found, now) not in (ClaimState.EXPIRED, ClaimState.ORPHANED):
                break
            try:
                if not self._store.discard(found, lock_timeout=0):
                    continue  # It changed since it was read, so somebody made progress.
            except (StoreBusyError, StoreUnavailableError):
                # It cannot be removed just now, but the answer does not depend on that: dead stays dead.
                pass
            found = None
            break
        else:
            raise ContendedError(key, _MOST_ROUNDS)
        held_by_you = isinstance(found, Claim) and self._is_ours(found, scoped)
        in_force = None
        if generation is not None:
            in_force = isinstance(found, Claim) and found.ended is None and found.generation == generation
        return Inspection(found, held_by_you, now, self._held.lost(cached, found), in_force)

    def release(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        outcome: Outcome | None = None,
        note: str | None = None,
        retention_hours: float = validation.DEFAULT_RETENTION.total_seconds() / 3600,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> ReleaseResult:
        """Give our claim on *key* back; somebody else's is left alone.

        With an *outcome* a marker stays for *retention_hours*, with the *note* or that of the claim: work that is done
        is not claimed again, and of any other the next holder is told.
        """
        scoped, lock_timeout = validation.scoped_key(key, namespace), validation.wait(lock_timeout)
        retention, note = validation.retention(retention_hours), validation.note(note)
        if note is not None and outcome is None:
            raise InvalidInputError("note", "goes with an outcome")
        self._check_usable()
        if outcome is None:
            return self._release(scoped, lock_timeout)

        marked = partial(expiry.marker, outcome=outcome, now=self._machine.now(), retention=retention, note=note)
        return self._release(scoped, lock_timeout, marked)

    def revoke(
        self, found: Claim | Unreadable, reason: str | None = None, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> bool:
        """Take *found*, anybody's claim or what cannot be read, away; tell whether it was still there, renewed or not.

        A marker of a new generation stays for a day, which says to whom it belonged, who took it and why: its holder is
        told so, and what checks generations no longer takes the old one.  For people, who know that the holder hangs.
        """
        reason = validation.note(reason)
        self._check_usable()
        if isinstance(found, Unreadable):
            return self._store.discard(found, lock_timeout=lock_timeout)
        note = f"taken from {found.holder.name} by force" + (f": {reason}" if reason else "")
        taken = found
        for _ in range(_MOST_ROUNDS):
            now = self._machine.now()
            marker = Claim(
                found.scoped,
                self._holder,
                claimed=found.claimed,
                expires=expiry.later(now, validation.DEFAULT_RETENTION),
                note=note[: validation.MAX_NOTE_CHARACTERS],
                ended=Ended(Outcome.REVOKED, now),
            )
            swap = self._store.swap(found.scoped, taken, marker, lock_timeout=lock_timeout)
            if swap.won:
                return True
            # A program renews what it holds however it hangs, perhaps while a person thinks about the question.
            if not isinstance(swap.found, Claim) or not _same_grant(swap.found, found):
                return False
            taken = swap.found
        raise ContendedError(found.scoped.key, _MOST_ROUNDS)

    def renew(self, granted: Claim, ttl_minutes: float) -> Claim | None:
        """Renew *granted*, an earlier grant of ours, without waiting for other processes; return it as it is now.

        `None` means that it is lost or was given back: this never claims anew.
        """
        ttl = validation.ttl(ttl_minutes)
        self._check_usable()
        scoped = granted.scoped
        found = self._store.read(scoped)
        while isinstance(found, Claim) and self._is_ours(found, scoped) and found.generation == granted.generation:
            swap = self._store.swap(
                scoped, found, self._next(scoped, found, self._machine.now(), ttl, None), lock_timeout=0
            )
            found = swap.found
            if swap.won:
                break
        else:
            return None
        assert isinstance(found, Claim)
        self._record_grant(found)
        return found

    def prune(self, namespace: str | None = None, *, lock_timeout: float = LOCK_TIMEOUT) -> PruneResult:
        """Remove expired and orphaned claims and unreadable ones that are nobody's, in one namespace or in all."""
        if namespace is not None:
            validation.scoped_key("any", namespace)
        lock_timeout = validation.wait(lock_timeout)
        self._check_usable()
        from mcp_claims.session import admin  # Here, and below: a check looks at one key only.

        return admin.prune(self._store, self._machine, namespace, lock_timeout)

    def listing(
        self, namespace: str | None = None, *, mine: bool = False, after: str = "", at_most: int = 50
    ) -> ClaimPage:
        """Return what is stored, dead claims and markers too, from behind the position *after*, *at_most* of it.

        With *mine* only what this session holds or has said of its work.  Removes nothing.
        """
        if namespace is not None:
            validation.scoped_key("any", namespace)
        self._check_usable()
        of = self._holder.name if mine else None
        from mcp_claims.session import admin

        return admin.listing(self._store, self._machine, namespace, of=of, after=after, at_most=at_most)

    def stored(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> ClaimPage:
        """Return what is stored for *key*, if anything is, as `listing` does; removes nothing, not even a dead claim."""
        scoped = validation.scoped_key(key, namespace)
        self._check_usable()
        from mcp_claims.session import admin

        return admin.stored(self._store, self._machine, scoped)

    def release_grant(self, granted: Claim) -> None:
        """Release *granted*, which its caller has not been told of, unless somebody else has built on it since."""
        try:
            if self._store.swap(granted.scoped, granted, None).won:
                self._held.forget(granted.scoped, granted.generation)
        except (StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
            # Nobody is left to be told.  It is ours, and the end of the session or of its time frees it.
            return

    def begin_close(self) -> None:
        """Take no more calls: the session ends, and `end` is called later, from where it may take its time."""
        self._ended = True

    def end(self, *, within: float = CLOSE_TIMEOUT, dying: bool = False) -> int:
        """End the session: release what it holds; return how many claims went.

        It waits for locks for *within* seconds in all; called again, it tries what it could not release.  A *dying*
        process takes no longer than that for all of it: what is left then dies with the process.
        """
        if self._is_forked():
            return 0  # A forked child has nothing to end: these are its parent's claims.
        self._ended = True
        deadline = time.monotonic() + within
        released = 0
        for scoped in self._held.keys():
            left = deadline - time.monotonic()
            if dying and left <= 0:
                break
            try:
                released += self._release(scoped, max(0.0, left)).released
            except (StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
                # The other claims are to be freed all the same, and nobody is left to be told.  A store that does not
                # answer will not for the next one either, after seconds; it frees them when it no longer hears from us.
                if self._store.remote:
                    break
        return released

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _check_usable(self) -> None:
        if self._is_forked():
            raise ForkedError
        if self._ended:
            raise SessionEndedError

    def _is_forked(self) -> bool:
        return self._forks != fork_count() or self._machine.pid() != self._pid

    def _release(
        self, scoped: ScopedKey, lock_timeout: float, marker: Callable[[Claim], Claim] | None = None
    ) -> ReleaseResult:
        cached = self._held.of(scoped)
        found = first = self._store.read(scoped) if cached is None else cached
        # A claim of ours that a parallel call took anew has a new generation: it is not the one to give back.
        while isinstance(found, Claim) and isinstance(first, Claim) and self._is_ours(found, scoped):
            if found.generation != first.generation:
                break
            swap = self._store.swap(scoped, found, marker(found) if marker else None, lock_timeout=lock_timeout)
            if swap.won:
                self._held.forget(scoped, found.generation)
                return ReleaseResult(True, swap.found or found, self._machine.now())
            found = swap.found
        return ReleaseResult(False, found, self._machine.now(), self._held.lost(cached, found))

    def _next(self, scoped: ScopedKey, found: Claim | None, now: Moment, ttl: timedelta, note: str | None) -> Claim:
        """Return the claim to put in the place of *found*: ours renewed, or a new one."""
        expires = expiry.later(now, ttl)
        if found is None or not self._is_ours(found, scoped):
            return Claim(scoped, self._holder, claimed=now, expires=expires, note=note)
        if expiry.remaining(found.expires, now) > ttl:
            expires = found.expires._replace(wall=expiry.wall_expiry(found.expires, now))
        return found._replace(holder=self._holder, expires=expires, note=note or found.note)

    def _state_of(self, found: Claim | Unreadable, now: Moment) -> ClaimState:
        return expiry.state_of(found, now, self._machine.provably_dead)

    def _is_ours(self, claim: Claim, scoped: ScopedKey) -> bool:
        """Tell whether *claim* is ours and holds *scoped*, as a marker does not.

        Where names of files merge, the claim that is in the way of *scoped* may be one of ours on another key.
        """
        return claim.holder.name == self._holder.name and claim.ended is None and claim.scoped == scoped

    def _record_grant(self, claim: Claim) -> None:
        self._held.add(claim)
        # Either `end`, in another thread, finds the claim in what we believe, or we find that it has begun.
        if self._ended:
            self._release(claim.scoped, CLOSE_TIMEOUT)
            raise SessionEndedError


def _same_grant(one: Claim, other: Claim) -> bool:
    return (one.scoped, one.holder.name, one.generation, one.claimed, one.ended) == (
        other.scoped,
        other.holder.name,
        other.generation,
        other.claimed,
        other.ended,
    )
