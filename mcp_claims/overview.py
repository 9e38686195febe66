"""What there is for anybody to see, and to clear away: all claims, whoever's they are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import cache

from mcp_claims import rules
from mcp_claims.answers import Listed, Listing, Pruned
from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.machine import Machine
from mcp_claims.record import Claim, Holder, Moment, ScopedKey, Unreadable
from mcp_claims.rules import Standing
from mcp_claims.stores.base import Store


def judge(found: Claim | Unreadable, now: Moment, provably_dead: Callable[[Holder], bool]) -> Standing:
    """Tell how *found* stands at *now*; what cannot be read is held until it is nobody's."""
    if isinstance(found, Claim):
        return rules.standing(found, now, provably_dead)
    return Standing.EXPIRED if rules.nobodys(found, now) else Standing.HELD


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
        verdict = judge(found, machine.now(), dead)
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
            if store.discard(found, wait=max(0.0, deadline - time.monotonic())):
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
        markers,
    )


def listing(
    store: Store, machine: Machine, namespace: str | None, *, of: str | None, after: str, at_most: int
) -> Listing:
    """Return *at_most* of what is stored behind the position *after*; with *of* only what that holder has."""
    now, dead = machine.now(), cache(machine.provably_dead)
    page: list[Listed] = []
    for found in store.scan(namespace):
        if of is not None and not (isinstance(found, Claim) and found.holder.name == of):
            continue
        if after and store.position(found) <= after:
            continue
        if len(page) == at_most:
            return Listing(tuple(page), now, store.position(page[-1].found))
        page.append(Listed(found, judge(found, now, dead)))
    return Listing(tuple(page), now, None)


def stored(store: Store, machine: Machine, scoped: ScopedKey) -> Listing:
    """Return what is stored for *scoped*: a page of one, or of none."""
    found, now = store.read(scoped), machine.now()
    return Listing(() if found is None else (Listed(found, judge(found, now, machine.provably_dead)),), now, None)
