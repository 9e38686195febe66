"""What there is to know of a claim, as it is told in JSON: to clients, in resources and on the command line."""

from __future__ import annotations

from datetime import timedelta

from mcp_claims import phrases, rules
from mcp_claims.record import Claim, Found, Moment, Unreadable
from mcp_claims.record_json import timestamp
from mcp_claims.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from mcp_claims.overview import Listed


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
    return {name: value for name, value in {**facts, **claim_facts(found, now)}.items() if value is not None}


def claim_facts(found: Found, now: Moment) -> dict[str, Any]:
    """Return what there is to know of what was found for a key, `None` for what does not apply."""
    if isinstance(found, Claim):
        left = rules.remaining(found.expires, now)
        if rules.expires_in(found, now) is None:
            left = max(left, timedelta(0))  # It is there, so its time is not up, whatever the clock here says.
        return {
            "holder": phrases.shown(found.holder.name),
            "client": phrases.client(found),
            # What the original wrote has none.
            "generation": found.generation or None,
            "claimed_at": timestamp(found.claimed.wall),
            "expires_at": timestamp(rules.wall_expiry(found.expires, now)),
            "expires_in_seconds": round(left.total_seconds(), 1),
            "note": phrases.shown(found.note),
            "outcome": found.ended and found.ended.outcome.value,
            "ended_at": found.ended and timestamp(found.ended.at.wall),
        }
    return {"expires_at": phrases.free_at(found)} if isinstance(found, Unreadable) else {}
