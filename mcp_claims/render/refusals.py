"""What answers say of a claim in the way: whose it is, why it is in the way, and what to do instead of acting."""

from __future__ import annotations

from mcp_claims.model import tickets
from mcp_claims.model.keys import PLACES, conflict
from mcp_claims.model.records import Claim, Mode, OriginalHolder, ScopedKey, Unreadable, Use
from mcp_claims.render import phrases
from mcp_claims.render.phrases import ClaimDescription, ClaimFacts
from mcp_claims.session.results import ClaimResult
from mcp_claims.stores.agent_awareness.filenames import record_name

REMEDY = "Ask a person to look at the file, and to delete it if nobody works on this."


def refusal(
    scoped: ScopedKey, result: ClaimResult, keys: tuple[ScopedKey, ...], use: Use
) -> tuple[ClaimFacts, str, str]:
    """Return facts, lead and advice of a refusal, whose lead names the key that is really held."""
    found, now = result.found, result.now
    if result.missing:
        return _incomplete(result)
    # A call for one key of a group may be refused for the others, which it did not name.
    named = keys if len(keys) > 1 else (scoped, *(each.scoped for each in result.in_the_way if isinstance(each, Claim)))
    asked = tuple(dict.fromkeys(each.base for each in named))
    several = len(asked) > 1 or any(isinstance(each, Unreadable) for each in result.in_the_way)
    facts, blocking = phrases.claim_facts(found, now), phrases.in_the_way(result.in_the_way) if several else ""
    if isinstance(found, Unreadable):
        which = f"one of {phrases.listed_keys(asked)}" if several else phrases.named(scoped)
        return facts, f"HELD: {which} {in_doubt(found)}", f"{blocking}Do not act. {REMEDY}"
    claim = ClaimDescription(found, now)
    is_about_it = not several and (conflict(found.scoped, scoped) or _share_a_file(found.scoped, scoped))
    lead = f"HELD: {phrases.named(scoped if is_about_it else found.scoped)} is {claim.held()}"
    act = "Do not act. Report who is on it. To act after them, call again with wait_seconds."
    if use.slots is not None and use == found.use and len(result.in_the_way) > 1:
        lead = f"HELD: all {use.slots} slots of {phrases.named(scoped)} are taken; one is {claim.held()}"
    if result.blocked_by_own:
        act = f"{phrases.own_way(found)} Do not act on it before."
    elif result.cycle:
        own = phrases.quoted(result.cycle[-1].scoped.key)
        act = (
            f"{phrases.cycle(result.cycle)} Do not act, and do not wait: release {own} first, or do without this; or "
            "report it."
        )
    elif result.keeps_place:
        act = (
            "Do not act yet. To go on waiting, call try_claim again now, with the same arguments: you keep your place "
            f"for {phrases.span(tickets.KEPT_PLACE)}. Otherwise report who is on it."
        )
    return facts, lead, f"{caveats(asked, found, claim)}{blocking}{phrases.other_way(found, use)}{act}"


def _incomplete(result: ClaimResult) -> tuple[ClaimFacts, str, str]:
    """Return facts, lead and advice about a group of which keys are lost.

    If nobody holds these, the result is about a key that the caller still holds: a model would take it for another holder.
    """
    found, now, facts = result.found, result.now, ClaimFacts()
    missing = phrases.listed_keys(result.missing)
    lead = f"HELD: you no longer hold {missing} of the keys that you claimed together."
    advice = f"Stop all that needs {missing}. Release what you still hold, then claim all again."
    if isinstance(found, Unreadable):
        facts = phrases.claim_facts(found, now)
        lead += f" One of them {in_doubt(found)}"
    elif set(result.missing) < set(found.group) and found.scoped not in result.missing:
        advice += f" A release of {phrases.quoted(found.scoped.base.key)} frees all that you still hold."
    else:
        claim = ClaimDescription(found, now)
        facts = claim.facts
        lead += f" {phrases.named(found.scoped)} is {claim.held()}"
    if len(result.in_the_way) > 1:
        advice = f"These are held by others now: {phrases.held_by(result.in_the_way)}. {advice}"
    return facts, lead, advice


def in_doubt(found: Unreadable) -> str:
    until = phrases.free_at(found) or "somebody removes it"
    return f"counts as held until {until}: what is stored for it cannot be read ({phrases.unreadable(found)})."


def caveats(asked: tuple[ScopedKey, ...], claim: Claim, description: ClaimDescription) -> str:
    """Return what is peculiar to a claim in the way: a person's, a reservation, or one on another key than those *asked* for."""
    person = phrases.person(claim.holder.name)
    caveats = f"No agent holds it: {person}, keeps it {description.until()}. " if person else ""
    if claim.mode is Mode.RESERVED:
        caveats = f"Nobody holds it, but it is kept {description.until()} for a session that has waited for it. "
    if claim.scoped.base not in asked:
        other = phrases.quoted(claim.scoped.base.key)
        if overlapping := tuple(key for key in asked if conflict(key, claim.scoped)):
            caveats += f"This is the claim on {other}, which overlaps with {phrases.listed_keys(overlapping)}. "
        elif shared := tuple(key for key in asked if _share_a_file(key, claim.scoped)):
            own = phrases.listed_keys(shared)
            caveats += f"This is the claim on {other}, whose file has the same name in this layout as that of {own}. "
        else:
            own = phrases.quoted(asked[0].key) if len(asked) == 1 else "one of your keys"
            caveats += f"A session that came before you needs both {other} and {own}. "
    if isinstance(claim.holder, OriginalHolder):
        caveats += "agent-awareness wrote it without a proof of death: only host, PID and expiry are known. "
    return caveats


def _share_a_file(one: ScopedKey, other: ScopedKey) -> bool:
    """Return whether two keys have one record in the layout of agent-awareness, on a disk that ignores case too."""
    if one.namespace != other.namespace or PLACES in (one.namespace, other.namespace):
        return False
    return record_name(one.key).casefold() == record_name(other.key).casefold()
