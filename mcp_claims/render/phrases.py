"""Parts of sentences: how a claim, its holder, a time and other people's text are put into words.

Text that another session wrote (notes, client names, keys) is put on one line, cut to a length and quoted.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from functools import lru_cache

from mcp_claims.model import codec, expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Moment, OriginalHolder, Outcome, ScopedKey, Unreadable
from mcp_claims.session.results import TakenOver

_PLAIN_NAME = r"[\w.:-]{1,300}"
# `json.dumps` would make one for each text.
_spell = json.JSONEncoder(ensure_ascii=False).encode

# How many of each are remembered.  They follow from the arguments alone, and come again: an answer tells each time twice, in
# words and as a fact, and whoever asks about a key again hears of the same key, holder and times.
_REMEMBERED = 256

_NOTHING = timedelta(0)


@lru_cache(_REMEMBERED)
def shown(text: str | None) -> str | None:
    """Return text that somebody else wrote as far as it may be shown: one line, of bounded length."""
    if text is None:
        return None
    line = validation.one_line(text)
    return line if len(line) <= validation.MAX_NOTE_CHARACTERS else line[: validation.MAX_NOTE_CHARACTERS] + "…"


def quoted(text: str) -> str:
    """Return text that somebody else wrote in quotes."""
    return _spell(shown(text))


@lru_cache(_REMEMBERED)
def named(scoped: ScopedKey) -> str:
    """Say which key it is about."""
    return f"{quoted(scoped.key)} (namespace {quoted(scoped.namespace)})"


def client(claim: Claim) -> str | None:
    """Return the program that the holder says to be."""
    return "agent-awareness" if isinstance(claim.holder, OriginalHolder) else shown(claim.holder.client)


def who(claim: Claim) -> str:
    """Say who holds, or held, *claim*."""
    return _who(claim.holder.name, client(claim))


@lru_cache(_REMEMBERED)
def _who(name: str, program: str | None) -> str:
    # Our names are plain; another one is whatever somebody wrote into the file.
    shown_name = name if re.fullmatch(_PLAIN_NAME, name) else quoted(name)
    return f"{shown_name} ({quoted(program)})" if program else shown_name


def held(claim: Claim, now: Moment) -> str:
    """Say that *claim* is held, by whom, since when and until when."""
    note = f" Its note, quoted: {quoted(claim.note)}." if claim.note else ""
    number = f", generation {claim.generation}" if claim.generation else ""
    since = f"since {wall_time(claim.claimed.wall)}, {until(claim, now)}{number}"
    return f"held by {who(claim)} {since}.{note}"


def until(claim: Claim, now: Moment) -> str:
    """Say until when *claim* is held."""
    left = expiry.remaining(claim.expires, now)
    if left <= _NOTHING and expiry.expires_in(claim, now) is None:
        return f"until the store ends it ({wall_time(claim.expires.wall)} by the clock of its holder's machine)"
    return f"until {wall_time(expiry.wall_expiry(claim.expires, now))} ({span(left)} from now)"


def ended(marker: Claim) -> str:
    """Say what became of the work."""
    assert marker.ended is not None
    said = {
        Outcome.DONE: "was done",
        Outcome.FAILED: "was tried and failed",
        Outcome.ABANDONED: "was given up",
        Outcome.REVOKED: "was taken away",
    }
    note = f" Its note, quoted: {quoted(marker.note)}." if marker.note else ""
    when = f"at {wall_time(marker.ended.at.wall)}, generation {marker.generation}"
    return f"{said[marker.ended.outcome]} by {who(marker)} {when}.{note}"


def taken_over(what: TakenOver) -> str:
    """Say from whom a key was taken over, and why that was right."""
    if isinstance(what.what, Unreadable):
        return f"a claim that could not be read and is too old to live ({unreadable(what.what)})"
    why = {
        ClaimState.EXPIRED: "whose claim had expired",
        ClaimState.ORPHANED: "whose process is dead",
        ClaimState.DONE: "who had done it",
    }.get(what.why, "who had given it back")
    return f"{who(what.what)}, {why}"


def unreadable(found: Unreadable) -> str:
    """Say what cannot be read, and why."""
    return f"{shown(found.where)}: {shown(found.problem)}"


def free_at(found: Unreadable) -> str:
    """Return when something unreadable is nobody's for certain."""
    try:
        return timestamp(found.changed + validation.MAX_TTL)
    except OverflowError:
        return "somebody removes it"


@lru_cache(_REMEMBERED)
def timestamp(moment: datetime) -> str:
    """Return *moment* as records have it, to the millisecond."""
    return codec.timestamp(moment)


def wall_time(moment: datetime) -> str:
    """Return *moment* as people and programs read it, to the second."""
    return timestamp(moment)[: -len(".000Z")] + "Z"


def span(time: timedelta) -> str:
    """Say how long *time* is, as people say it."""
    seconds = round(time.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
