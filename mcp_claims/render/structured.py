"""What there is to know of a claim, as it is told in JSON: to clients, in resources and on the command line."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from mcp_claims.model import expiry
from mcp_claims.model.records import Found, Moment, Unreadable
from mcp_claims.render import phrases, text

if TYPE_CHECKING:
    from typing import Any

    from mcp_claims.session.results import ListedClaim, PruneResult

_NOTHING = timedelta(0)


def listed_facts(listed: ListedClaim, now: Moment) -> dict[str, Any]:
    """Return what there is to know of one thing that is stored; what does not apply is left out."""
    found = listed.found
    if isinstance(found, Unreadable):
        facts: dict[str, Any] = {"status": "unreadable", "problem": phrases.unreadable(found)}
    else:
        facts = {
            "key": phrases.shown(found.scoped.key),
            "namespace": phrases.shown(found.scoped.namespace),
            "status": listed.state.value,
        }
    return facts | claim_facts(found, now)


def claim_facts(found: Found, now: Moment) -> dict[str, Any]:
    """Return what there is to know of what was found for a key; what does not apply is left out."""
    if found is None:
        return {}
    if isinstance(found, Unreadable):
        return {"expires_at": phrases.free_at(found)}
    left = expiry.remaining(found.expires, now)
    if left <= _NOTHING and expiry.expires_in(found, now) is None:
        left = _NOTHING  # It is there, so its time is not up, whatever the clock here says.
    facts: dict[str, Any] = {"holder": phrases.shown(found.holder.name)}
    if (client := phrases.client(found)) is not None:
        facts["client"] = client
    if found.generation:  # What the original wrote has none.
        facts["generation"] = found.generation
    facts["claimed_at"] = phrases.timestamp(found.claimed.wall)
    facts["expires_at"] = phrases.timestamp(expiry.wall_expiry(found.expires, now))
    facts["expires_in_seconds"] = round(left.total_seconds(), 1)
    if found.note is not None:
        facts["note"] = phrases.shown(found.note)
    if found.ended is not None:
        facts["outcome"] = found.ended.outcome.value
        facts["ended_at"] = phrases.timestamp(found.ended.at.wall)
    return facts


def prune_facts(pruned: PruneResult) -> dict[str, Any]:
    """Return what was removed, what is left, and what needs a person."""
    return {
        "expired": pruned.expired,
        "orphaned": pruned.orphaned,
        "unreadable": pruned.unreadable,
        "live": pruned.live,
        "outcomes": pruned.markers,
        "problems": text.problems(pruned),
    }
