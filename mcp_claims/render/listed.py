"""One stored claim of a list: its facts, and a line about it."""

from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Mode, Moment, Unreadable
from mcp_claims.render import phrases
from mcp_claims.render.phrases import ClaimDescription, ClaimFacts
from mcp_claims.session.results import ListedClaim


class ListedFacts(ClaimFacts, total=False):
    """The facts about one stored claim: its state, and a `problem` if it cannot be read."""

    key: str
    namespace: str
    state: str
    problem: str


def listed_facts(listed: ListedClaim, now: Moment) -> ListedFacts:
    """Return the facts about one stored claim; it has a `problem` if it cannot be read."""
    return describe_listed(listed, now)[0]


def listed_line(listed: ListedClaim, now: Moment) -> str:
    """Return a line about one stored claim."""
    return describe_listed(listed, now)[1]


def describe_listed(listed: ListedClaim, now: Moment) -> tuple[ListedFacts, str]:
    """Return the facts about one stored claim, and a line about it."""
    found = listed.found
    if isinstance(found, Unreadable):
        problem = phrases.unreadable(found)
        state = "EXPIRED, free" if listed.state is ClaimState.EXPIRED else "HELD"
        unknown: ListedFacts = {"state": listed.state.value, "problem": problem}
        if (end := phrases.free_at(found)) is not None:
            unknown["expires_at"] = end
        return unknown, f"{state}, cannot be read: {problem}"
    claim, name = ClaimDescription(found, now), phrases.named(found.scoped)
    facts: ListedFacts = {
        "key": phrases.shown(found.scoped.base.key),
        "namespace": phrases.shown(found.scoped.namespace),
        "state": listed.state.value,
    }
    if listed.state.dead:
        if found.ended is not None:
            last = f"{name} {claim.ended()}"
        elif found.mode is Mode.RESERVED:
            last = f"{name}, last kept for {claim.who()}."
        else:
            last = f"{name}, last held by {claim.who()}.{claim.note()}"
        line = f"{listed.state.value.upper()}, free: {last}"
    elif listed.state.in_force:
        line = f"{name} is {claim.held()}"
    else:
        line = f"{name} {claim.ended()}"
    return {**facts, **claim.facts}, line
