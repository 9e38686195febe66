"""What the tools answer, as structured content; `wording` says the same in words.

Each answer is a dictionary of the form that its model in `result_models` has.
"""

from __future__ import annotations

from typing import Any

from mcp_claims.model.records import ScopedKey
from mcp_claims.render import phrases, text
from mcp_claims.render.structured import claim_facts, listed_facts, prune_facts
from mcp_claims.session.results import ClaimPage, ClaimResult, Inspection, PruneResult, ReleaseResult

Answer = dict[str, Any]


def attempt_result(scoped: ScopedKey, attempt: ClaimResult, kept: bool) -> Answer:
    """Answer `try_claim`."""
    answer = {
        "advice": text.attempt_advice(scoped, attempt, kept),
        **claim_facts(attempt.found, attempt.now),
        "claimed": attempt.claimed,
        "status": attempt.status.value,
    }
    if attempt.taken_over is not None:
        answer["taken_over_from"] = phrases.taken_over(attempt.taken_over)
    return answer


def look_result(scoped: ScopedKey, look: Inspection) -> Answer:
    """Answer `is_claimed_by_other`."""
    answer = {
        "advice": text.look_advice(scoped, look),
        **claim_facts(look.found, look.now),
        "claimed_by_other": look.claimed_by_other,
        "held_by_you": look.held_by_you,
    }
    if look.in_force is not None:
        answer["in_force"] = look.in_force
    return answer


def release_result(scoped: ScopedKey, release: ReleaseResult) -> Answer:
    """Answer `release`."""
    answer: Answer = {"advice": text.release_advice(scoped, release), "released": release.released}
    if not release.released:
        facts = claim_facts(release.found, release.now)
        answer |= {name: facts[name] for name in ("holder", "generation", "expires_at") if name in facts}
    return answer


def list_result(listing: ClaimPage, cursor: str | None) -> Answer:
    """Answer `list_claims`."""
    claims = [listed_facts(listed, listing.now) for listed in listing.page]
    answer: Answer = {"advice": text.list_advice(cursor), "claims": claims}
    if cursor is not None:
        answer["cursor"] = cursor
    return answer


def opened_result(handle: str, holder: str) -> Answer:
    """Answer `open_session`."""
    return {"advice": text.OPENED_ADVICE, "session": handle, "holder": phrases.shown(holder)}


def prune_result(pruned: PruneResult) -> Answer:
    """Answer `prune`."""
    return {"advice": text.prune_advice(pruned), **prune_facts(pruned)}
