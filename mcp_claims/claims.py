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

from mcp_claims import rules
from mcp_claims.answers import Attempt, Look, Release, Status, TakenOver
from mcp_claims.beliefs import Beliefs
from mcp_claims.errors import (
    ContendedError,
    ForkedError,
    InvalidInputError,
    SessionEndedError,
    StoreBusyError,
    StoreUnavailableError,
    UnsafeDirectoryError,
)
from mcp_claims.machine import Death, Machine
from mcp_claims.machine.forks import forks
from mcp_claims.record import Claim, Ended, Found, Holder, Moment, Outcome, ScopedKey, Unreadable
from mcp_claims.rules import DEFAULT_NAMESPACE, Standing
from mcp_claims.stores.base import LOCK_WAIT, RemoteStore, Store
from mcp_claims.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

    from mcp_claims.overview import Listing, Pruned

END_WAIT = 0.2
"""Seconds that the end of a session may wait for other processes in all."""

_MAX_CLIENT = 100
_MOST_ROUNDS = 1_000


class Claims:
    """The claims as one session, *holder*, sees and changes them.

    Methods may be called from several threads.  Each raises `InvalidInputError` for arguments outside the rules,
    `StoreUnavailableError`, `StoreBusyError` or `UnsafeDirectoryError` where the store cannot answer,
    `ContendedError` where others never let us finish, `SessionEndedError` after `end` and `ForkedError` in a forked
    child; whichever it is, nothing is claimed.  *wait* is how many seconds, 0 to 3,600, a method may wait for another
    process that is changing the same namespace.
    """

    def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
        self._store = store
        self._remote = isinstance(store, RemoteStore)
        self._holder = holder
        self._machine = machine
        self._beliefs = Beliefs(holder.name)
        self._ended = False
        self._forks, self._pid = forks(), machine.pid()

    @property
    def holder(self) -> Holder:
        return self._holder

    @property
    def remote(self) -> bool:
        """Tell whether the store is asked over a network, so that each method may take seconds."""
        return self._remote

    @property
    def holds_anything(self) -> bool:
        """Tell whether there is a claim that the session believes to hold, expired ones included."""
        return bool(self._beliefs)

    def watch(self, of: ScopedKey | str | None, tell: Callable[[], None]) -> AbstractContextManager[bool]:
        """Call *tell*, from any thread, when claims on a key, in a namespace or anywhere (`None`) may have changed.

        Yields whether that can be watched; a notice can be lost all the same.
        """
        return self._store.watch(of, tell)

    def line(self, scoped: ScopedKey, tell: Callable[[], None]) -> AbstractContextManager[bool]:
        """Stand in line for *scoped*; call *tell*, from any thread, when nobody is before us.  Yields whether there is one."""
        return self._store.line(scoped, tell)

    def death_of(self, holder: Holder) -> Death | None:
        """Return what becomes readable when the process of *holder* ends, where that can be watched."""
        return self._machine.death_of(holder)

    def describe_client(self, client: str) -> None:
        """Say which program the session belongs to (name and version), for people who read claims."""
        self._holder = self._holder._replace(client=rules.one_line(client[:_MAX_CLIENT])[:_MAX_CLIENT])

    def try_claim(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        ttl_minutes: float = rules.DEFAULT_TTL.total_seconds() / 60,
        note: str | None = None,
        redo: bool = False,
        wait: float = LOCK_WAIT,
    ) -> Attempt:
        """Claim *key*, or renew our claim on it, unless another live session holds it or the work is done.

        A renewal keeps the generation, and the later of the two expiries; a note replaces the old one.  With *redo* work
        that is done is claimed all the same.
        """
        scoped = rules.scoped_key(key, namespace)
        ttl, note, wait = rules.ttl(ttl_minutes), rules.note(note), rules.wait(wait)
        self._check_usable()
        believed = self._beliefs.of(scoped)
        taken_over: TakenOver | None = None
        lost: Claim | None = None
        acquired = False
        # Over a network a look takes as long as a swap, so it begins with what probably is: nobody's claim or ours, on which
        # only a swap follows, which finds out if that was wrong.  Never a refusal.
        found: Found = believed if self._remote else self._store.read(scoped)
        # Each further round means that the key changed between our read and our write, so somebody made progress.
        for _ in range(_MOST_ROUNDS):
            now = self._machine.now()
            if isinstance(found, Unreadable):
                if not rules.nobodys(found, now):
                    return Attempt(Status.HELD, found, now, lost=lost or self._beliefs.lost(believed, found))
                if self._store.discard(found, wait=wait):
                    taken_over = TakenOver(found, Standing.EXPIRED)
                found = self._store.read(scoped)
                continue
            ours = found is not None and self._is_ours(found, scoped)
            if found is not None and not ours:
                standing = self._judge(found, now)
                if standing is Standing.HELD or (standing is Standing.DONE and not redo):
                    status = Status.HELD if standing is Standing.HELD else Status.DONE
                    return Attempt(status, found, now, lost=lost or self._beliefs.lost(believed, found))
                taken_over = TakenOver(found, standing)
            swap = self._store.swap(scoped, found, self._next(scoped, found, now, ttl, note), wait=wait)
            found = swap.found
            if not swap.won or not isinstance(found, Claim):
                taken_over = None
                continue
            acquired = acquired or not ours
            lost = lost or self._beliefs.lost(believed, found)
            now = self._machine.now()
            # A claim that ran out while we waited for the lock is renewed, not handed over dead.
            if not rules.passed(found.expires, now):
                self._believe(found)
                return Attempt(Status.ACQUIRED if acquired else Status.RENEWED, found, now, taken_over, lost)
        raise ContendedError(key, _MOST_ROUNDS)

    def is_claimed_by_other(
        self, key: str, namespace: str = DEFAULT_NAMESPACE, *, generation: int | None = None
    ) -> Look:
        """Tell whether another live session holds *key*.  Claims nothing; removes a dead claim that it meets.

        With a *generation* it also tells whether that grant, whoever's it is, still holds the key.
        """
        scoped, generation = rules.scoped_key(key, namespace), rules.generation(generation)
        self._check_usable()
        believed = self._beliefs.of(scoped)
        for _ in range(_MOST_ROUNDS):
            found = self._store.read(scoped)
            now = self._machine.now()
            if found is None or self._judge(found, now) not in (Standing.EXPIRED, Standing.ORPHANED):
                break
            try:
                if not self._store.discard(found, wait=0):
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
        return Look(found, held_by_you, now, self._beliefs.lost(believed, found), in_force)

    def release(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        outcome: Outcome | None = None,
        note: str | None = None,
        retention_hours: float = rules.DEFAULT_RETENTION.total_seconds() / 3600,
        wait: float = LOCK_WAIT,
    ) -> Release:
        """Give our claim on *key* back; somebody else's is left alone.

        With an *outcome* a marker stays for *retention_hours*, with the *note* or that of the claim: work that is done
        is not claimed again, and of any other the next holder is told.
        """
        scoped, wait = rules.scoped_key(key, namespace), rules.wait(wait)
        retention, note = rules.retention(retention_hours), rules.note(note)
        if note is not None and outcome is None:
            raise InvalidInputError("note", "goes with an outcome")
        self._check_usable()
        if outcome is None:
            return self._release(scoped, wait)

        marked = partial(rules.marker, outcome=outcome, now=self._machine.now(), retention=retention, note=note)
        return self._release(scoped, wait, marked)

    def revoke(self, found: Claim | Unreadable, reason: str | None = None, *, wait: float = LOCK_WAIT) -> bool:
        """Take *found*, anybody's claim or what cannot be read, away; tell whether it was still there, renewed or not.

        A marker of a new generation stays for a day, which says to whom it belonged, who took it and why: its holder is
        told so, and what checks generations no longer takes the old one.  For people, who know that the holder hangs.
        """
        reason = rules.note(reason)
        self._check_usable()
        if isinstance(found, Unreadable):
            return self._store.discard(found, wait=wait)
        note = f"taken from {found.holder.name} by force" + (f": {reason}" if reason else "")
        taken = found
        for _ in range(_MOST_ROUNDS):
            now = self._machine.now()
            marker = Claim(
                found.scoped,
                self._holder,
                claimed=found.claimed,
                expires=rules.later(now, rules.DEFAULT_RETENTION),
                note=note[: rules.MAX_NOTE_CHARACTERS],
                ended=Ended(Outcome.REVOKED, now),
            )
            swap = self._store.swap(found.scoped, taken, marker, wait=wait)
            if swap.won:
                return True
            # A program renews what it holds however it hangs, perhaps while a person thinks about the question.
            if not isinstance(swap.found, Claim) or not _same_grant(swap.found, found):
                return False
            taken = swap.found
        raise ContendedError(found.scoped.key, _MOST_ROUNDS)

    def prolong(self, granted: Claim, ttl_minutes: float) -> Claim | None:
        """Renew *granted*, an earlier grant of ours, without waiting for other processes; return it as it is now.

        `None` means that it is lost or was given back: this never claims anew.
        """
        ttl = rules.ttl(ttl_minutes)
        self._check_usable()
        scoped = granted.scoped
        found = self._store.read(scoped)
        while isinstance(found, Claim) and self._is_ours(found, scoped) and found.generation == granted.generation:
            swap = self._store.swap(scoped, found, self._next(scoped, found, self._machine.now(), ttl, None), wait=0)
            found = swap.found
            if swap.won:
                break
        else:
            return None
        assert isinstance(found, Claim)
        self._believe(found)
        return found

    def prune(self, namespace: str | None = None, *, wait: float = LOCK_WAIT) -> Pruned:
        """Remove expired and orphaned claims and unreadable ones that are nobody's, in one namespace or in all."""
        if namespace is not None:
            rules.scoped_key("any", namespace)
        wait = rules.wait(wait)
        self._check_usable()
        from mcp_claims import overview  # Here, and below: a check looks at one key only.

        return overview.prune(self._store, self._machine, namespace, wait)

    def listing(
        self, namespace: str | None = None, *, mine: bool = False, after: str = "", at_most: int = 50
    ) -> Listing:
        """Return what is stored, dead claims and markers too, from behind the position *after*, *at_most* of it.

        With *mine* only what this session holds or has said of its work.  Removes nothing.
        """
        if namespace is not None:
            rules.scoped_key("any", namespace)
        self._check_usable()
        of = self._holder.name if mine else None
        from mcp_claims import overview

        return overview.listing(self._store, self._machine, namespace, of=of, after=after, at_most=at_most)

    def stored(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> Listing:
        """Return what is stored for *key*, if anything is, as `listing` does; removes nothing, not even a dead claim."""
        scoped = rules.scoped_key(key, namespace)
        self._check_usable()
        from mcp_claims import overview

        return overview.stored(self._store, self._machine, scoped)

    def give_back(self, granted: Claim) -> None:
        """Release *granted*, which its caller has not been told of, unless somebody else has built on it since."""
        try:
            if self._store.swap(granted.scoped, granted, None).won:
                self._beliefs.forget(granted.scoped, granted.generation)
        except (StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
            # Nobody is left to be told.  It is ours, and the end of the session or of its time frees it.
            return

    def refuse(self) -> None:
        """Take no more calls: the session ends, and `end` is called later, from where it may take its time."""
        self._ended = True

    def end(self, *, within: float = END_WAIT, dying: bool = False) -> int:
        """End the session: release what it holds; return how many claims went.

        It waits for locks for *within* seconds in all; called again, it tries what it could not release.  A *dying*
        process takes no longer than that for all of it: what is left then dies with the process.
        """
        if self._is_forked():
            return 0  # A forked child has nothing to end: these are its parent's claims.
        self._ended = True
        deadline = time.monotonic() + within
        released = 0
        for scoped in self._beliefs.keys():  # noqa: SIM118 (a copy)
            left = deadline - time.monotonic()
            if dying and left <= 0:
                break
            try:
                released += self._release(scoped, max(0.0, left)).released
            except (StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
                # The other claims are to be freed all the same, and nobody is left to be told.  A store that does not
                # answer will not for the next one either, after seconds; it frees them when it no longer hears from us.
                if self._remote:
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
        return self._forks != forks() or self._machine.pid() != self._pid

    def _release(self, scoped: ScopedKey, wait: float, marker: Callable[[Claim], Claim] | None = None) -> Release:
        believed = self._beliefs.of(scoped)
        found = first = self._store.read(scoped) if believed is None else believed
        # A claim of ours that a parallel call took anew has a new generation: it is not the one to give back.
        while isinstance(found, Claim) and isinstance(first, Claim) and self._is_ours(found, scoped):
            if found.generation != first.generation:
                break
            swap = self._store.swap(scoped, found, marker(found) if marker else None, wait=wait)
            if swap.won:
                self._beliefs.forget(scoped, found.generation)
                return Release(True, swap.found or found, self._machine.now())
            found = swap.found
        return Release(False, found, self._machine.now(), self._beliefs.lost(believed, found))

    def _next(self, scoped: ScopedKey, found: Claim | None, now: Moment, ttl: timedelta, note: str | None) -> Claim:
        """Return the claim to put in the place of *found*: ours renewed, or a new one."""
        expires = rules.later(now, ttl)
        if found is None or not self._is_ours(found, scoped):
            return Claim(scoped, self._holder, claimed=now, expires=expires, note=note)
        if rules.remaining(found.expires, now) > ttl:
            expires = found.expires._replace(wall=rules.wall_expiry(found.expires, now))
        return found._replace(holder=self._holder, expires=expires, note=note or found.note)

    def _judge(self, found: Claim | Unreadable, now: Moment) -> Standing:
        return rules.judge(found, now, self._machine.provably_dead)

    def _is_ours(self, claim: Claim, scoped: ScopedKey) -> bool:
        """Tell whether *claim* is ours and holds *scoped*, as a marker does not.

        Where names of files merge, the claim that is in the way of *scoped* may be one of ours on another key.
        """
        return claim.holder.name == self._holder.name and claim.ended is None and claim.scoped == scoped

    def _believe(self, claim: Claim) -> None:
        self._beliefs.add(claim)
        # Either `end`, in another thread, finds the claim in what we believe, or we find that it has begun.
        if self._ended:
            self._release(claim.scoped, END_WAIT)
            raise SessionEndedError


def _same_grant(one: Claim, other: Claim) -> bool:
    return (one.scoped, one.holder.name, one.generation, one.claimed, one.ended) == (
        other.scoped,
        other.holder.name,
        other.generation,
        other.claimed,
        other.ended,
    )
