"""What there is for anybody to see, and to clear away: all claims, whoever's they are."""

from __future__ import annotations

import errno
import time
from collections import Counter
from functools import cache

from mcp_claims import rules
from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.machine import Machine
from mcp_claims.record import Claim, Moment, ScopedKey, Unreadable
from mcp_claims.rules import Standing
from mcp_claims.stores.base import LOCK_WAIT, RemoteStore, Store
from mcp_claims.stores.deadline import answered_by
from mcp_claims.typed import NamedTuple


class Listed(NamedTuple):
    """One thing that is stored, and how it stands."""

    found: Claim | Unreadable
    standing: Standing


class Listing(NamedTuple):
    """A page of what is stored, in the order of the store; `after` is where the next one begins, if there is one."""

    page: tuple[Listed, ...]
    now: Moment
    after: str | None


class Pruned(NamedTuple):
    """What `prune` removed and what it kept: live claims, markers of work that ended, and what cannot be read.

    `failed` are dead claims that the system would not let us remove.
    """

    expired: int
    orphaned: int
    unreadable: int
    live: int
    kept_unreadable: tuple[Unreadable, ...]
    failed: tuple[StoreUnavailableError | StoreBusyError, ...]
    markers: int = 0


def prune(store: Store, machine: Machine, namespace: str | None, wait: float) -> Pruned:
    """Remove what is dead, in one namespace or in all, waiting for others for *wait* seconds in all."""
    removed: Counter[Standing | type[Unreadable]] = Counter()
    live = markers = 0
    kept: list[Unreadable] = []
    failed: list[StoreUnavailableError | StoreBusyError] = []
    deadline = time.monotonic() + wait
    # Most of what is stored belongs to few sessions, and one that was alive a moment ago keeps its claims either way.
    dead = cache(machine.provably_dead)
    for found in store.scan(namespace):
        verdict = rules.judge(found, machine.now(), dead)
        if verdict in (Standing.DONE, Standing.GIVEN_BACK):
            markers += 1
            continue
        if verdict is Standing.HELD:
            if isinstance(found, Unreadable):
                kept.append(found)
            else:
                live += 1
            continue
        try:
            # Compared under the lock: what was taken again since we read it stays.
            # Each has its own time: a network that has just answered is asked on, however much there is.
            with answered_by(time.monotonic() + LOCK_WAIT):
                discarded = store.discard(found, wait=max(0.0, deadline - time.monotonic()))
            if discarded:
                removed[Unreadable if isinstance(found, Unreadable) else verdict] += 1
        except (StoreUnavailableError, StoreBusyError) as error:
            if isinstance(store, RemoteStore) and _is_silence(error):
                raise  # It would not answer for the next one either, each after seconds.
            # One claim that cannot be removed must not keep the others; the caller is told of it.
            failed.append(error)
    return Pruned(
        removed[Standing.EXPIRED],
        removed[Standing.ORPHANED],
        removed[Unreadable],
        live,
        tuple(kept),
        tuple(failed),
        markers,
    )


def _is_silence(error: StoreUnavailableError | StoreBusyError) -> bool:
    return isinstance(error, StoreUnavailableError) and error.cause.errno == errno.ETIMEDOUT


def listing(
    store: Store, machine: Machine, namespace: str | None, *, of: str | None, after: str, at_most: int
) -> Listing:
    """Return *at_most* of what is stored behind the position *after*; with *of* only what that holder has."""
    now, dead = machine.now(), cache(machine.provably_dead)
    page: list[Listed] = []
    for found in store.scan(namespace, after):
        if of is not None and not (isinstance(found, Claim) and found.holder.name == of):
            continue
        if len(page) == at_most:
            return Listing(tuple(page), now, store.position(page[-1].found))
        page.append(Listed(found, rules.judge(found, now, dead)))
    return Listing(tuple(page), now, None)


def stored(store: Store, machine: Machine, scoped: ScopedKey) -> Listing:
    """Return what is stored for *scoped*: a page of one, or of none."""
    found, now = store.read(scoped), machine.now()
    return Listing(() if found is None else (Listed(found, rules.judge(found, now, machine.provably_dead)),), now, None)
