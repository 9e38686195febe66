"""The answers in words, for models: first what is the case, then what to do.

What a claim, its holder or a time is called is in `phrases`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from mcp_claims.model import expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Found, Moment, OriginalHolder, Outcome, ScopedKey, Unreadable
from mcp_claims.render import phrases
from mcp_claims.session.results import ClaimResult, Inspection, ReleaseResult, Status, TakenOver

if TYPE_CHECKING:
    from mcp_claims.session.results import ClaimPage, ListedClaim, PruneResult

_SHOWN_PROBLEMS = 3


def attempt_lead(scoped: ScopedKey, attempt: ClaimResult) -> str:
    """Say what `try_claim` did."""
    found, now = attempt.found, attempt.now
    if not isinstance(found, Claim):
        return f"NOT CLAIMED: {phrases.named(scoped)} counts as held."
    if attempt.status is Status.ACQUIRED:
        lead = f"CLAIMED: you hold {phrases.named(scoped)} {phrases.until(found, now)}, generation {found.generation}."
        if attempt.taken_over:
            lead += f" {_before(attempt.taken_over)}"
        return lead
    if attempt.status is Status.RENEWED:
        since = f"since {phrases.wall_time(found.claimed.wall)}, now {phrases.until(found, now)}, generation {found.generation}"
        return f"RENEWED: you have held {phrases.named(scoped)} {since}."
    if attempt.status is Status.DONE:
        return f"DONE: {phrases.named(scoped)} {phrases.ended(found)}"
    return f"NOT CLAIMED: {phrases.named(scoped)} is {phrases.held(found, now)}"


def attempt_advice(scoped: ScopedKey, attempt: ClaimResult, kept: bool) -> str:
    """Say what to do after `try_claim`, and what the session has to know before anything else."""
    if not isinstance(attempt.found, Claim):
        advice = f"Do not act. {_in_doubt(attempt.found)}"
    elif attempt.status is Status.ACQUIRED:
        renewal = "it is renewed for you meanwhile" if kept else "call try_claim again before it expires to renew"
        advice = f"You act, nobody else will. Release it when done; {renewal}."
    elif attempt.status is Status.RENEWED:
        advice = (
            "If neither you claimed it nor a call of yours that got no answer, an agent that shares this connection "
            "did: then do not act. Release it when done."
        )
    elif attempt.status is Status.DONE:
        advice = (
            "Do not act; report that it has been handled. If it has to be done again, call try_claim with redo=true."
        )
    else:
        advice = (
            f"{_doubts(scoped, attempt.found)}Do not act; report that it is being handled. Try again after it expires, "
            "should it matter."
        )
    return _warned(attempt.lost, attempt.found, attempt.now, advice)


def look_lead(scoped: ScopedKey, look: Inspection) -> str:
    """Say what `is_claimed_by_other` saw."""
    found = look.found
    if isinstance(found, Unreadable):
        lead = f"IN DOUBT, YES: {phrases.named(scoped)} counts as held."
    elif found is None:
        lead = f"NO: nobody holds {phrases.named(scoped)}."
    elif look.marker is not None:
        lead = f"NO: nobody holds {phrases.named(scoped)}; it {phrases.ended(found)}"
    elif look.held_by_you:
        lead = f"NO: you hold {phrases.named(scoped)} {phrases.until(found, look.now)}, generation {found.generation}."
    else:
        lead = f"YES: {phrases.named(scoped)} is {phrases.held(found, look.now)}"
    if look.in_force is not None:
        lead += f" The grant that you asked about {'is' if look.in_force else 'is NOT'} in force."
    return lead


def look_advice(scoped: ScopedKey, look: Inspection) -> str:
    """Say what to do after `is_claimed_by_other`."""
    if look.in_force is False:
        advice = "Stop what you did under that grant: do not push, merge or send it."
    elif isinstance(look.found, Unreadable):
        advice = f"Do not act. {_in_doubt(look.found)}"
    elif look.held_by_you:
        advice = "Go on, and release it when done."
    elif look.found is not None and look.marker is None:
        advice = f"{_doubts(scoped, look.found)}Do not act; report that it is being handled."
    elif _is_done(look.marker):
        advice = "Do not act; report that it has been handled."
    else:
        advice = "This claims nothing: call try_claim before you act."
    return _warned(look.lost, look.found, look.now, advice)


def release_lead(scoped: ScopedKey, release: ReleaseResult) -> str:
    """Say what `release` did."""
    found = release.found
    marker = found if isinstance(found, Claim) and found.ended is not None else None
    if release.released and marker is not None:
        return f"RELEASED: {phrases.named(scoped)} {phrases.ended(marker)}"
    if release.released:
        return f"RELEASED: {phrases.named(scoped)} is free."
    if marker is not None:
        return f"NOT RELEASED: nobody holds {phrases.named(scoped)}; it {phrases.ended(marker)}"
    if found is None:
        return f"NOT RELEASED: nobody holds {phrases.named(scoped)}."
    if isinstance(found, Claim):
        return f"NOT RELEASED: {phrases.named(scoped)} is not yours but {phrases.held(found, release.now)}"
    return f"NOT RELEASED: {phrases.named(scoped)} counts as held."


def release_advice(scoped: ScopedKey, release: ReleaseResult) -> str:
    """Say what to do after `release`."""
    if release.released or _is_marker(release.found):
        advice = "Claim it again before you act on it again."
    elif isinstance(release.found, Unreadable):
        advice = _in_doubt(release.found)
    elif release.found is None:
        advice = "There is nothing to do."
    else:
        advice = f"{_doubts(scoped, release.found)}Leave it to its holder; if you still act on it, stop."
    return _warned(release.lost, release.found, release.now, advice)


def list_lead(listing: ClaimPage) -> str:
    """List what is stored, a line each."""
    lines = [f"LISTED: {len(listing.page)} {'claim' if len(listing.page) == 1 else 'claims'}."]
    lines += [f"- {listed_text(listed, listing.now)}" for listed in listing.page]
    return "\n".join(lines)


def listed_text(listed: ListedClaim, now: Moment) -> str:
    """Say in a line what is stored."""
    found = listed.found
    if isinstance(found, Unreadable):
        return f"UNREADABLE, counts as held: {phrases.unreadable(found)}"
    if found.ended is not None:
        return f"{phrases.named(found.scoped)} {phrases.ended(found)}"
    if listed.state is ClaimState.HELD:
        return f"{phrases.named(found.scoped)} is {phrases.held(found, now)}"
    return f"DEAD ({listed.state.value}), free: {phrases.named(found.scoped)}, last held by {phrases.who(found)}."


def list_advice(cursor: str | None) -> str:
    """Say how to see more."""
    return f"There are more: call list_claims with cursor={cursor}." if cursor else "That is all."


OPENED_ADVICE = (
    "Pass it as `session` with each call, and to nobody else: who has it is you. What you claim with it is yours alone, "
    "not your connection's."
)


def opened_lead(handle: str, holder: str) -> str:
    """Say what `open_session` gave out."""
    return f"OPENED: session {handle} (others see you as {holder})."


def prune_lead(pruned: PruneResult) -> str:
    """Say what `prune` removed and kept."""
    counts = (
        f"PRUNED: removed {pruned.expired} expired, {pruned.orphaned} orphaned and {pruned.unreadable} unreadable; "
        f"kept {pruned.live} live, {pruned.markers} outcomes and {len(pruned.kept_unreadable)} unreadable."
    )
    return " ".join([counts, *problems(pruned)])


def prune_advice(pruned: PruneResult) -> str:
    """Say what to do after `prune`."""
    if pruned.kept_unreadable:
        return _REMEDY
    return "Try again later for what could not be removed." if pruned.failed else "There is nothing else to do."


def problems(pruned: PruneResult) -> list[str]:
    """Say what a person has to look at, three things at most."""
    said = [f"Kept, since it cannot be read: {phrases.unreadable(kept)}." for kept in pruned.kept_unreadable]
    said += [f"Not removed: {validation.one_line(str(failure))}" for failure in pruned.failed]
    more = len(said) - _SHOWN_PROBLEMS
    return said[:_SHOWN_PROBLEMS] + ([f"And {more} more."] if more > 0 else [])


def _before(what: TakenOver) -> str:
    if isinstance(what.what, Claim) and what.what.ended is not None:
        return f"Before that, it {phrases.ended(what.what)}"
    return f"Taken over from {phrases.taken_over(what)}."


def _is_marker(found: Found) -> bool:
    return isinstance(found, Claim) and found.ended is not None


def _is_done(marker: Claim | None) -> bool:
    return marker is not None and marker.ended is not None and marker.ended.outcome is Outcome.DONE


_REMEDY = "Ask a person to look at the file, and to delete it if nobody works on this."


def _in_doubt(found: Unreadable) -> str:
    return f"What is stored for it cannot be read ({phrases.unreadable(found)}) and is held until {phrases.free_at(found)}. {_REMEDY}"


def _warned(lost: Claim | None, found: Found, now: Moment, advice: str) -> str:
    if lost is None:
        return advice
    left = expiry.remaining(lost.expires, now)
    if left <= timedelta(0):
        how = f"it expired {phrases.span(-left)} ago"
    elif isinstance(found, Unreadable):
        how = "what is stored can no longer be read"
    elif isinstance(found, Claim) and found.ended is not None and found.ended.outcome is Outcome.REVOKED:
        how = f"it {phrases.ended(found).rstrip('.')}"
    else:
        how = "it was removed before it expired"
    return f"You lost your claim of generation {lost.generation}: {how}; stop what you did under it. {advice}"


def _doubts(scoped: ScopedKey, claim: Claim) -> str:
    """Say what is special about a claim that is in the way, where the directory is shared with agent-awareness."""
    said = ""
    if claim.scoped != scoped:
        said += (
            f"This is the claim on {phrases.quoted(claim.scoped.key)}, whose file has the same name in this layout. "
        )
    if isinstance(claim.holder, OriginalHolder):
        said += "It was written by agent-awareness, without a proof of death: host, PID and expiry are all one knows. "
    return said
