"""What a session does with the claims of all sessions: list, prune and revoke them, forget markers, find near keys."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import islice
from typing import NamedTuple

from mcp_claims.errors import ContendedError, StoreBusyError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import is_file_key
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Ended, Found, Holder, Mode, Moment, Outcome, ScopedKey, Unreadable, is_head
from mcp_claims.model.text import skeleton
from mcp_claims.session import heads
from mcp_claims.session.results import ClaimPage, ListedClaim, PruneResult
from mcp_claims.session.wait_queue import end_reservation
from mcp_claims.stores.base import (
    LOCK_TIMEOUT,
    MAX_CHANGES,
    MAX_SWAPS,
    Change,
    Store,
    call_before,
    holders_of,
    without_head,
)

_MAX_NEAR = 3
_MAX_NAMES = 200
"""A bound on what a tool's grant may cost: to list and compare so many names takes 1.1 ms the first time, then 0.13 ms."""
_BEGAN = "\1"
"""Stands before the time at which a walk in pages began; no position begins with it."""


def prune(store: Store, machine: Machine, namespace: str | None, lock_timeout: float) -> PruneResult:
    """Remove dead claims, in one namespace or in all; wait for locks for at most *lock_timeout* seconds altogether.

    A claim counts once: when it is removed, or replaced by the marker that keeps its note.  A marker whose retention has
    passed is removed and not counted, and so is a reservation that has lapsed.
    """
    removed: Counter[ClaimState | type[Unreadable]] = Counter()
    live = markers = 0
    kept: list[Unreadable] = []
    failed: list[StoreUnavailableError | StoreBusyError] = []
    deadline = time.monotonic() + lock_timeout
    # Each holder is judged once: most claims belong to few sessions.
    provably_dead = cache(machine.provably_dead)
    batch: list[_Dead] = []

    def remove(batch: list[_Dead]) -> None:
        for dead in _replace_all(store, batch, now, deadline, failed):
            found = dead.found
            if isinstance(found, Unreadable) or (found.ended is None and found.mode is not Mode.RESERVED):
                removed[Unreadable if isinstance(found, Unreadable) else dead.state] += 1
        batch.clear()

    now = machine.now()
    for found in store.scan(namespace):
        now = machine.now()
        if is_head(found):
            # Its members are in the list, too.  But a store may have ended some by itself, which the head still lists.
            drop_missing(store, found, now, max(0.0, deadline - time.monotonic()))
            continue
        state = expiry.state_of(found, now, provably_dead)
        trace = expiry.trace_of(found, state, now)
        if trace is not found:
            dead = _Dead(found, trace, state)
            # In a network one change of many costs little more than one of one.
            if not (store.remote and dead.change):
                remove([dead])
                continue
            batch.append(dead)
            if len(batch) == MAX_CHANGES:
                remove(batch)
        elif isinstance(found, Unreadable):
            kept.append(found)
        elif state.in_force:
            live += 1
        else:
            markers += 1
    remove(batch)
    return PruneResult(
        removed[ClaimState.EXPIRED],
        removed[ClaimState.ORPHANED],
        removed[Unreadable],
        live,
        tuple(kept),
        tuple(failed),
        markers,
    )


class _Dead(NamedTuple):
    """What is dead, in which state, and the *trace* that stays of it."""

    found: Claim | Unreadable
    trace: Found
    state: ClaimState

    @property
    def change(self) -> Change | None:
        """The change that removes it, if it takes that alone."""
        found, trace = self.found, self.trace
        if isinstance(found, Unreadable) or found.mode is Mode.RESERVED or found.scoped.member is not None:
            return None
        return Change(found.scoped, found, trace if isinstance(trace, Claim) else None, found_dead=True)


def _replace_all(
    store: Store,
    batch: Sequence[_Dead],
    now: Moment,
    deadline: float,
    failed: list[StoreUnavailableError | StoreBusyError],
) -> Iterator[_Dead]:
    """Put its trace in the place of each of *batch*; yield those that were still stored, and add errors to *failed*."""
    changes = [dead.change for dead in batch if dead.change]
    if len(changes) > 1 and len(changes) == len(batch):
        try:
            won = call_before(time.monotonic() + LOCK_TIMEOUT, partial(store.swap_all, changes)).won
        except (StoreUnavailableError, StoreBusyError) as error:
            if _timed_out(error):
                raise
            won = False
        if won:
            yield from batch
            return
    # Some of them have changed since they were read, which must not protect the others.
    for dead in batch:
        try:
            # The store compares under the lock, so a claim that was taken again since we read it stays.  Each removal
            # has its own deadline: a network that has just answered is worth another request.
            timeout = max(0.0, deadline - time.monotonic())
            replace = partial(replace_dead, store, dead.found, dead.trace, now, timeout)
            if call_before(time.monotonic() + LOCK_TIMEOUT, replace):
                yield dead
        except (StoreUnavailableError, StoreBusyError) as error:
            if store.remote and _timed_out(error):
                raise  # It would not answer for the next claim either, and each attempt takes seconds.
            # One claim that cannot be removed must not protect the others; the result reports it.
            failed.append(error)


def replace_dead(store: Store, found: Claim | Unreadable, trace: Found, now: Moment, lock_timeout: float) -> bool:
    """Put *trace*, which `expiry.trace_of` returned, in the place of the dead *found*; return whether that was still stored."""
    if isinstance(found, Claim) and found.mode is Mode.RESERVED:
        return end_reservation(store, found, now, lock_timeout).won
    if isinstance(found, Claim) and (isinstance(trace, Claim) or found.scoped.member is not None):
        change = Change(found.scoped, found, trace if isinstance(trace, Claim) else None, found_dead=True)
        return heads.swap(store, [change], lambda: now, lock_timeout=lock_timeout).won
    return store.discard(found, lock_timeout=lock_timeout)


def drop_missing(store: Store, head: Claim, now: Moment, lock_timeout: float) -> None:
    """Remove from *head* the members that are stored no more.  Raises nothing: whoever comes next does the same."""
    with suppress(StoreUnavailableError, StoreBusyError):
        found, members = holders_of(head, store.read_all)
        gone = [Change(place, None, None) for place, each in members.items() if each is None]
        if gone and found == head:
            heads.drop(store, head, gone, now, lock_timeout)


def list_claims(
    store: Store, machine: Machine, namespace: str | None, *, holder: str | None, after: str, limit: int
) -> ClaimPage:
    """Return up to *limit* claims and markers behind *after*; with *holder* only those of that session.

    *after* is that of the page before, or empty for the first page.
    """
    began, position = _parse_after(after)
    now, provably_dead = machine.now(), cache(machine.provably_dead)
    page: list[ListedClaim] = []
    for found in store.scan(namespace, position, began):
        if holder is not None and not (isinstance(found, Claim) and is_same_session(found.holder.name, holder)):
            continue
        if is_head(found):
            continue  # Its members are in the list.
        if len(page) == limit:
            return ClaimPage(tuple(page), now, f"{_BEGAN}{began!r}\0{store.position(page[-1].found)}")
        page.append(ListedClaim(found, expiry.state_of(found, now, provably_dead)))
    return ClaimPage(tuple(page), now, None)


def list_known(
    store: Store, machine: Machine, keys: Sequence[ScopedKey], *, holder: str, after: str, limit: int
) -> ClaimPage:
    """List the claims of session *holder*, which has none but on *keys*, as `list_claims` does, in few requests."""
    now, (began, position) = machine.now(), _parse_after(after)
    stored = [each for found in store.read_all(keys) if found for each in without_head(found, store.read_all)]
    own = (each for each in stored if isinstance(each, Claim) and is_same_session(each.holder.name, holder))
    # By position: what is in the place of a member is found there, and by the head of its key.
    found = {store.position(each): each for each in own}
    rest = sorted((at, each) for at, each in found.items() if at > position)
    listed = tuple(ListedClaim(each, expiry.state_of(each, now, machine.provably_dead)) for _, each in rest[:limit])
    return ClaimPage(listed, now, f"{_BEGAN}{began!r}\0{rest[limit - 1][0]}" if len(rest) > limit else None)


def _parse_after(after: str) -> tuple[float, str]:
    """Return when the walk of the cursor *after* began (`time.monotonic`), and its position in the store."""
    began, _, position = after.removeprefix(_BEGAN).partition("\0")
    try:
        return (float(began), position) if after.startswith(_BEGAN) else (time.monotonic(), after)
    except ValueError:
        return time.monotonic(), after


def read_claim(store: Store, machine: Machine, scoped: ScopedKey, *, overlapping: bool = False) -> ClaimPage:
    """Return what is stored for *scoped*: a page of one, of none, or of all who hold it; or *overlapping* files, too."""
    found, now = store.read(scoped), machine.now()
    listed = [] if found is None else without_head(found, store.read_all)
    if overlapping and is_file_key(scoped):
        listed += store.overlapping(scoped)
    return ClaimPage(
        tuple(ListedClaim(each, expiry.state_of(each, now, machine.provably_dead)) for each in listed), now, None
    )


def near_claims(store: Store, machine: Machine, scoped: ScopedKey, holder: Holder) -> tuple[Claim, ...]:
    """Return claims in force, of others than *holder*, on keys that look like *scoped*, as `Session.near_claims` promises."""
    near: list[Claim] = []
    with suppress(StoreUnavailableError, UnsafeDirectoryError):
        own_skeleton = skeleton(scoped.key)
        for key in store.names(scoped.namespace, _MAX_NAMES):
            if key != scoped.key and skeleton(key) == own_skeleton and len(near) < _MAX_NEAR:
                found = store.read(scoped._replace(key=key))
                held = (
                    each
                    for each in ([] if found is None else without_head(found, store.read_all))
                    if isinstance(each, Claim)
                    and not is_same_session(each.holder.name, holder.name)
                    and expiry.state_of(each, machine.now(), machine.provably_dead) is ClaimState.HELD
                )
                near += islice(held, 1)
    return tuple(near)


def forget(store: Store, scoped: ScopedKey, lock_timeout: float) -> bool:
    """Remove the marker of *scoped*, as `Session.forget` promises."""
    found = store.read(scoped)
    if not isinstance(found, Claim) or found.ended is None or found.scoped != scoped:
        return False
    return store.discard(found, lock_timeout=lock_timeout)


def _timed_out(error: StoreUnavailableError | StoreBusyError) -> bool:
    return isinstance(error, StoreUnavailableError) and error.cause.errno == errno.ETIMEDOUT


def revoke(
    store: Store, machine: Machine, found: Claim | Unreadable, by: Holder, reason: str | None, lock_timeout: float
) -> bool:
    """Put a marker of session *by*, with the *reason*, in the place of *found*, as `Session.revoke` promises."""
    if isinstance(found, Unreadable):
        return store.discard(found, lock_timeout=lock_timeout)
    note = f"revoked from {found.holder.name}" + (f": {reason}" if reason else "")
    stored = found
    for _ in range(MAX_SWAPS):
        now = machine.now()
        marker = Claim(
            found.scoped,
            by,
            claimed=found.claimed,
            expires=expiry.later(now, validation.DEFAULT_RETENTION),
            note=note[: validation.MAX_NOTE_CHARACTERS],
            ended=Ended(Outcome.REVOKED, now),
        )
        swap = heads.swap(store, [Change(found.scoped, stored, marker)], machine.now, lock_timeout=lock_timeout).only
        if swap.won:
            return True
        # A program that hangs may renew all the same, perhaps while a person thinks about the question.
        if not isinstance(swap.found, Claim) or not _is_same_grant(swap.found, found):
            return False
        stored = swap.found
    raise ContendedError(found.scoped.key, MAX_SWAPS)


def _is_same_grant(one: Claim, other: Claim) -> bool:
    """Return whether both are the same grant, renewed or not."""
    return (one.scoped, one.generation, one.claimed, one.ended) == (
        other.scoped,
        other.generation,
        other.claimed,
        other.ended,
    ) and is_same_session(one.holder.name, other.holder.name)
