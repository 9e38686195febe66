"""The answers: each is made in one pass, structured and as text, from the result of an operation of a session.

The text says what is the case, then what to do.  It suffices alone, as the structured answer does: some hosts show the
model only one of them.  The output schemas of the tools are made from these types.
"""

from datetime import timedelta
from enum import Enum
from typing import Any, Literal, NamedTuple, TypedDict

from mcp_claims.model import expiry
from mcp_claims.model.keys import PLACES, conflict
from mcp_claims.model.records import (
    ALONE,
    Claim,
    Found,
    Mode,
    Moment,
    Outcome,
    ScopedKey,
    Unreadable,
    Use,
)
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.render import phrases
from mcp_claims.render.phrases import ClaimDescription, ClaimFacts
from mcp_claims.render.refusals import REMEDY, caveats, in_doubt, refusal
from mcp_claims.session.results import ClaimResult, Inspection, ReleaseResult, Status, TakenOver

Grants = tuple[tuple[Claim, TakenOver | None], ...]


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


def subject(request: ClaimRequest, result: ClaimResult) -> ScopedKey:
    """Return the key of *request* that the answer is about: the first, or of a list the one that *result* is about."""
    if not request.or_else or not isinstance(result.found, Claim):
        return request.scoped
    held = result.found.scoped.base
    # A file of the list may be refused for a claim that overlaps with it.
    return held if held in request.keys else next((key for key in request.keys if conflict(key, held)), request.scoped)


def claim_answer(
    scoped: ScopedKey,
    result: ClaimResult,
    *,
    kept_alive: bool = False,
    fleeting: Fleeting | None = None,
    near: tuple[Claim, ...] = (),
    like_files: tuple[ScopedKey, ...] = (),
    keys: tuple[ScopedKey, ...] = (),
    use: Use = ALONE,
    contact_timeout: float | None = None,
) -> Rendered:
    """Answer `try_claim`; *kept_alive* says that the server renews the claim, *fleeting* that it may end with the call.

    *near* are claims of others on keys that look alike, *like_files* texts that may be meant for files.  *keys* are all that
    the call named, of which *scoped* is the one that the answer is about, each asked for in the way *use*.  After
    *contact_timeout* seconds without contact to the store the claim is lost.
    """
    found, now, name = result.found, result.now, phrases.named(scoped)
    if result.status is Status.HELD or isinstance(found, Unreadable):
        facts, lead, advice = refusal(scoped, result, keys, use)
    else:
        claim = ClaimDescription(found, now)
        facts = claim.facts
        if result.status is Status.ACQUIRED:
            lead = f"CLAIMED: you hold {phrases.named_all(found) or name} {claim.yours(result.grants)}."
            renewal = (
                "The server renews it meanwhile" if kept_alive else "To renew, call try_claim again before it expires"
            )
            advice = f"{_ACT[found.mode]} Call release with an outcome when you stop. {renewal}."
            if contact_timeout is not None:
                advice += f" It is lost after {contact_timeout:.0f} s without contact to etcd."
        elif result.status is Status.RENEWED:
            lead, advice = _renewal(claim, found, result, name)
        elif result.status is Status.YOUR_TURN:
            facts, lead, advice = _your_turn(claim, found, result.grants, several=len(keys) > 1)
        else:
            lead, advice = f"DONE: {name} {claim.ended()}", _DONE
            if result.left is None and len(keys) > 1:
                advice = f"Nothing was claimed, since {phrases.quoted(scoped.key)} is done. {advice}"
        if fleeting is not None:
            advice = fleeting.value.format(generation=found.generation)
    if others := replaced_beside(scoped, result):
        advice = f"{others} {advice}"
    if result.left is not None:
        advice = f"{_choice(result)} {advice}"
    if like_files:
        advice = f"{phrases.no_file(like_files)} {advice}"
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
        key = phrases.quoted(scoped.key) if len(keys) > 1 else "it"
        replaced, answer["previous"] = _taken_over(result.taken_over, now, key)
        lead += f" {replaced}"
    return with_losses(Rendered(answer, lead), _own_loss(result.lost, found), now)


def replaced_beside(scoped: ScopedKey, result: ClaimResult) -> str:
    """Return what was left on the keys that were granted together with *scoped*, empty if nothing was."""
    replaced = [(claim.scoped, each) for claim, each in result.grants if each is not None and claim.scoped != scoped]
    shown = replaced[: phrases.SHOWN_KEYS]
    told = [_taken_over(each, result.now, phrases.quoted(key.key))[0] for key, each in shown]
    if len(replaced) > len(shown):
        told.append(f"On {len(replaced) - len(shown)} more of these keys something was left, too.")
    return " ".join(told)


def inspect_answer(scoped: ScopedKey, inspection: Inspection) -> Rendered:
    """Answer `is_claimed_by_other`."""
    found, now, name = inspection.found, inspection.now, phrases.named(scoped)
    facts: ClaimFacts = {}
    if found is None:
        lead, advice = f"FREE: nobody holds {name}.", "This claims nothing: call try_claim before you act."
    elif isinstance(found, Unreadable):
        facts = phrases.claim_facts(found, now)
        lead, advice = f"HELD: {name} {in_doubt(found)}", f"Do not act. {REMEDY}"
    else:
        claim = ClaimDescription(found, now)
        facts = claim.facts
        if inspection.held_by_you:
            lead = f"YOURS: you hold {name} {claim.yours()}."
            advice = "Go on, and call release with an outcome when you stop."
        elif inspection.your_turn:
            facts, lead, advice = _your_turn(claim, found)
        elif inspection.is_open:
            lead = f"OPEN: {name} is {claim.held()}"
            advice = f"{phrases.other_way(found, ALONE)}This claims nothing: call try_claim before you act."
        elif inspection.done:
            lead, advice = f"DONE: {name} {claim.ended()}", _DONE
        elif inspection.marker is not None:
            lead = f"FREE: nobody holds {name}; it {claim.ended()}"
            advice = "This claims nothing: call try_claim before you act."
        else:
            lead = f"HELD: {name} is {claim.held()}"
            if inspection.is_full:
                lead = f"HELD: all {found.slots} slots of {name} are taken; one is {claim.held()}"
            advice = f"{caveats((scoped,), found, claim)}Do not act. Report who is on it."
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
    several = phrases.listed_keys(result.keys) if len(result.keys) > 1 else None
    advice = "It is free for others. Claim it again before you act on it again."
    if several:
        advice = "They are free for others. Claim them again before you act on them again."
    facts: ClaimFacts = {}
    if isinstance(found, Claim) and found.ended is not None:
        claim = ClaimDescription(found, now)
        facts = claim.facts
        lead = f"RELEASED: {name} " if result.released else f"NOTHING TO RELEASE: nobody holds {name}; it "
        if several:
            lead = f"RELEASED: all of {several}. The work "
        lead += claim.ended()
        if found.ended.outcome is Outcome.DONE:
            advice = _done_for_others(found)
    elif result.declined:
        lead = f"DECLINED: {name} is no longer kept for you."
        advice = "You held nothing. The next session that waits can have it."
        if several:
            lead = f"DECLINED: {several} are no longer kept for you."
            advice = "The next session that waits can have them."
    elif several:
        lead = f"RELEASED: all of {several}."
    elif result.released and isinstance(found, Claim) and found.use != ALONE:
        is_slot = found.slot is not None
        lead = (
            f"RELEASED: slot {found.slot} of {name} is free." if is_slot else f"RELEASED: you no longer share {name}."
        )
        advice = "Claim it again before you act on it again."
    elif result.released:
        lead = f"RELEASED: {name} is free."
    elif found is None:
        lead, advice = f"NOTHING TO RELEASE: nobody holds {name}.", "There is nothing to do."
    elif isinstance(found, Unreadable):
        facts = phrases.claim_facts(found, now)
        lead, advice = f"NOT YOURS: {name} {in_doubt(found)}", REMEDY
    else:
        claim = ClaimDescription(found, now)
        facts = claim.facts
        lead = f"NOT YOURS: {name} is {claim.held()}"
        advice = f"{caveats((scoped,), found, claim)}Leave it to them; if you still act on it, stop."
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
            "key": phrases.shown(claim.scoped.base.key),
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


def _taken_over(replaced: TakenOver, now: Moment, key: str) -> tuple[str, Previous]:
    """Return what a new claim on *key* replaced and why it could be replaced, in words and as facts."""
    found, state = replaced
    if isinstance(found, Unreadable):
        text = f"Before that, {key} had an unreadable claim older than any TTL ({phrases.unreadable(found)})."
        return text, {"state": state.value}
    # Described like the marker that keeps its note, so that the next holder learns the same, whoever came first.
    previous = ClaimDescription(found._replace(ended=found.ended or expiry.end_of_dead(found, state, now)), now)
    text = f"Before that, {key} {previous.ended()}"
    facts: Previous = {"state": state.value, "holder": previous.facts["holder"]}
    for name in ("client", "generation", "note", "ended_at"):
        if name in previous.facts:
            facts[name] = previous.facts[name]
    return text, facts


_ACT = {
    Mode.ALONE: "You act, nobody else will.",
    Mode.SHARED: "Others may share it: read, and change nothing that they read.",
    Mode.SLOT: "The slot is yours alone. Act in it.",
}
_DONE = (
    "Do not act; report that it has been handled. If the event has happened again, claim the new occurrence by its own key "
    "(commit, date). To do the same again, call try_claim with redo=true."
)


def _renewal(claim: ClaimDescription, found: Claim, result: ClaimResult, name: str) -> tuple[str, str]:
    """Return lead and advice of a renewal, which may have claimed further keys."""
    new = tuple(grant.scoped for grant, _ in result.grants)
    old = tuple(key for key in found.group if key not in new)
    if not (new and old):
        lead = f"RENEWED: you have held {phrases.named_all(found) or name} since {claim.since()}, now {claim.yours()}."
        advice = (
            f"Your connection has held {'these' if found.group else 'this'} since {claim.since()}. If you did not claim "
            f"{'them' if found.group else 'it'} yourself, a sub-agent on your connection did: do not act. If you did, go on, "
            "and call release when you stop."
        )
        return lead, advice
    held = f"{phrases.listed_keys(old)} since {'before this call' if found.scoped in new else claim.since()}"
    lead = (
        f"RENEWED: you have held {held}, and claimed {phrases.listed_keys(new)} now, all {claim.yours(result.grants)}."
    )
    advice = (
        f"Only {phrases.listed_keys(new)} {'is' if len(new) == 1 else 'are'} new. Your connection has held {held}. If you "
        "did not claim that yourself, a sub-agent on your connection did: do not act on it, and release nothing, since a "
        "release frees all of these keys. If you did, go on, and call release when you stop."
    )
    return lead, advice


def _your_turn(
    claim: ClaimDescription, found: Claim, grants: Grants = (), *, several: bool = False
) -> tuple[ClaimFacts, str, str]:
    """Return facts, lead and advice about what is reserved for the caller, *found* and with it the other *grants*.

    The facts are without a holder: a model would take that for somebody who is on it.
    """
    facts: ClaimFacts = {each: claim.facts[each] for each in ("expires_at", "expires_in_seconds")}  # type: ignore[assignment]
    keys = tuple(grant.scoped for grant, _ in grants)
    free, it, name = "It is free now and kept", "it", phrases.named(found.scoped)
    if len(keys) > 1:
        free, it, name = "They are free now and kept", "them", phrases.listed_keys(keys)
    # Of several keys the first one may be held already: its release would end that claim.
    decline = f"release {phrases.quoted(found.scoped.base.key)}" if several or keys else "call release"
    advice = (
        f"{free} for you {claim.until()}: call try_claim again, with the same arguments, to take {it}, and "
        f"then act; or {decline} to let the next one have {it}."
    )
    return facts, f"YOUR TURN: you do not hold {name} yet.", advice


def _done_for_others(marker: Claim) -> str:
    """Return what others are told of work that is done: of a group only its first key stays done, and no file ever does."""
    first = marker.group[0] if marker.group else marker.scoped
    if first.namespace == PLACES or marker.mode is not Mode.ALONE:
        return "The next holder is told how it ended."
    if not marker.group:
        return "Others are told not to repeat it."
    return f"Others are told not to repeat {phrases.quoted(first.key)}. The other keys are free."


def _choice(result: ClaimResult) -> str:
    """Return what the caller of a list should know beside the answer about one key of it."""
    if result.status is Status.RENEWED:
        return "Your connection has this one of the list already: a call gets another one only after its release."
    if not result.claimed and result.status is not Status.YOUR_TURN:
        return "Nothing in the list is free." if result.status is Status.HELD else "All of the list is done."
    if not result.left:
        return "Nothing else in the list is free."
    return f"{result.left} more of the list {'is' if result.left == 1 else 'are'} free."


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
