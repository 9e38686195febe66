"""The operations of one session: try_claim, inspect, release, revoke, close.

Every operation decides on what it read, and the store's compare-and-swap refuses the decision if the key has changed
since.  Nothing is decided by a file's path or by the PID alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import Self
from weakref import WeakSet

from mcp_claims.errors import (
    ContendedError,
    ForkedError,
    SessionEndedError,
    StoreBusyError,
    StoreUnavailableError,
    UnsafeDirectoryError,
)
from mcp_claims.liveness import Machine, ProcessExit
from mcp_claims.model import expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Found, Holder, Moment, Outcome, ScopedKey, Unreadable
from mcp_claims.model.text import one_line
from mcp_claims.model.validation import (
    DEFAULT_NAMESPACE,
    DEFAULT_RETENTION_HOURS,
    DEFAULT_TTL_MINUTES,
    ClaimRequest,
    InspectRequest,
    ReleaseRequest,
)
from mcp_claims.session import admin
from mcp_claims.session.block import hold, hold_async
from mcp_claims.session.held import HeldClaims
from mcp_claims.session.results import (
    ClaimPage,
    ClaimResult,
    Inspection,
    PruneResult,
    ReleaseResult,
    Status,
    TakenOver,
)
from mcp_claims.stores.base import LOCK_TIMEOUT, MAX_SWAPS, Store

CLOSE_TIMEOUT = 0.2
"""Seconds that the end of a session waits for locks by default, in all."""

_MAX_CLIENT, _MAX_DIRECTORY = 100, 200  # characters


class Session:
    """The claims as one session, *holder*, sees and changes them; several threads may use it.

    Each method raises `InvalidInputError` for arguments outside the rules, `StoreUnavailableError`, `StoreBusyError` or
    `UnsafeDirectoryError` where the store cannot answer, `ContendedError` where others never let the call finish,
    `SessionEndedError` after `close` and `ForkedError` in a forked child; in all these cases nothing new is claimed.
    *lock_timeout* is how many seconds, 0 to 3,600, a method may wait for another process that is changing the same
    namespace; it has nothing to do with waiting for the holder of a key, which is *wait*.
    """

    def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
        self._store = store
        self.holder = holder
        """The public name of the session and the process that it lives in."""
        self.remote = store.remote
        """Whether the store is asked over a network, so that each method may take seconds."""
        self._machine = machine
        self._held = HeldClaims(holder.name)
        self._closed = False
        self._in_forked_child = False
        _sessions.add(self)

    @property
    def holds_anything(self) -> bool:
        """Whether there is a claim that the session was granted and has not released, expired ones included."""
        return bool(self._held)

    # The public operations: arguments are parsed here, once.

    def try_claim(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        ttl_minutes: float = DEFAULT_TTL_MINUTES,
        note: str | None = None,
        redo: bool = False,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> ClaimResult:
        """Claim *key*, or renew our claim on it, unless another live session holds it or the work is done.

        A renewal keeps the generation and the later of the two expiries; a *note* replaces the old one.  With *redo*
        work that is done is claimed all the same.  Never waits for a holder; `claim` does.
        """
        request = ClaimRequest.parse(key, namespace, ttl_minutes=ttl_minutes, note=note, redo=redo)
        return self.try_request(request, lock_timeout=validation.parse_lock_timeout(lock_timeout))

    def claim(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        wait: float = 0,
        ttl_minutes: float = DEFAULT_TTL_MINUTES,
        note: str | None = None,
        redo: bool = False,
        keep_alive: bool = False,
    ) -> AbstractContextManager[Claim]:
        """Hold *key* for the block: wait for its holder for up to *wait* seconds (0 to 300), release it at the end.

        With *keep_alive* a thread renews the claim until then.  Raises `NotClaimedError` if another session still holds
        the key, if the work is done, or if this session holds the key already: two blocks must not run at a time.
        """
        request = ClaimRequest.parse(
            key, namespace, ttl_minutes=ttl_minutes, note=note, redo=redo, wait_seconds=wait, keep_alive=keep_alive
        )
        return hold(self, request)

    def claim_async(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        wait: float = 0,
        ttl_minutes: float = DEFAULT_TTL_MINUTES,
        note: str | None = None,
        redo: bool = False,
        keep_alive: bool = False,
    ) -> AbstractAsyncContextManager[Claim]:
        """Hold *key* for the block, as `claim` does, without blocking the event loop (asyncio or trio's, by anyio)."""
        request = ClaimRequest.parse(
            key, namespace, ttl_minutes=ttl_minutes, note=note, redo=redo, wait_seconds=wait, keep_alive=keep_alive
        )
        return hold_async(self, request)

    def inspect(self, key: str, namespace: str = DEFAULT_NAMESPACE, *, generation: int | None = None) -> Inspection:
        """Return who holds *key*.  Claims nothing; removes a dead claim.

        With a *generation*, `in_force` of the result is whether that grant, of any session, still holds the key.
        """
        return self.inspect_request(InspectRequest.parse(key, namespace, generation=generation))

    def release(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        outcome: Outcome | str | None = None,
        note: str | None = None,
        retention_hours: float = DEFAULT_RETENTION_HOURS,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> ReleaseResult:
        """Release our claim on *key*; somebody else's is left alone.

        With an *outcome* (`done`, `failed` or `abandoned`) a marker stays for *retention_hours*, with the *note* or
        that of the claim: work that is done is not claimed again, and the next holder learns of any other outcome.
        """
        request = ReleaseRequest.parse(key, namespace, outcome=outcome, note=note, retention_hours=retention_hours)
        return self.release_request(request, lock_timeout=validation.parse_lock_timeout(lock_timeout))

    def revoke(
        self, found: Claim | Unreadable, reason: str | None = None, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> bool:
        """Revoke *found*, a claim of any session, or remove it if it is unreadable; return whether it was still stored.

        A claim that was renewed meanwhile is revoked too.  A marker of a new generation stays for a day, with the former
        holder, the revoking session and the *reason*.  The former holder learns of it from its next call, and a resource
        that checks generations refuses the old one.  For people who know that the holder hangs.
        """
        reason = validation.parse_note(reason)
        self._check_usable()
        return admin.revoke(self._store, self._machine, found, self.holder, reason, lock_timeout)

    def forget(self, key: str, namespace: str = DEFAULT_NAMESPACE, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        """Remove the marker that says how the work on *key* ended, whoever left it; return whether there was one.

        A claim stays, and so does what cannot be read.
        """
        scoped = validation.scoped_key(key, namespace)
        self._check_usable()
        return admin.forget(self._store, scoped, lock_timeout)

    def prune(self, namespace: str | None = None, *, lock_timeout: float = LOCK_TIMEOUT) -> PruneResult:
        """Remove dead claims, and unreadable ones that are older than any TTL, in one namespace or in all."""
        timeout = validation.parse_lock_timeout(lock_timeout)
        self._check_usable(namespace)
        return admin.prune(self._store, self._machine, namespace, timeout)

    def list_claims(
        self, namespace: str | None = None, *, mine: bool = False, after: str = "", limit: int = 50
    ) -> ClaimPage:
        """Return up to *limit* claims and markers after the position *after*, dead claims included.

        With *mine*, only those of this session.  Removes nothing.
        """
        self._check_usable(namespace)
        holder = self.holder.name if mine else None
        return admin.list_claims(self._store, self._machine, namespace, holder=holder, after=after, limit=limit)

    def read(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> ClaimPage:
        """Return what is stored for *key* as a page of one or none; unlike `inspect`, removes nothing."""
        scoped = validation.scoped_key(key, namespace)
        self._check_usable()
        return admin.read_claim(self._store, self._machine, scoped)

    def close(self, *, within: float = CLOSE_TIMEOUT, dying: bool = False) -> int:
        """End the session: release what it holds; return how many claims were released.

        It waits for locks for *within* seconds in all; a second call tries what the first could not release.  In a
        *dying* process the whole call takes no longer than that: the death of the process orphans the other claims.
        """
        if self._in_forked_child:
            return 0  # The claims are the parent's.
        self._closed = True
        deadline = time.monotonic() + within
        released = 0
        for scoped in self._held.keys():  # noqa: SIM118 (a copy, since a release changes what is held)
            left = deadline - time.monotonic()
            if dying and left <= 0:
                break
            try:
                released += self._release(ReleaseRequest(scoped), max(0.0, left)).released
            except (StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
                # One failure must not keep the other claims.  A remote store that does not answer will not answer the
                # next request either; it frees the claims once it no longer hears from this process.
                if self._store.remote:
                    break
        return released

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The operations on parsed requests, for the server and the command line.

    def try_request(self, request: ClaimRequest, *, lock_timeout: float = LOCK_TIMEOUT) -> ClaimResult:
        """Do what `try_claim` does, for a checked request."""
        self._check_usable()
        scoped = request.scoped
        cached = self._held.get(scoped)
        taken_over: TakenOver | None = None
        acquired = False
        # Remote: skip the read and start from our cached grant or None.  The swap's compare corrects a wrong guess;
        # never refuse from the cache.
        found: Found = cached if self._store.remote else self._store.read(scoped)
        # Each further round means that the key changed between our read and our write, so somebody made progress.
        for _ in range(MAX_SWAPS):
            now = self._machine.now()
            ours = self._holds(found, scoped)
            if found is not None and not ours:
                state = self._state_of(found, now)
                if state is ClaimState.HELD or (state is ClaimState.DONE and not request.redo):
                    status = Status.HELD if state is ClaimState.HELD else Status.DONE
                    return ClaimResult(status, found, now, lost=self._held.lost(cached, found))
                if isinstance(found, Unreadable):
                    discarded = self._store.discard(found, lock_timeout=lock_timeout)
                    taken_over = TakenOver(found, state) if discarded else None
                    found = self._store.read(scoped)
                    continue
                taken_over = TakenOver(found, state)
            assert not isinstance(found, Unreadable)
            if ours and found is not None:
                new = expiry.renewed(found, request, self.holder, now)
            else:
                new = expiry.granted(request, self.holder, now)
            # A renewal leaves nothing in doubt: what it renews was held before.
            with nullcontext() if ours else self._held.in_doubt(new):
                swap = self._store.swap(scoped, found, new, lock_timeout=lock_timeout)
                found = swap.found
                if not swap.won or not isinstance(found, Claim):
                    taken_over = None
                    continue
                acquired = acquired or not ours or self._held.take_doubt(found)
                now = self._machine.now()
                # A claim that expired while we waited for the lock is renewed, not handed over dead.
                if not expiry.has_passed(found.expires, now):
                    lost = self._record(found, cached)
                    return ClaimResult(Status.ACQUIRED if acquired else Status.RENEWED, found, now, taken_over, lost)
        raise ContendedError(scoped.key, MAX_SWAPS)

    def near_claims(self, scoped: ScopedKey) -> tuple[Claim, ...]:
        """Return claims in force, of others, on keys that look like *scoped*: perhaps they mean the same event.

        For a new grant: at most three of them, among the first 200 claims of the namespace.  Never raises: the key is
        granted.
        """
        return admin.near_claims(self._store, self._machine, scoped, self.holder)

    def inspect_request(self, request: InspectRequest) -> Inspection:
        """Do what `inspect` does, for a checked request."""
        self._check_usable()
        scoped = request.scoped
        cached = self._held.get(scoped)
        for _ in range(MAX_SWAPS):
            found = self._store.read(scoped)
            now = self._machine.now()
            if found is None or not self._state_of(found, now).dead:
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
            raise ContendedError(scoped.key, MAX_SWAPS)
        in_force = None
        if request.generation is not None:
            in_force = isinstance(found, Claim) and found.ended is None and found.generation == request.generation
        return Inspection(found, self._holds(found, scoped), now, self._held.lost(cached, found), in_force)

    def release_request(self, request: ReleaseRequest, *, lock_timeout: float = LOCK_TIMEOUT) -> ReleaseResult:
        """Do what `release` does, for a checked request."""
        self._check_usable()
        return self._release(request, lock_timeout)

    def renew(self, grant: Claim, ttl: timedelta) -> Claim | None:
        """Renew *grant*, without waiting for locks; return the claim as it is now.

        `None` means that it was lost or released: a renewal never claims anew.
        """
        self._check_usable()
        scoped = grant.scoped
        found = self._store.read(scoped)
        while isinstance(found, Claim) and self._holds(found, scoped) and found.generation == grant.generation:
            renewed = expiry.renewed(found, ClaimRequest(scoped, ttl), self.holder, self._machine.now())
            swap = self._store.swap(scoped, found, renewed, lock_timeout=0)
            found = swap.found
            if swap.won and isinstance(found, Claim):
                self._record(found)
                return found
        self._held.note_loss(scoped, found)
        return None

    def take_losses(self, but: ScopedKey | None = None) -> list[tuple[Claim, Found]]:
        """Return the grants that were lost and that no call has reported, each with what is stored instead; each once.

        On a store of this machine it reads what is held, up to 100 keys, *but* the key that was just read.  On a remote
        store it is limited to the losses that renewals have found.  Raises nothing.
        """
        return self._held.take_losses(None if self.remote or self._in_forked_child else self._store.read, but)

    def release_grant(self, grant: Claim) -> None:
        """Release *grant*, which never reached its caller, unless it has changed since."""
        if self._in_forked_child:
            return
        try:
            if self._store.swap(grant.scoped, grant, None).won:
                self._held.remove(grant)
        except (StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
            # No caller is left to report to.  The end of the session or the expiry frees the claim.
            return

    def release_own(self, grant: Claim, lock_timeout: float) -> ReleaseResult:
        """Release *grant*, renewed or not, and no other grant of this session, which a parallel call may just have got.

        Works on a closed session too, which may have failed to release it.
        """
        return self._release(ReleaseRequest(grant.scoped), lock_timeout, grant)

    def begin_close(self) -> None:
        """Refuse further calls; the caller calls `close` later, where it may block."""
        self._closed = True

    def describe_client(self, client: str) -> None:
        """Set which program the session belongs to (name and version), for people who read claims."""
        self.holder = self.holder._replace(client=one_line(client[:_MAX_CLIENT])[:_MAX_CLIENT])

    def describe(self, *, label: str | None = None, directory: str | None = None) -> None:
        """Set what the session is called and where it works, for people who have to tell sessions apart.

        Of a long *directory* the end is kept.  Raises `InvalidInputError` for a *label* of more than 60 bytes.
        """
        if directory is not None:
            directory = one_line(directory)
            directory = directory if len(directory) <= _MAX_DIRECTORY else f"…{directory[1 - _MAX_DIRECTORY :]}"
        self.holder = self.holder._replace(label=validation.parse_label(label), directory=directory)

    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        """Call *notify*, from any thread, when a key, a namespace or anything (`None`) may have changed.

        Yields whether that can be watched; a notice can be lost all the same.
        """
        return self._store.watch(target, notify)

    def wait_queue(self, scoped: ScopedKey, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        """Take a ticket in the wait queue of *scoped*; call *notify*, from any thread, once it is the first.

        Yields whether the store has a queue.
        """
        return self._store.wait_queue(scoped, notify)

    def watch_exit(self, holder: Holder) -> ProcessExit | None:
        """Return an object that becomes readable when the process of *holder* ends; `None` if that cannot be watched."""
        return self._machine.watch_exit(holder)

    def now(self) -> Moment:
        """Return the present moment on this machine's clocks."""
        return self._machine.now()

    def _check_usable(self, namespace: str | None = None) -> None:
        if namespace is not None:
            validation.scoped_key("any", namespace)
        if self._in_forked_child:
            raise ForkedError
        if self._closed:
            raise SessionEndedError

    def _release(self, request: ReleaseRequest, lock_timeout: float, grant: Claim | None = None) -> ReleaseResult:
        """Release our claim on the key of *request*; with *grant* only if it is that one."""
        if self._in_forked_child:
            return ReleaseResult(False, None, self._machine.now())  # The claim is the parent's, which goes on.
        scoped = request.scoped
        cached, doubts = self._held.get(scoped), self._held.doubts(scoped)
        if grant is not None and (cached is None or cached.generation != grant.generation):
            first: Found = grant
        else:
            first = self._store.read(scoped) if cached is None else cached
        found: Found = first
        # A parallel call may have claimed the key again: that claim has a new generation, and must stay.
        while isinstance(found, Claim) and isinstance(first, Claim) and self._holds(found, scoped):
            if found.generation != first.generation:
                break
            marker = None
            if request.outcome is not None:
                now = self._machine.now()
                marker = expiry.marker_of(found, request.outcome, now, request.retention, request.note)
            swap = self._store.swap(scoped, found, marker, lock_timeout=lock_timeout)
            if swap.won:
                self._held.remove(found)
                return ReleaseResult(True, swap.found or found, self._machine.now())
            found = swap.found
        self._held.settle(doubts, found)
        return ReleaseResult(False, found, self._machine.now(), self._held.lost(cached, found))

    def _state_of(self, found: Found, now: Moment) -> ClaimState:
        return expiry.state_of(found, now, self._machine.provably_dead)

    def _holds(self, found: Found, scoped: ScopedKey) -> bool:
        """Return whether *found* is this session's claim on *scoped*, and not a marker.

        Where two keys share a file name, *found* may be this session's claim on the other key.
        """
        return (
            isinstance(found, Claim)
            and is_same_session(found.holder.name, self.holder.name)
            and found.ended is None
            and found.scoped == scoped
        )

    def _record(self, grant: Claim, cached: Claim | None = None) -> Claim | None:
        """Record *grant* as held; return *cached*, the grant of the key known before, if that was lost."""
        lost = self._held.add(grant, cached)
        # Either `close`, in another thread, finds this claim among those held, or we see here that it has begun.
        if self._closed:
            self._release(ReleaseRequest(grant.scoped), CLOSE_TIMEOUT)
            raise SessionEndedError
        return lost


_sessions: WeakSet[Session] = WeakSet()


def _disown_in_forked_child() -> None:
    # The PID alone does not reveal a fork: a child in a new PID namespace may have the PID of its parent.
    for session in list(_sessions):
        session._in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_in_forked_child)
