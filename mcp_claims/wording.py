"""The answers in words, for models: first what is the case, then what to do.

Text that another session wrote (notes, client names, keys) is put on one line, cut to a length and quoted.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

from mcp_claims import rules
from mcp_claims.answers import Attempt, Look, Release, Status, TakenOver
from mcp_claims.record import Claim, Found, Moment, OriginalHolder, Outcome, ScopedKey, Unreadable
from mcp_claims.record_json import timestamp
from mcp_claims.rules import Standing
from mcp_claims.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_claims.overview import Listed, Listing, Pruned

_SHOWN_PROBLEMS = 3
_PLAIN_NAME = r"[\w.:-]{1,300}"


def attempt_text(scoped: ScopedKey, attempt: Attempt, kept: bool) -> str:
    """Say what `try_claim` did, and whether the claim is *kept* alive, and what to do."""
    return f"{attempt_lead(scoped, attempt)} {attempt_advice(scoped, attempt, kept)}"


def attempt_lead(scoped: ScopedKey, attempt: Attempt) -> str:
    """Say what `try_claim` did."""
    found, now = attempt.found, attempt.now
    if not isinstance(found, Claim):
        return f"NOT CLAIMED: {_named(scoped)} counts as held."
    if attempt.status is Status.ACQUIRED:
        lead = f"CLAIMED: you hold {_named(scoped)} {_until(found, now)}, generation {found.generation}."
        if attempt.taken_over:
            lead += f" {_before(attempt.taken_over)}"
        return lead
    if attempt.status is Status.RENEWED:
        since = f"since {_time(found.claimed.wall)}, now {_until(found, now)}, generation {found.generation}"
        return f"RENEWED: you have held {_named(scoped)} {since}."
    if attempt.status is Status.DONE:
        return f"DONE: {_named(scoped)} {_ended(found)}"
    return f"NOT CLAIMED: {_named(scoped)} is {_held(found, now)}"


def attempt_advice(scoped: ScopedKey, attempt: Attempt, kept: bool) -> str:
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


def look_text(scoped: ScopedKey, look: Look) -> str:
    """Say what `is_claimed_by_other` saw, and what to do."""
    return f"{look_lead(scoped, look)} {look_advice(scoped, look)}"


def look_lead(scoped: ScopedKey, look: Look) -> str:
    """Say what `is_claimed_by_other` saw."""
    found = look.found
    if isinstance(found, Unreadable):
        lead = f"IN DOUBT, YES: {_named(scoped)} counts as held."
    elif found is None:
        lead = f"NO: nobody holds {_named(scoped)}."
    elif look.marker is not None:
        lead = f"NO: nobody holds {_named(scoped)}; it {_ended(found)}"
    elif look.held_by_you:
        lead = f"NO: you hold {_named(scoped)} {_until(found, look.now)}, generation {found.generation}."
    else:
        lead = f"YES: {_named(scoped)} is {_held(found, look.now)}"
    if look.in_force is not None:
        lead += f" The grant that you asked about {'is' if look.in_force else 'is NOT'} in force."
    return lead


def look_advice(scoped: ScopedKey, look: Look) -> str:
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


def release_text(scoped: ScopedKey, release: Release) -> str:
    """Say what `release` did, and what to do."""
    return f"{release_lead(scoped, release)} {release_advice(scoped, release)}"


def release_lead(scoped: ScopedKey, release: Release) -> str:
    """Say what `release` did."""
    found = release.found
    marker = found if isinstance(found, Claim) and found.ended is not None else None
    if release.released and marker is not None:
        return f"RELEASED: {_named(scoped)} {_ended(marker)}"
    if release.released:
        return f"RELEASED: {_named(scoped)} is free."
    if marker is not None:
        return f"NOT RELEASED: nobody holds {_named(scoped)}; it {_ended(marker)}"
    if found is None:
        return f"NOT RELEASED: nobody holds {_named(scoped)}."
    if isinstance(found, Claim):
        return f"NOT RELEASED: {_named(scoped)} is not yours but {_held(found, release.now)}"
    return f"NOT RELEASED: {_named(scoped)} counts as held."


def release_advice(scoped: ScopedKey, release: Release) -> str:
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


def list_text(listing: Listing, cursor: str | None) -> str:
    """List what is stored, a line each."""
    lines = [f"LISTED: {len(listing.page)} {'claim' if len(listing.page) == 1 else 'claims'}."]
    lines += [f"- {listed_text(listed, listing.now)}" for listed in listing.page]
    return "\n".join([*lines, list_advice(cursor)])


def listed_text(listed: Listed, now: Moment) -> str:
    """Say in a line what is stored."""
    found = listed.found
    if isinstance(found, Unreadable):
        return f"UNREADABLE, counts as held: {unreadable(found)}"
    if found.ended is not None:
        return f"{_named(found.scoped)} {_ended(found)}"
    if listed.standing is Standing.HELD:
        return f"{_named(found.scoped)} is {_held(found, now)}"
    return f"DEAD ({listed.standing.value}), free: {_named(found.scoped)}, last held by {_who(found)}."


def list_advice(cursor: str | None) -> str:
    """Say how to see more."""
    return f"There are more: call list_claims with cursor={cursor}." if cursor else "That is all."


OPENED_ADVICE = (
    "Pass it as `session` with each call, and to nobody else: who has it is you. What you claim with it is yours alone, "
    "not your connection's."
)


def opened_text(handle: str, holder: str) -> str:
    """Say what `open_session` gave out."""
    return f"OPENED: session {handle} (others see you as {holder}). {OPENED_ADVICE}"


def prune_text(pruned: Pruned) -> str:
    """Say what `prune` removed and kept."""
    counts = (
        f"PRUNED: removed {pruned.expired} expired, {pruned.orphaned} orphaned and {pruned.unreadable} unreadable; "
        f"kept {pruned.live} live, {pruned.markers} outcomes and {len(pruned.kept_unreadable)} unreadable."
    )
    return " ".join([counts, *problems(pruned), prune_advice(pruned)])


def prune_advice(pruned: Pruned) -> str:
    """Say what to do after `prune`."""
    if pruned.kept_unreadable:
        return _REMEDY
    return "Try again later for what could not be removed." if pruned.failed else "There is nothing else to do."


def problems(pruned: Pruned) -> list[str]:
    """Say what a person has to look at, three things at most."""
    said = [f"Kept, since it cannot be read: {unreadable(kept)}." for kept in pruned.kept_unreadable]
    said += [f"Not removed: {rules.one_line(str(failure))}" for failure in pruned.failed]
    more = len(said) - _SHOWN_PROBLEMS
    return said[:_SHOWN_PROBLEMS] + ([f"And {more} more."] if more > 0 else [])


def _before(what: TakenOver) -> str:
    if isinstance(what.what, Claim) and what.what.ended is not None:
        return f"Before that, it {_ended(what.what)}"
    return f"Taken over from {taken_over(what)}."


def _ended(marker: Claim) -> str:
    """Say what became of the work."""
    assert marker.ended is not None
    said = {
        Outcome.DONE: "was done",
        Outcome.FAILED: "was tried and failed",
        Outcome.ABANDONED: "was given up",
        Outcome.REVOKED: "was taken away",
    }
    note = f" Its note, quoted: {_quoted(marker.note)}." if marker.note else ""
    when = f"at {_time(marker.ended.at.wall)}, generation {marker.generation}"
    return f"{said[marker.ended.outcome]} by {_who(marker)} {when}.{note}"


def _is_marker(found: Found) -> bool:
    return isinstance(found, Claim) and found.ended is not None


def _is_done(marker: Claim | None) -> bool:
    return marker is not None and marker.ended is not None and marker.ended.outcome is Outcome.DONE


def taken_over(what: TakenOver) -> str:
    """Say from whom a key was taken over, and why that was right."""
    if isinstance(what.what, Unreadable):
        return f"a claim that could not be read and is too old to live ({unreadable(what.what)})"
    why = {
        Standing.EXPIRED: "whose claim had expired",
        Standing.ORPHANED: "whose process is dead",
        Standing.DONE: "who had done it",
    }.get(what.why, "who had given it back")
    return f"{_who(what.what)}, {why}"


def unreadable(found: Unreadable) -> str:
    """Say what cannot be read, and why."""
    return f"{shown(found.where)}: {shown(found.problem)}"


def free_at(found: Unreadable) -> str:
    """Return when something unreadable is nobody's for certain."""
    try:
        return timestamp(found.changed + rules.MAX_TTL)
    except OverflowError:
        return "somebody removes it"


def shown(text: str | None) -> str | None:
    """Return text that somebody else wrote as far as it may be shown: one line, of bounded length."""
    if text is None:
        return None
    line = rules.one_line(text)
    return line if len(line) <= rules.MAX_NOTE_CHARACTERS else line[: rules.MAX_NOTE_CHARACTERS] + "…"


_REMEDY = "Ask a person to look at the file, and to delete it if nobody works on this."


def _in_doubt(found: Unreadable) -> str:
    return f"What is stored for it cannot be read ({unreadable(found)}) and is held until {free_at(found)}. {_REMEDY}"


def _warned(lost: Claim | None, found: Found, now: Moment, advice: str) -> str:
    if lost is None:
        return advice
    left = rules.remaining(lost.expires, now)
    if left <= timedelta(0):
        how = f"it expired {span(-left)} ago"
    elif isinstance(found, Unreadable):
        how = "what is stored can no longer be read"
    elif isinstance(found, Claim) and found.ended is not None and found.ended.outcome is Outcome.REVOKED:
        how = f"it {_ended(found).rstrip('.')}"
    else:
        how = "it was removed before it expired"
    return f"You lost your claim of generation {lost.generation}: {how}; stop what you did under it. {advice}"


def _named(scoped: ScopedKey) -> str:
    return f"{_quoted(scoped.key)} (namespace {_quoted(scoped.namespace)})"


def _doubts(scoped: ScopedKey, claim: Claim) -> str:
    """Say what is special about a claim that is in the way, where the directory is shared with agent-awareness."""
    said = ""
    if claim.scoped != scoped:
        said += f"This is the claim on {_quoted(claim.scoped.key)}, whose file has the same name in this layout. "
    if isinstance(claim.holder, OriginalHolder):
        said += "It was written by agent-awareness, without a proof of death: host, PID and expiry are all one knows. "
    return said


def _held(claim: Claim, now: Moment) -> str:
    note = f" Its note, quoted: {_quoted(claim.note)}." if claim.note else ""
    number = f", generation {claim.generation}" if claim.generation else ""
    since = f"since {_time(claim.claimed.wall)}, {_until(claim, now)}{number}"
    return f"held by {_who(claim)} {since}.{note}"


def client(claim: Claim) -> str | None:
    """Return the program that the holder says to be."""
    return "agent-awareness" if isinstance(claim.holder, OriginalHolder) else shown(claim.holder.client)


def _who(claim: Claim) -> str:
    name, program = claim.holder.name, client(claim)
    # Our names are plain; another one is whatever somebody wrote into the file.
    shown_name = name if re.fullmatch(_PLAIN_NAME, name) else _quoted(name)
    return f"{shown_name} ({_quoted(program)})" if program else shown_name


def _until(claim: Claim, now: Moment) -> str:
    left = rules.remaining(claim.expires, now)
    if left <= timedelta(0) and rules.expires_in(claim, now) is None:
        return f"until the store ends it ({_time(claim.expires.wall)} by the clock of its holder's machine)"
    return f"until {_time(rules.wall_expiry(claim.expires, now))} ({span(left)} from now)"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _quoted(text: str) -> str:
    return json.dumps(shown(text), ensure_ascii=False)


def span(time: timedelta) -> str:
    """Say how long *time* is, as people say it."""
    seconds = round(time.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
