"""What there is for anybody to see, and to clear away: all claims, whoever's they are."""

from __future__ import annotations

import errno
import time
from collections import Counter
from functools import cache

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, ScopedKey, Unreadable
from mcp_claims.session.results import ClaimPage, ListedClaim, PruneResult
from mcp_claims.stores.base import LOCK_TIMEOUT, Store, call_deadline


def prune(store: Store, machine: Machine, namespace: str | None, lock_timeout: float) -> PruneResult:
    """Remove what is dead, in one namespace or in all, waiting for others for *wait* seconds in all."""
    removed: Counter[ClaimState | type[Unreadable]] = Counter()
    live = markers = 0
    kept: list[Unreadable] = []
    failed: list[StoreUnavailableError | StoreBusyError] = []
    deadline = time.monotonic() + lock_timeout
    # Most of what is stored belongs to few sessions, and one that was alive a moment ago keeps its claims either way.
    dead = cache(machine.provably_dead)
    for found in store.scan(namespace):
        verdict = expiry.state_of(found, machine.now(), dead)
        if verdict in (ClaimState.DONE, ClaimState.GIVEN_BACK):
            markers += 1
            continue
        if verdict is ClaimState.HELD:
            if isinstance(found, Unreadable):
                kept.append(found)
            else:
                live += 1
            continue
        try:
            # Compared under the lock: what was taken again since we read it stays.
            # Each has its own time: a network that has just answered is asked on, however much there is.
            with call_deadline(time.monotonic() + LOCK_TIMEOUT):
                discarded = store.discard(found, lock_timeout=max(0.0, deadline - time.monotonic()))
            if discarded:
                removed[Unreadable if isinstance(found, Unreadable) else verdict] += 1
        except (StoreUnavailableError, StoreBusyError) as error:
            if store.remote and _is_silence(error):
                raise  # It would not answer for the next one either, each after seconds.
            # One claim that cannot be removed must not keep the others; the caller is told of it.
            failed.append(error)
    return PruneResult(
        removed[ClaimState.EXPIRED],
        removed[ClaimState.ORPHANED],
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
) -> ClaimPage:
    """Return *at_most* of what is stored behind the position *after*; with *of* only what that holder has."""
    now, dead = machine.now(), cache(machine.provably_dead)
    page: list[ListedClaim] = []
    for found in store.scan(namespace, after):
        if of is not None and not (isinstance(found, Claim) and found.holder.name == of):
            continue
        if len(page) == at_most:
            return ClaimPage(tuple(page), now, store.position(page[-1].found))
        page.append(ListedClaim(found, expiry.state_of(found, now, dead)))
    return ClaimPage(tuple(page), now, None)


def stored(store: Store, machine: Machine, scoped: ScopedKey) -> ClaimPage:
    """Return what is stored for *scoped*: a page of one, or of none."""
    found, now = store.read(scoped), machine.now()
    return ClaimPage(
        () if found is None else (ListedClaim(found, expiry.state_of(found, now, machine.provably_dead)),), now, None
    )
