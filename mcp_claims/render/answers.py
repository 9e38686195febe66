"""The answers: each is made in one pass, structured and as text, from the result of an operation of a session.

The text says what is the case, then what to do.  It suffices alone, as the structured answer does: some hosts show the
model only one of them.  The output schemas of the tools are made from these types.
"""

from datetime import timedelta
from enum import Enum
from typing import Any, Literal, NamedTuple, TypedDict

from mcp_claims.model import expiry, tickets
from mcp_claims.model.keys import PLACES, conflict
from mcp_claims.model.records import Claim, Found, Mode, Moment, OriginalHolder, Outcome, ScopedKey, Unreadable
from mcp_claims.render import phrases
from mcp_claims.render.phrases import ClaimDescription, ClaimFacts
from mcp_claims.session.results import ClaimResult, Inspection, ReleaseResult, Status, TakenOver


class Previous(TypedDict, total=False):
    """What a new claim replaced: how it stood, and what its holder left."""

    state: str
    holder: str
    client: str
    generation: int
    note: str
    ended_at: str


class LostClaim(TypedDict):
    """A claim that the session has lost, and how."""

    key: str
    namespace: str
    generation: int
    reason: str


class Losses(TypedDict, total=False):
    """What every answer says as well, once: the claims that the session has lost."""

    lost: list[LostClaim]


class _MaybePrevious(ClaimFacts, Losses, total=False):
    previous: Previous


class ClaimAnswer(_MaybePrevious):
    """The answer of `try_claim`."""

    claimed: bool
    status: Literal["acquired", "renewed", "held", "done", "your_turn"]
    key: str
    namespace: str
    advice: str


class _MaybeInForce(ClaimFacts, Losses, total=False):
    in_force: bool


class InspectAnswer(_MaybeInForce):
    """The answer of `is_claimed_by_other`."""

    claimed_by_other: bool
    held_by_you: bool
    key: str
    namespace: str
    advice: str


class ReleaseAnswer(ClaimFacts, Losses):
    """The answer of `release`: the marker it left, or what is stored instead of the caller's claim."""

    released: bool
    key: str
    namespace: str
    advice: str


class Fleeting(Enum):
    """Why a claim may end with the call that was granted it."""

    #: The client has ended its input.
    INPUT_ENDED = "Your connection has ended its input, so this claim is released with this answer: do not act."
    #: The host connects for each call, to a server that it starts.
    PER_CALL = (
        "Do not act yet. Your host has closed an earlier connection right after a call, and a claim ends with its "
        "connection: call is_claimed_by_other with generation={generation}, and act only if in_force is true. If it is "
        "false, ask a person to start the server with `mcp-claims serve --session NAME`, whose claims outlive a connection."
    )
    #: The host connects for each call, over HTTP.
    PER_CALL_OVER_HTTP = (
        "Do not act yet. An earlier connection of this client was closed right after a call, and a claim ends with its "
        "connection: call is_claimed_by_other with generation={generation}, and act only if in_force is true. If it is "
        "false, call open_session and pass what it returns as `session` in every call."
    )


class Rendered(NamedTuple):
    """An answer: structured, and its first sentence, the lead, which states what is the case.

    The advice in the structured answer is for models, who call tools; people at a shell see the lead alone.
    """

    structured: Any
    lead: str

    @property
    def text(self) -> str:
        """The whole answer in words, as a model gets it."""
        separator = "\n" if "\n" in self.lead else " "
        return f"{self.lead}{separator}{self.structured['advice']}"


def claim_answer(
    scoped: ScopedKey,
    result: ClaimResult,
    *,
    kept_alive: bool = False,
    fleeting: Fleeting | None = None,
    near: tuple[Claim, ...] = (),
    looks_like_files: bool = False,
) -> Rendered:
    """Answer `try_claim`; *kept_alive* says that the server renews the claim, *fleeting* that it may end with the call.

    *near* are claims of others on keys that look alike.  A key that *looks_like_files* is a text like any other.
    """
    found, now, name = result.found, result.now, phrases.named(scoped)
    if isinstance(found, Unreadable):
        facts = phrases.claim_facts(found, now)
        lead, advice = f"HELD: {name} {_in_doubt(found)}", f"Do not act. {_REMEDY}"
    else:
        claim = ClaimDescription(found, now)
        facts = claim.facts
        if result.status is Status.ACQUIRED:
            lead = f"CLAIMED: you hold {phrases.named_all(found) or name} {claim.yours()}."
            renewal = (
                "The server renews it meanwhile" if kept_alive else "To renew, call try_claim again before it expires"
            )
            advice = f"You act, nobody else will. Call release with an outcome when you stop. {renewal}."
        elif result.status is Status.RENEWED:
            lead = (
                f"RENEWED: you have held {phrases.named_all(found) or name} since {claim.since()}, now {claim.yours()}."
            )
            advice = (
                f"Your connection has held this since {claim.since()}. If you did not claim it yourself, a sub-agent on "
                "your connection did: do not act. If you did, go on, and call release when you stop."
            )
        elif result.status is Status.YOUR_TURN:
            facts, lead, advice = _your_turn(claim, name)
        elif result.status is Status.DONE:
            lead, advice = f"DONE: {name} {claim.ended()}", _DONE
        else:
            lead = f"HELD: {name} is {claim.held()}"
            act = "Do not act. Report who is on it. To act after them, call again with wait_seconds."
            if result.cycle:
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
            advice = f"{_caveats(scoped, found, claim)}{phrases.in_the_way(result.in_the_way)}{act}"
            if result.missing:
                lead = f"HELD: you no longer hold {phrases.listed_keys(result.missing)}, which you claimed with {name}."
                advice = "You still hold the others, but not all: stop what needs all of them, and release them or claim anew."
        if fleeting is not None:
            advice = fleeting.value.format(generation=found.generation)
    if result.left is not None:
        advice = f"{_choice(result)} {advice}"
    if looks_like_files:
        advice = f"{phrases.NO_FILE} {advice}"
    if near:
        advice = f"{phrases.near(near)} If that is the same event, release yours and do not act. {advice}"
    answer: ClaimAnswer = {
        "claimed": result.claimed,
        "status": result.status.value,
        "key": scoped.key,
        "namespace": scoped.namespace,
        "advice": advice,
    }
    answer.update(facts)  # type: ignore[typeddict-item] # No other key is in it.
    if result.taken_over is not None:
        replaced, answer["previous"] = _taken_over(result.taken_over, now)
        lead += f" {replaced}"
    return with_losses(Rendered(answer, lead), _own_loss(result.lost, found), now)


def inspect_answer(scoped: ScopedKey, inspection: Inspection) -> Rendered:
    """Answer `is_claimed_by_other`."""
    found, now, name = inspection.found, inspection.now, phrases.named(scoped)
    facts: ClaimFacts = {}
    if found is None:
        lead, advice = f"FREE: nobody holds {name}.", "This claims nothing: call try_claim before you act."
    elif isinstance(found, Unreadable):
        facts = phrases.claim_facts(found, now)
        lead, advice = f"HELD: {name} {_in_doubt(found)}", f"Do not act. {_REMEDY}"
    else:
        claim = ClaimDescription(found, now)
        facts = claim.facts
        if inspection.held_by_you:
            lead = f"YOURS: you hold {name} {claim.yours()}."
            advice = "Go on, and call release with an outcome when you stop."
        elif inspection.your_turn:
            facts, lead, advice = _your_turn(claim, name)
        elif inspection.done:
            lead, advice = f"DONE: {name} {claim.ended()}", _DONE
        elif inspection.marker is not None:
            lead = f"FREE: nobody holds {name}; it {claim.ended()}"
            advice = "This claims nothing: call try_claim before you act."
        else:
            lead = f"HELD: {name} is {claim.held()}"
            advice = f"{_caveats(scoped, found, claim)}Do not act. Report who is on it."
    if inspection.in_force is not None:
        lead += f" The generation that you asked about {'is' if inspection.in_force else 'is NOT'} in force."
        if not inspection.in_force:
            stop = "Stop what you did under that generation: do not push, merge or send it."
            advice = f"{stop} {advice}" if inspection.your_turn else stop
    answer: InspectAnswer = {
        "claimed_by_other": inspection.claimed_by_other,
        "held_by_you": inspection.held_by_you,
        "key": scoped.key,
        "namespace": scoped.namespace,
        "advice": advice,
    }
    answer.update(facts)  # type: ignore[typeddict-item] # No other key is in it.
    if inspection.in_force is not None:
        answer["in_force"] = inspection.in_force
    return with_losses(Rendered(answer, lead), _own_loss(inspection.lost, found), now)


def release_answer(scoped: ScopedKey, result: ReleaseResult) -> Rendered:
    """Answer `release`."""
    found, now, name = result.found, result.now, phrases.named(scoped)
    advice = "It is free for others. Claim it again before you act on it again."
    facts: ClaimFacts = {}
    if isinstance(found, Claim) and found.ended is not None:
        claim = ClaimDescription(found, now)
        facts = claim.facts
        lead = f"RELEASED: {name} " if result.released else f"NOTHING TO RELEASE: nobody holds {name}; it "
        lead += claim.ended()
        if found.ended.outcome is Outcome.DONE:
            advice = "Others are told not to repeat it."
    elif result.declined:
        lead = f"DECLINED: {name} is no longer kept for you."
        advice = "You held nothing. The next session that waits can have it."
    elif result.released:
        lead = f"RELEASED: {name} is free."
    elif found is None:
        lead, advice = f"NOTHING TO RELEASE: nobody holds {name}.", "There is nothing to do."
    elif isinstance(found, Unreadable):
        facts = phrases.claim_facts(found, now)
        lead, advice = f"NOT YOURS: {name} {_in_doubt(found)}", _REMEDY
    else:
        claim = ClaimDescription(found, now)
        facts = claim.facts
        lead = f"NOT YOURS: {name} is {claim.held()}"
        advice = f"{_caveats(scoped, found, claim)}Leave it to them; if you still act on it, stop."
    answer: ReleaseAnswer = {
        "released": result.released,
        "key": scoped.key,
        "namespace": scoped.namespace,
        "advice": advice,
    }
    answer.update(facts)  # type: ignore[typeddict-item] # No other key is in it.
    return with_losses(Rendered(answer, lead), _own_loss(result.lost, found), now)


def with_losses(answer: Rendered, losses: list[tuple[Claim, Found]], now: Moment) -> Rendered:
    """Return *answer* with the claims that its session has lost, each with what is stored instead, told first."""
    if not losses:
        return answer
    lost: list[LostClaim] = [
        {
            "key": phrases.shown(claim.scoped.key),
            "namespace": phrases.shown(claim.scoped.namespace),
            "generation": claim.generation,
            "reason": _how_lost(claim, found, now),
        }
        for claim, found in losses
    ]
    told = [
        f"You lost your claim of generation {each['generation']} on {phrases.named(claim.scoped)}: {each['reason']}; "
        "stop what you did under it."
        for each, (claim, _) in zip(lost, losses, strict=True)
    ]
    structured = answer.structured
    advice = " ".join([*told, structured["advice"]])
    return Rendered({**structured, "lost": [*lost, *structured.get("lost", [])], "advice": advice}, answer.lead)


def _taken_over(replaced: TakenOver, now: Moment) -> tuple[str, Previous]:
    """Return what a new claim replaced and why it could be replaced, in words and as facts."""
    found, state = replaced
    if isinstance(found, Unreadable):
        text = f"Taken over: an unreadable claim older than any TTL ({phrases.unreadable(found)})."
        return text, {"state": state.value}
    # Described like the marker that keeps its note, so that the next holder learns the same, whoever came first.
    previous = ClaimDescription(found._replace(ended=found.ended or expiry.end_of_dead(found, state, now)), now)
    text = f"Before that, it {previous.ended()}"
    facts: Previous = {"state": state.value, "holder": previous.facts["holder"]}
    for name in ("client", "generation", "note", "ended_at"):
        if name in previous.facts:
            facts[name] = previous.facts[name]
    return text, facts


_DONE = (
    "Do not act; report that it has been handled. If the event has happened again, claim the new occurrence by its own key "
    "(commit, date). To do the same again, call try_claim with redo=true."
)
_REMEDY = "Ask a person to look at the file, and to delete it if nobody works on this."


def _your_turn(claim: ClaimDescription, name: str) -> tuple[ClaimFacts, str, str]:
    """Return facts, lead and advice about a key that is reserved for the caller.

    The facts are without a holder: a model would take that for somebody who is on it.
    """
    facts: ClaimFacts = {each: claim.facts[each] for each in ("expires_at", "expires_in_seconds")}  # type: ignore[assignment]
    advice = (
        f"It is free now and kept for you {claim.until()}: call try_claim again, with the same arguments, to take it, and "
        "then act; or call release to let the next one have it."
    )
    return facts, f"YOUR TURN: you do not hold {name} yet.", advice


def _choice(result: ClaimResult) -> str:
    """Return what the caller of a list should know beside the answer about one key of it."""
    if result.status is Status.RENEWED:
        return "You hold this one of the list already: release it to get the next."
    if not result.claimed and result.status is not Status.YOUR_TURN:
        return "Nothing in the list is free." if result.status is Status.HELD else "All of the list is done."
    return f"{result.left or 'No'} more of the list {'is' if result.left == 1 else 'are'} free."


def _in_doubt(found: Unreadable) -> str:
    until = phrases.free_at(found) or "somebody removes it"
    return f"counts as held until {until}: what is stored for it cannot be read ({phrases.unreadable(found)})."


def _own_loss(lost: Claim | None, found: Found) -> list[tuple[Claim, Found]]:
    return [] if lost is None else [(lost, found)]


def _how_lost(lost: Claim, found: Found, now: Moment) -> str:
    left = expiry.remaining(lost.expires, now)
    if left <= timedelta(0):
        return f"it expired {phrases.span(-left)} ago"
    if isinstance(found, Unreadable):
        return "what is stored can no longer be read"
    ended = found.ended if isinstance(found, Claim) else None
    if ended is not None and ended.outcome is Outcome.ORPHANED:
        return "its process was taken for dead"
    if isinstance(found, Claim) and ended is not None and ended.outcome is Outcome.REVOKED:
        return f"it {ClaimDescription(found, now).ended().rstrip('.')}"
    return "it was removed before it expired"


def _caveats(scoped: ScopedKey, claim: Claim, description: ClaimDescription) -> str:
    """Return what is peculiar to a claim in the way: a person's, a reservation, or one shared with agent-awareness."""
    person = phrases.person(claim.holder.name)
    caveats = f"No agent holds it: {person}, keeps it {description.until()}. " if person else ""
    if claim.mode is Mode.RESERVED:
        caveats = f"Nobody holds it, but it is kept {description.until()} for a session that has waited for it. "
    if claim.scoped != scoped:
        other = phrases.quoted(claim.scoped.key)
        if claim.scoped.namespace != PLACES:
            caveats += f"This is the claim on {other}, whose file has the same name in this layout. "
        elif conflict(claim.scoped, scoped):
            caveats += f"This is the claim on {other}, which overlaps with it. "
        else:
            caveats += (
                f"A session that came before you waits for both it and {other}, and this is the claim on {other}. "
            )
    if isinstance(claim.holder, OriginalHolder):
        caveats += "agent-awareness wrote it without a proof of death: only host, PID and expiry are known. "
    return caveats
