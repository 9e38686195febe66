"""Parts of sentences: how a claim, its holder, a time and other people's text are put into words.

Text that another session wrote (notes, client names, keys) is put on one line, cut to a length and quoted.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta

from mcp_claims.model import codec, expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Moment, OriginalHolder, Outcome, ScopedKey, Unreadable
from mcp_claims.model.text import one_line
from mcp_claims.session.results import TakenOver

_local_time = False
_PLAIN_NAME = re.compile(r"[\w.:@-]{1,300}")
_ENDINGS = {
    Outcome.DONE: "done",
    Outcome.FAILED: "tried, and failed",
    Outcome.ABANDONED: "abandoned",
    Outcome.REVOKED: "revoked",
}


def use_local_time() -> None:
    """Write all times from now on as people at this machine read them, with their age; models get UTC."""
    global _local_time
    _local_time = True


def shown(text: str) -> str:
    """Return text that somebody else wrote in a form fit to show: one line of bounded length."""
    line = one_line(text)
    return line if len(line) <= validation.MAX_NOTE_CHARACTERS else line[: validation.MAX_NOTE_CHARACTERS] + "…"


def quoted(text: str) -> str:
    """Return text that somebody else wrote, in quotes."""
    return json.dumps(shown(text), ensure_ascii=False)


def named(scoped: ScopedKey) -> str:
    """Return the key and its namespace."""
    return f"{quoted(scoped.key)} (namespace {quoted(scoped.namespace)})"


def client(claim: Claim) -> str | None:
    """Return the program that the holder claims to be, what its session is called, and where it works."""
    holder = claim.holder
    if isinstance(holder, OriginalHolder):
        return "agent-awareness"
    where = None if holder.directory is None else f"in {holder.directory}"
    return ", ".join(shown(part) for part in (holder.client, holder.label, where) if part) or None


def who(claim: Claim) -> str:
    """Return who holds, or held, *claim*."""
    # Our own names are plain; any other is whatever somebody wrote into the file.
    name = claim.holder.name if _PLAIN_NAME.fullmatch(claim.holder.name) else quoted(claim.holder.name)
    program = client(claim)
    return f"{name} ({json.dumps(program, ensure_ascii=False)})" if program else name


def held(claim: Claim, now: Moment) -> str:
    """Return by whom *claim* is held, since when and until when."""
    number = f", generation {claim.generation}" if claim.generation else ""
    return f"held by {who(claim)} since {past(claim.claimed, now)}, {until(claim, now)}{number}.{_note(claim)}"


def until(claim: Claim, now: Moment) -> str:
    """Return until when *claim* is held."""
    left = expiry.remaining(claim.expires, now)
    if left <= timedelta(0) and expiry.expires_in(claim, now) is None:
        return f"until the store ends it ({wall_time(claim.expires.wall, now)} by the clock of its holder's machine)"
    return f"until {wall_time(expiry.wall_expiry(claim.expires, now), now)} ({span(left)} from now)"


def ended(marker: Claim, now: Moment) -> str:
    """Return how the work ended, by whom and when."""
    assert marker.ended is not None
    when = f"at {past(marker.ended.at, now)}, generation {marker.generation}"
    return f"was {_ENDINGS[marker.ended.outcome]} by {who(marker)} {when}.{_note(marker)}"


def taken_over(previous: TakenOver, now: Moment) -> str:
    """Return what a new claim replaced, and why it could be replaced."""
    found = previous.found
    if isinstance(found, Unreadable):
        return f"Taken over: an unreadable claim older than any TTL ({unreadable(found)})."
    if found.ended is not None:
        return f"Before that, it {ended(found, now)}"
    why = "whose process is dead" if previous.state is ClaimState.ORPHANED else "whose claim had expired"
    return f"Taken over from {who(found)}, {why}.{_note(found)}"


def near(claims: tuple[Claim, ...]) -> str:
    """Return which *claims* are in force on keys that look like one that was granted."""
    return (
        "A key that looks alike is held: "
        + "; ".join(f"{quoted(each.scoped.key)} by {who(each)}" for each in claims)
        + "."
    )


def unreadable(found: Unreadable) -> str:
    """Return what cannot be read, why, and what to do where that is known."""
    remedy = f". {shown(found.remedy).rstrip('.')}" if found.remedy else ""
    return f"{shown(found.where)}: {shown(found.problem)}{remedy}"


def free_at(found: Unreadable) -> str:
    """Return when something unreadable is past any TTL."""
    try:
        return codec.timestamp(found.changed + validation.MAX_TTL)
    except OverflowError:
        return "somebody removes it"


def past(moment: Moment, now: Moment) -> str:
    """Return when *moment* was; for people also how long ago."""
    age = f" ({span(max(timedelta(0), -expiry.remaining(moment, now)))} ago)" if _local_time else ""
    return f"{wall_time(moment.wall, now)}{age}"


def wall_time(moment: datetime, now: Moment) -> str:
    """Return *moment* to the second: in UTC, or for people in local time, without the date if it is today's."""
    if _local_time:
        local = moment.astimezone()
        return f"{local:%H:%M:%S}" if local.date() == now.wall.astimezone().date() else f"{local:%Y-%m-%d %H:%M:%S}"
    return codec.timestamp(moment)[: -len(".000Z")] + "Z"


def span(time: timedelta) -> str:
    """Return how long *time* is, as people say it."""
    seconds = round(time.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _note(claim: Claim) -> str:
    return f" Its note, quoted: {quoted(claim.note)}." if claim.note else ""
