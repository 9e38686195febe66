"""What there is to know of a claim, as it is told in JSON: to clients, in resources and on the command line."""

from __future__ import annotations

from datetime import timedelta

from mcp_claims import phrases, rules, wording
from mcp_claims.record import Found, Moment, Unreadable
from mcp_claims.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from mcp_claims.overview import Listed, Pruned

_NOTHING = timedelta(0)


def listed_facts(listed: Listed, now: Moment) -> dict[str, Any]:
    """Return what there is to know of one thing that is stored; what does not apply is left out."""
    found = listed.found
    if isinstance(found, Unreadable):
        facts: dict[str, Any] = {"status": "unreadable", "problem": phrases.unreadable(found)}
    else:
        facts = {
            "key": phrases.shown(found.scoped.key),
            "namespace": phrases.shown(found.scoped.namespace),
            "status": listed.standing.value,
        }
    return facts | claim_facts(found, now)


def claim_facts(found: Found, now: Moment) -> dict[str, Any]:
    """Return what there is to know of what was found for a key; what does not apply is left out."""
    if found is None:
        return {}
    if isinstance(found, Unreadable):
        return {"expires_at": phrases.free_at(found)}
    left = rules.remaining(found.expires, now)
    if left <= _NOTHING and rules.expires_in(found, now) is None:
        left = _NOTHING  # It is there, so its time is not up, whatever the clock here says.
    facts: dict[str, Any] = {"holder": phrases.shown(found.holder.name)}
    if (client := phrases.client(found)) is not None:
        facts["client"] = client
    if found.generation:  # What the original wrote has none.
        facts["generation"] = found.generation
    facts["claimed_at"] = phrases.timestamp(found.claimed.wall)
    facts["expires_at"] = phrases.timestamp(rules.wall_expiry(found.expires, now))
    facts["expires_in_seconds"] = round(left.total_seconds(), 1)
    if found.note is not None:
        facts["note"] = phrases.shown(found.note)
    if found.ended is not None:
        facts["outcome"] = found.ended.outcome.value
        facts["ended_at"] = phrases.timestamp(found.ended.at.wall)
    return facts


def prune_facts(pruned: Pruned) -> dict[str, Any]:
    """Return what was removed, what is left, and what needs a person."""
    return {
        "expired": pruned.expired,
        "orphaned": pruned.orphaned,
        "unreadable": pruned.unreadable,
        "live": pruned.live,
        "outcomes": pruned.markers,
        "problems": wording.problems(pruned),
    }
