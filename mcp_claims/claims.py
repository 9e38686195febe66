"""Claims: one session's view of the shared claims, and the policy of who may take what.

What holds for every method (DESIGN.md, C1 to C9): it decides on what it read, and the store's compare-and-swap
refuses the decision if the key has changed since.  Nothing is decided by a file's path or by the PID alone.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from threading import Lock
from types import TracebackType
from typing import Self

from mcp_claims import rules
from mcp_claims.answers import Attempt, Look, Pruned, Release, Status, TakenOver
from mcp_claims.errors import ForkedError, SessionEndedError, StoreBusyError, StoreUnavailableError
from mcp_claims.machine import Machine
from mcp_claims.record import Claim, Found, Holder, Moment, ScopedKey, Unreadable
from mcp_claims.rules import DEFAULT_NAMESPACE, Standing
from mcp_claims.stores.base import LOCK_WAIT, Store

END_WAIT = 0.2
"""Seconds that the end of a session may take in all; what it cannot free by then is freed by its death."""


_MAX_CLIENT = 100


class Claims:
    """The claims as one session, *holder*, sees and changes them.

    Methods may be called from several threads.  Each raises `InvalidInputError` for arguments outside the rules,
    `StoreUnavailableError`, `StoreBusyError` or `UnsafeDirectoryError` where the store cannot answer,
    `SessionEndedError` after `end` and `ForkedError` in a forked child; whichever it is, nothing is claimed.
    *wait* is how many seconds a method may wait for another process that is changing the same namespace.
    """

    def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
        self._store = store
        self._holder = holder
        self._machine = machine
        # What we were granted and have not given back: what `end` frees, and what tells us that we lost a claim.
        self._believed: dict[ScopedKey, Claim] = {}
        self._believing = Lock()
        self._ended = False

    @property
    def holder(self) -> Holder:
        return self._holder

    def describe_client(self, client: str) -> None:
        """Say which program the session belongs to (name and version), for people who read claims."""
        self._holder = replace(self._holder, client=rules.one_line(client[:_MAX_CLIENT])[:_MAX_CLIENT])

    def try_claim(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        ttl_minutes: float = rules.DEFAULT_TTL.total_seconds() / 60,
        note: str | None = None,
        wait: float = LOCK_WAIT,
    ) -> Attempt:
        """Claim *key*, or renew our claim on it, unless another live session holds it.

        A renewal keeps the generation, and the later of the two expiries; a note replaces the old one.
        """
        scoped = rules.scoped_key(key, namespace)
        ttl, note = rules.ttl(ttl_minutes), rules.note(note)
        self._check_usable()
        believed = self._believed.get(scoped)
        taken_over: TakenOver | None = None
        lost: Claim | None = None
        acquired = False
        found = self._store.read(scoped)
        while True:
            now = self._machine.now()
            if isinstance(found, Unreadable):
                if not rules.nobodys(found, now):
                    return Attempt(Status.HELD, found, now, lost=lost or self._lost(believed, found))
                if self._store.discard(found, wait=wait):
                    taken_over = TakenOver(found, Standing.EXPIRED)
                found = self._store.read(scoped)
                continue
            ours = found is not None and self._is_ours(found, scoped)
            if found is not None and not ours:
                standing = self._judge(found, now)
                if standing is Standing.HELD:
                    return Attempt(Status.HELD, found, now, lost=lost or self._lost(believed, found))
                taken_over = TakenOver(found, standing)
            swap = self._store.swap(scoped, found, self._next(scoped, found, now, ttl, note), wait=wait)
            found = swap.found
            if not swap.won or not isinstance(found, Claim):
                # The key changed between read and swap: somebody else got further, so somebody made progress.
                taken_over = None
                continue
            acquired = acquired or not ours
            lost = lost or self._lost(believed, found)
            now = self._machine.now()
            # A claim that ran out while we waited for the lock is renewed, not handed over dead.
            if not rules.passed(found.expires, now):
                self._believe(found)
                return Attempt(Status.ACQUIRED if acquired else Status.RENEWED, found, now, taken_over, lost)

    def is_claimed_by_other(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> Look:
        """Tell whether another live session holds *key*.  Claims nothing; removes a dead claim that it meets."""
        scoped = rules.scoped_key(key, namespace)
        self._check_usable()
        believed = self._believed.get(scoped)
        while True:
            found = self._store.read(scoped)
            now = self._machine.now()
            if found is None or self._judge(found, now) is Standing.HELD:
                break
            try:
                if not self._store.discard(found, wait=0):
                    continue  # It changed since it was read, so somebody made progress.
            except (StoreBusyError, StoreUnavailableError):
                # It cannot be removed just now, but the answer does not depend on that: dead stays dead.
                pass
            found = None
            break
        held_by_you = isinstance(found, Claim) and self._is_ours(found, scoped)
        return Look(found, held_by_you, now, self._lost(believed, found))

    def release(self, key: str, namespace: str = DEFAULT_NAMESPACE, *, wait: float = LOCK_WAIT) -> Release:
        """Give our claim on *key* back; somebody else's is left alone."""
        scoped = rules.scoped_key(key, namespace)
        self._check_usable()
        return self._release(scoped, wait)

    def prune(self, namespace: str | None = None, *, wait: float = LOCK_WAIT) -> Pruned:
        """Remove expired and orphaned claims and unreadable ones that are nobody's, in one namespace or in all."""
        if namespace is not None:
            rules.scoped_key("any", namespace)
        self._check_usable()
        removed: Counter[Standing | type[Unreadable]] = Counter()
        live = 0
        kept: list[Unreadable] = []
        failed: list[StoreUnavailableError | StoreBusyError] = []
        deadline = time.monotonic() + wait
        for found in self._store.scan(namespace):
            verdict = self._judge(found, self._machine.now())
            if verdict is Standing.HELD:
                if isinstance(found, Unreadable):
                    kept.append(found)
                else:
                    live += 1
                continue
            try:
                # Compared under the lock: what was taken again since we read it stays.
                if self._store.discard(found, wait=max(0.0, deadline - time.monotonic())):
                    removed[Unreadable if isinstance(found, Unreadable) else verdict] += 1
            except (StoreUnavailableError, StoreBusyError) as error:
                # One claim that cannot be removed must not keep the others; the caller is told of it.
                failed.append(error)
        return Pruned(
            removed[Standing.EXPIRED],
            removed[Standing.ORPHANED],
            removed[Unreadable],
            live,
            tuple(kept),
            tuple(failed),
        )

    def end(self, within: float = END_WAIT) -> int:
        """End the session: release what it holds, for at most *within* seconds; return how many claims went.

        What cannot be released in time is not lost: this process is about to die, and its claims with it.
        """
        if self._machine.pid() != self._holder.pid:
            return 0  # A forked child has nothing to end: these are its parent's claims.
        self._ended = True
        deadline = time.monotonic() + within
        released = 0
        for scoped in list(self._believed):
            try:
                released += self._release(scoped, max(0.0, deadline - time.monotonic())).released
            except (StoreUnavailableError, StoreBusyError):
                # The other claims are to be freed all the same, and nobody is left to be told.
                continue
        return released

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _check_usable(self) -> None:
        if self._machine.pid() != self._holder.pid:
            raise ForkedError
        if self._ended:
            raise SessionEndedError

    def _release(self, scoped: ScopedKey, wait: float) -> Release:
        believed = self._believed.get(scoped)
        found = first = self._store.read(scoped)
        # A claim of ours that a parallel call took anew has a new generation: it is not the one to give back.
        while isinstance(found, Claim) and isinstance(first, Claim) and self._is_ours(found, scoped):
            if found.generation != first.generation:
                break
            swap = self._store.swap(scoped, found, None, wait=wait)
            if swap.won:
                self._forget(scoped, found.generation)
                return Release(True, found, self._machine.now())
            found = swap.found
        return Release(False, found, self._machine.now(), self._lost(believed, found))

    def _next(self, scoped: ScopedKey, found: Claim | None, now: Moment, ttl: timedelta, note: str | None) -> Claim:
        """Return the claim to put in the place of *found*: ours renewed, or a new one."""
        expires = rules.later(now, ttl)
        if found is None or not self._is_ours(found, scoped):
            return Claim(scoped, self._holder, claimed=now, expires=expires, note=note)
        if rules.remaining(found.expires, now) > ttl:
            expires = replace(found.expires, wall=rules.wall_expiry(found.expires, now))
        return replace(found, holder=self._holder, expires=expires, note=note or found.note)

    def _judge(self, found: Claim | Unreadable, now: Moment) -> Standing:
        if isinstance(found, Claim):
            return rules.standing(found, now, self._machine.provably_dead)
        return Standing.EXPIRED if rules.nobodys(found, now) else Standing.HELD

    def _is_ours(self, claim: Claim, scoped: ScopedKey) -> bool:
        # Where names of files merge, the claim that is in the way of *scoped* may be one of ours on another key.
        return claim.holder.name == self._holder.name and claim.scoped == scoped

    def _believe(self, claim: Claim) -> None:
        with self._believing:
            newer = self._believed.get(claim.scoped)
            # What a parallel call was granted since, and noted before us, stays.
            if newer is None or newer.generation <= claim.generation:
                self._believed[claim.scoped] = claim
        # Either `end`, in another thread, finds the claim in what we believe, or we find that it has begun.
        if self._ended:
            self._release(claim.scoped, END_WAIT)
            raise SessionEndedError

    def _forget(self, scoped: ScopedKey, generation: int) -> None:
        with self._believing:
            believed = self._believed.get(scoped)
            if believed is not None and believed.generation <= generation:
                del self._believed[scoped]

    def _lost(self, believed: Claim | None, found: Found) -> Claim | None:
        """Return *believed*, which we believed to hold before we read *found*, if that says otherwise; once.

        A parallel call may have claimed the key since; what it was granted is not judged by our older reading.
        """
        if believed is None or (
            isinstance(found, Claim)
            and self._is_ours(found, believed.scoped)
            and found.generation == believed.generation
        ):
            return None
        with self._believing:
            if self._believed.get(believed.scoped) is not believed:
                return None
            return self._believed.pop(believed.scoped)
