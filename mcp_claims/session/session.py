"""One session, as programs use it: try_claim, claim, inspect, release, revoke, list_claims, prune, close.

Arguments are checked here, once, and become requests; `operations` carries those out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from mcp_claims.errors import InvalidInputError, StoreBusyError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.liveness import ProcessExit
from mcp_claims.model import validation
from mcp_claims.model.keys import FORMS, PLACES
from mcp_claims.model.records import Claim, Holder, Mode, Moment, Outcome, ScopedKey, Ticket, Unreadable
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
from mcp_claims.session.choices import Choices
from mcp_claims.session.results import ClaimPage, ClaimResult, Inspection, PruneResult, ReleaseResult
from mcp_claims.session.turns import CLOSE_TIMEOUT
from mcp_claims.session.wait_queue import end_reservation
from mcp_claims.stores.base import LOCK_TIMEOUT, MAX_CHANGES, Alarm, Change

if TYPE_CHECKING:
    from mcp_claims.session.places import Resolver

Request = TypeVar("Request", ClaimRequest, InspectRequest, ReleaseRequest)

_MAX_CLIENT, _MAX_DIRECTORY = 100, 200  # characters
_MAX_BYTES_OF_KEYS = 8_192


class Session(Choices):
    """The claims as one session, *holder*, sees and changes them; several threads may use it.

    Each method raises `InvalidInputError` for arguments outside the rules, `StoreUnavailableError`, `StoreBusyError` or
    `UnsafeDirectoryError` where the store cannot answer, `ContendedError` where others never let the call finish,
    `SessionEndedError` after `close` and `ForkedError` in a forked child; in all these cases nothing new is claimed.
    *lock_timeout* is how many seconds, 0 to 3,600, a method may wait for another process that is changing the same
    namespace; it has nothing to do with waiting for the holder of a key, which is *wait*.
    """

    def try_claim(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        ttl_minutes: float = DEFAULT_TTL_MINUTES,
        note: str | None = None,
        redo: bool = False,
        also: Sequence[str] = (),
        or_else: Sequence[str] = (),
        shared: bool = False,
        slots: int | None = None,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> ClaimResult:
        """Claim *key*, or renew our claim on it, unless another live session holds it or the work is done.

        A renewal keeps the generation and the later of the two expiries; a *note* replaces the old one.  With *redo*
        work that is done is claimed all the same.  Never waits for a holder; `claim` does.

        With *also*, up to 31 more keys of the namespace, all are claimed or none.  Each is renewed and released with the
        others, whichever of them is named.

        With *or_else*, up to 255 more keys, the first of all that is free and not done is claimed; `left` of the result counts
        the others that are free.  If this session holds one of them, that one is renewed: release it to get the next.

        With *shared*, others may share the key, and whoever wants it alone waits until none does.  With *slots* (2 to 1,000) as
        many sessions may have it, each in another slot: `found.slot` of the result, from 0 up.  All of them have to ask for the
        same number.  The work on a key that was held in such a way is never done: an outcome is told to the next holder.
        """
        request = ClaimRequest.parse(
            key,
            namespace,
            ttl_minutes=ttl_minutes,
            note=note,
            redo=redo,
            also=also,
            or_else=or_else,
            shared=shared,
            slots=slots,
        )
        return self.try_request(self.resolved(request), lock_timeout=validation.parse_lock_timeout(lock_timeout))

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
        also: Sequence[str] = (),
        or_else: Sequence[str] = (),
        shared: bool = False,
        slots: int | None = None,
    ) -> AbstractContextManager[Claim]:
        """Hold *key*, with all of *also* or instead of it one of *or_else*, for the block: wait for its holder for up to *wait* seconds (0 to 300), release it at the end.

        With *keep_alive* a thread renews the claim until then.  Raises `NotClaimedError` if another session still holds
        the key, if the work is done, or if this session holds the key already: two blocks must not run at a time.
        """
        request = ClaimRequest.parse(
            key,
            namespace,
            ttl_minutes=ttl_minutes,
            note=note,
            redo=redo,
            wait_seconds=wait,
            keep_alive=keep_alive,
            also=also,
            or_else=or_else,
            shared=shared,
            slots=slots,
        )
        return hold(self, self.resolved(request))

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
        also: Sequence[str] = (),
        or_else: Sequence[str] = (),
        shared: bool = False,
        slots: int | None = None,
    ) -> AbstractAsyncContextManager[Claim]:
        """Hold *key* for the block, as `claim` does, without blocking the event loop (asyncio or trio's, by anyio)."""
        request = ClaimRequest.parse(
            key,
            namespace,
            ttl_minutes=ttl_minutes,
            note=note,
            redo=redo,
            wait_seconds=wait,
            keep_alive=keep_alive,
            also=also,
            or_else=or_else,
            shared=shared,
            slots=slots,
        )
        return hold_async(self, self.resolved(request))

    def inspect(self, key: str, namespace: str = DEFAULT_NAMESPACE, *, generation: int | None = None) -> Inspection:
        """Return who holds *key*.  Claims nothing; removes a dead claim.

        With a *generation*, `in_force` of the result is whether that grant, of any session, still holds the key.
        """
        return self.inspect_request(self.resolved(InspectRequest.parse(key, namespace, generation=generation)))

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
        return self.release_request(self.resolved(request), lock_timeout=validation.parse_lock_timeout(lock_timeout))

    def revoke(
        self, found: Claim | Unreadable, reason: str | None = None, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> bool:
        """Revoke *found*, a claim of any session, or remove it if it is unreadable; return whether it was still stored.

        A claim that was renewed meanwhile is revoked too; a reservation is taken back.  A marker of a new generation stays
        for a day, with the former holder, the revoking session and the *reason*.  The former holder learns of it from its
        next call, and a resource that checks generations refuses the old one.  For people who know that the holder hangs.
        """
        reason = validation.parse_note(reason)
        self._check_usable()
        if isinstance(found, Claim) and found.mode is Mode.RESERVED and found.ended is None:
            # Nobody holds it.  The place that it came from must not get it again.
            swap = end_reservation(self._store, found, self.now(), lock_timeout)
            self._pass_on(found.scoped, swap.found)
            return swap.won
        revoked = admin.revoke(self._store, self._machine, found, self.holder, reason, lock_timeout)
        if revoked and isinstance(found, Claim):
            self._held.note_end(found.scoped)
            self.queue.wake_next(found.scoped.base)
        return revoked

    def forget(self, key: str, namespace: str = DEFAULT_NAMESPACE, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        """Remove the marker that says how the work on *key* ended, whoever left it; return whether there was one.

        A claim stays, and so does what cannot be read.
        """
        scoped = self.resolve(validation.scoped_key(key, namespace))
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
        # Where no other process makes claims for it.  To read all claims of a fleet takes seconds.
        is_known = mine and self._store.remote and self.ends_with_process and not self.has_handle
        if is_known and (known := self._held.known()) is not None:
            every = dict.fromkeys([*known, *self.queue.keys()])
            keys = [scoped for scoped in every if namespace in (None, scoped.namespace)]
            return admin.list_known(self._store, self._machine, keys, holder=self.holder.name, after=after, limit=limit)
        return admin.list_claims(self._store, self._machine, namespace, holder=holder, after=after, limit=limit)

    def read(self, key: str, namespace: str = DEFAULT_NAMESPACE, *, overlapping: bool = False) -> ClaimPage:
        """Return what is stored for *key* as a page of one or none; unlike `inspect`, removes nothing.

        With *overlapping*, also what is stored for other file keys that overlap with it.
        """
        scoped = self.resolve(validation.scoped_key(key, namespace))
        self._check_usable()
        return admin.read_claim(self._store, self._machine, scoped, overlapping=overlapping)

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
        waited_for = self.queue.keys()
        if self._store.remote:
            released += self._release_in_bulk(deadline)
        for scoped in [*self._held.keys(), *waited_for]:
            left = deadline - time.monotonic()
            if dying and left <= 0:
                break
            try:
                released += len(self._release(ReleaseRequest(scoped), max(0.0, left)).keys)
                if scoped in waited_for:
                    self.queue.leave(scoped, max(0.0, left))
            except (StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
                # One failure must not keep the other claims.  A remote store that does not answer will not answer the
                # next request either; it frees the claims once it no longer hears from this process.
                if self._store.remote:
                    break
        if self._store.history is not None:
            self._store.history.session_ends(self.holder)
        return released

    def _release_in_bulk(self, deadline: float) -> int:
        """Release what is held alone, many claims in one change; return how many.  What that leaves is released one by one."""
        released = 0
        held = [self._held.get(scoped) for scoped in self._held.granted()]
        alone = [each for each in held if each is not None and not each.group and each.mode is Mode.ALONE]
        with suppress(StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
            for at in range(0, len(alone), MAX_CHANGES // 2):
                if (left := deadline - time.monotonic()) <= 0:
                    break
                changes = [Change(each.scoped, each, None) for each in alone[at : at + MAX_CHANGES // 2]]
                if (swaps := self._swap(changes, self.holder, left)).won:
                    self._note_release(changes, swaps, left)
                    released += len(changes)
        return released

    def note_end(self) -> None:
        """Note in the history that what the session holds has ended with the store's connection, which nobody else notes."""
        if (history := self._store.history) is not None:
            held = [claim for scoped in self._held.granted() if (claim := self._held.get(scoped)) is not None]
            history.changed([Change(claim.scoped, claim, None) for claim in held])
            history.session_ends(self.holder)

    def resolve(self, scoped: ScopedKey) -> ScopedKey:
        """Return *scoped* with its key resolved, in the one namespace of such keys, if it is that of a file or a branch.

        Relative paths and the repository are those of the working directory.  Raises `InvalidInputError` for a file or a
        branch that cannot be resolved, and for any other key in that namespace.
        """
        if not scoped.key.startswith(FORMS):
            if scoped.namespace == PLACES:
                raise InvalidInputError("namespace", f"must not be {PLACES}, which is for file: and branch: keys")
            return scoped
        return self.resolver().resolve(scoped)

    def resolver(self) -> Resolver:
        """Return what resolves the keys of files and branches of one request; raise `InvalidInputError` where there are none."""
        if not self._store.has_places:
            rule = (
                "must not begin with file: or branch: in this layout, whose other programs would not see what overlaps"
            )
            raise InvalidInputError("key", rule)
        # Imported here: most calls are about other keys, and a start takes 60 ms in all.
        from mcp_claims.session.places import Resolver

        host = self._machine.host() if self._store.remote else None
        directory = None
        with suppress(FileNotFoundError):  # The working directory has been removed.
            directory = os.getcwd() if self.is_here else None
        return Resolver(directory, host)

    def looks_like_files(self, scoped: ScopedKey) -> bool:
        """Return whether the text *scoped* may be meant for files: it has a wildcard, or is the path of something here."""
        if scoped.namespace == PLACES:
            return False
        return "*" in scoped.key or (self.is_here and os.path.lexists(scoped.key))

    def resolved(self, request: Request) -> Request:
        """Return *request* with its keys resolved (see `resolve`).

        Raises `InvalidInputError` for several keys that have more than 8,192 bytes together, or on a store that takes one.
        """
        scoped = self.resolve(request.scoped)
        resolved = request if scoped is request.scoped else request._replace(scoped=scoped)
        if isinstance(resolved, ClaimRequest):
            if resolved.use.mode is not Mode.ALONE and not self._store.has_places:
                name = "shared" if resolved.use.slots is None else "slots"
                raise InvalidInputError(name, "must be left out in this layout, where one session has a key")
            return self._with_others(resolved) if resolved.also or resolved.or_else else resolved
        return resolved

    def _with_others(self, request: ClaimRequest) -> ClaimRequest:
        if request.also and not self._store.has_places:
            rule = "must be empty in this layout, whose other programs claim one key at a time"
            raise InvalidInputError("also", rule)
        return request._replace(
            also=self._resolve_others("also", request.scoped, request.also),
            or_else=self._resolve_others("or_else", request.scoped, request.or_else),
        )

    def _resolve_others(self, name: str, scoped: ScopedKey, keys: tuple[ScopedKey, ...]) -> tuple[ScopedKey, ...]:
        others: dict[ScopedKey, None] = {}
        for key in keys:
            try:
                others[self.resolve(key)] = None
            except InvalidInputError as error:
                raise InvalidInputError(name, f"{error.rule}, unlike {key.key!r}") from error
        others.pop(scoped, None)
        # Each record of a group, and each ticket, names all its keys.
        if sum(len(key.key.encode()) for key in (scoped, *others)) > _MAX_BYTES_OF_KEYS:
            raise InvalidInputError(name, f"must have at most {_MAX_BYTES_OF_KEYS:,} bytes with all keys together")
        return tuple(others)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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

    def alarm(self, ticket: Ticket, notify: Callable[[], None]) -> AbstractContextManager[Alarm | None]:
        """Let whoever ends what *ticket* waits for call *notify*, from any thread, or make the alarm readable."""
        return self._store.alarm(ticket, notify)

    def watch_exit(self, holder: Holder) -> ProcessExit | None:
        """Return an object that becomes readable when the process of *holder* ends; `None` if that cannot be watched."""
        return self._machine.watch_exit(holder)

    def process_has_ended(self) -> bool:
        """Return whether the process that the session is bound to is certainly dead, so that it can hold nothing."""
        return self._machine.provably_dead(self.holder)

    def now(self) -> Moment:
        """Return the present moment on this machine's clocks."""
        return self._machine.now()
