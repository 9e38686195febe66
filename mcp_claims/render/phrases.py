"""Parts of answers: a claim as facts and as parts of sentences, times, and text that others wrote.

Text that another session wrote (notes, client names, keys) is put on one line, cut to a length and quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, TypedDict

from mcp_claims.model import codec, expiry, validation
from mcp_claims.model.names import user_and_host
from mcp_claims.model.records import ALONE, Claim, Mode, Moment, OriginalHolder, Outcome, ScopedKey, Unreadable, Use
from mcp_claims.model.text import one_line

SHOWN_KEYS = 8
"""Of several keys that are named: a call may have 256."""

_local_time = False
_QUOTING = json.JSONEncoder(ensure_ascii=False)  # `json.dumps` would make one for each text.
_SHOWN_STEPS = 4
_PLAIN_NAME = re.compile(r"[\w.:@-]{1,300}")
_ENDINGS = {
    Outcome.DONE: "was done by {who} at {when}",
    Outcome.FAILED: "was tried, and failed by {who} at {when}",
    Outcome.ABANDONED: "was abandoned by {who} at {when}",
    Outcome.REVOKED: "was revoked by {who} at {when}",
    Outcome.ORPHANED: "was left by {who}, whose process is dead (noticed at {when})",
    Outcome.EXPIRED: "was left by {who}, whose claim expired at {when}",
}

# Optional keys stand in classes of their own with `total=False`: with `NotRequired` Python 3.11 does not know at run time
# which keys are required.
Ending = Literal["done", "failed", "abandoned", "revoked", "orphaned", "expired"]


class ClaimFacts(TypedDict, total=False):
    """The facts about the claim in force, or about a marker; those that do not apply are left out."""

    holder: str
    client: str
    generation: int
    claimed_at: str
    expires_at: str
    expires_in_seconds: float
    note: str
    outcome: Ending
    ended_at: str
    shared: bool
    slot: int
    slots: int


class ClaimDescription:
    """A claim or marker as it stands *now*: `facts` for structured content; its methods return parts of sentences."""

    def __init__(self, claim: Claim, now: Moment) -> None:
        self._claim, self._now = claim, now
        self._end = expiry.end_of(claim, now)
        self.facts: ClaimFacts = {
            "holder": shown(claim.holder.name),
            "expires_at": codec.timestamp(self._end.at),
            "expires_in_seconds": round(self._end.left.total_seconds(), 1),
        }
        if (program := client(claim)) is not None:
            self.facts["client"] = program
        self._is_reserved = claim.mode is Mode.RESERVED and claim.ended is None
        if not self._is_reserved:
            self.facts["claimed_at"] = codec.timestamp(claim.claimed.wall)
            if claim.generation:  # A claim of the original has none.
                self.facts["generation"] = claim.generation
        if claim.use.slots is not None and claim.slot is not None:
            self.facts["slot"], self.facts["slots"] = claim.slot, claim.use.slots
        elif claim.use.mode is Mode.SHARED and claim.ended is None:
            self.facts["shared"] = True
        if claim.note is not None:
            self.facts["note"] = shown(claim.note)
        if claim.ended is not None:
            self.facts["outcome"] = claim.ended.outcome.value
            self.facts["ended_at"] = codec.timestamp(claim.ended.at.wall)

    def who(self) -> str:
        """Return the holder, and the program that it claims to be."""
        return _who(self.facts["holder"], self.facts.get("client"))

    def since(self) -> str:
        """Return the time since which it is held; for people also for how long."""
        return self._past(self.facts["claimed_at"], self._claim.claimed)

    def until(self) -> str:
        """Return the time until which it is held."""
        when = _wall_time(self.facts["expires_at"], self._now)
        if self._end.overdue:
            return f"until the store ends it ({when} by the clock of its holder's machine)"
        return f"until {when} ({span(self._end.left)} from now)"

    def held(self) -> str:
        """Return its holder, times, generation and note; of a reservation, for whom it is kept."""
        if self._is_reserved:
            return f"free, but kept for {self.who()}, who has waited for it, {self.until()}."
        number = f", generation {self._claim.generation}" if self._claim.generation else ""
        held = "shared" if self.facts.get("shared") else "held"
        return f"{held} by {self.who()}{self._slot()} since {self.since()}, {self.until()}{number}.{self.note()}"

    def yours(self, grants: Sequence[tuple[Claim, object]] = ()) -> str:
        """Return, for its holder, its end, its generation, of a group also those of *grants*, and the holder's name."""
        number = str(self._claim.generation)
        if self._claim.group:
            claims = {claim.scoped: claim for claim in (self._claim, *(grant for grant, _ in grants))}
            shown = list(claims.values())[:SHOWN_KEYS]
            number = ", ".join(f"{claim.generation} of {quoted(claim.scoped.base.key)}" for claim in shown)
        way = "shared" if self.facts.get("shared") else self._slot().strip()
        return f"{way + ', ' if way else ''}{self.until()}, generation {number}, as {self.who()}"

    def _slot(self) -> str:
        """Return which slot it has, empty if the key has none."""
        return f" in slot {self.facts['slot']} (of 0 to {self.facts['slots'] - 1})" if "slot" in self.facts else ""

    def ended(self) -> str:
        """Return the outcome, whose it is, its time and its note."""
        assert self._claim.ended is not None
        when = self._past(self.facts["ended_at"], self._claim.ended.at)
        ending = _ENDINGS[self._claim.ended.outcome]
        if (leased := self._claim.leased) and leased.is_trace and self._claim.ended.outcome is Outcome.ORPHANED:
            # Silence is no proof of death.
            ending = "was left by {who}, whose process is dead or cut off (noticed at {when})"
        ending = ending.format(who=self.who(), when=when)
        number = f", generation {self._claim.generation}" if self._claim.generation else ""
        return f"{ending}{number}.{self.note()}"

    def note(self) -> str:
        """Return the sentence that quotes its note, empty if it has none."""
        return f" Its note, quoted: {_in_quotes(self.facts['note'])}." if self.facts.get("note") else ""

    def _past(self, stamp: str, moment: Moment) -> str:
        """Return *stamp*, the time of *moment* in the facts, to the second; for people also how long ago that was."""
        age = f" ({span(max(timedelta(0), -expiry.remaining(moment, self._now)))} ago)" if _local_time else ""
        return f"{_wall_time(stamp, self._now)}{age}"


def claim_facts(found: Claim | Unreadable, now: Moment) -> ClaimFacts:
    """Return the facts about *found*, the content of a key."""
    if not isinstance(found, Unreadable):
        return ClaimDescription(found, now).facts
    return {} if (end := free_at(found)) is None else {"expires_at": end}


def use_local_time() -> None:
    """Write all times from now on as people at this machine read them, with their age; models get UTC."""
    global _local_time
    _local_time = True


def shown(text: str) -> str:
    """Return *text*, which somebody else wrote, on one line and cut to 500 characters."""
    line = one_line(text)
    return line if len(line) <= validation.MAX_NOTE_CHARACTERS else line[: validation.MAX_NOTE_CHARACTERS] + "…"


def quoted(text: str) -> str:
    """Return text that somebody else wrote, in quotes."""
    return _in_quotes(shown(text))


def named(scoped: ScopedKey) -> str:
    """Return the key and its namespace."""
    return f"{quoted(scoped.base.key)} (namespace {quoted(scoped.namespace)})"


def listed_keys(keys: tuple[ScopedKey, ...]) -> str:
    """Return the keys, at most some of them."""
    names = [quoted(each.base.key) for each in keys[:SHOWN_KEYS]]
    return ", ".join(names) + (f" and {len(keys) - len(names)} more" if len(keys) > len(names) else "")


def named_all(claim: Claim) -> str | None:
    """Return all keys of the group of *claim*; `None` if it has none."""
    return f"all of {listed_keys(claim.group)}" if claim.group else None


def no_file(keys: tuple[ScopedKey, ...]) -> str:
    """Return the hint that *keys*, which may be meant for files, claim none."""
    are = "is a text like any other and claims" if len(keys) == 1 else "are texts like any other and claim"
    return f"{listed_keys(keys)} {are} no file: for files, claim file:PATH."


def in_the_way(claims: tuple[Claim | Unreadable, ...]) -> str:
    """Return the sentence that names all *claims* that are in the way of a call for several keys; empty without any."""
    if not claims:
        return ""
    if len(claims) == 1:
        (only,) = claims
        key = "one of the keys" if isinstance(only, Unreadable) else quoted(only.scoped.base.key)
        return f"Nothing was claimed, since {key} is not free. "
    return f"Nothing was claimed, since these are held: {held_by(claims)}. "


def other_way(found: Claim | Unreadable, use: Use, *, option: bool = False) -> str:
    """Return how to ask for a key that others hold in another way than *use*, empty if that is theirs; as an *option* at a shell."""
    if not isinstance(found, Claim) or found.use in (use, ALONE):
        return ""
    if found.use.slots is None:
        return f"To share it, too: {'--shared' if option else 'shared=true'}. "
    argument = f"--slots {found.use.slots}" if option else f"slots={found.use.slots}"
    return f"It has {found.use.slots} slots, one for each session. To get one of these: {argument}. "


def own_way(found: Claim | Unreadable, *, release: str = "release it") -> str:
    """Return why a session that has *found* itself may not wait for the key in another way, and what to do."""
    if isinstance(found, Claim) and found.use.mode is Mode.SHARED:
        return (
            "You share it with others yourself, and two who both wait for the other would wait for ever. To have it alone, "
            f"{release}, then wait for it."
        )
    return f"You hold it yourself in another way: {release} first."


def held_by(claims: tuple[Claim | Unreadable, ...]) -> str:
    """Return the key and the holder of each of *claims*, at most some of them."""
    held = [
        f"one that cannot be read ({unreadable(each)})"
        if isinstance(each, Unreadable)
        else f"{quoted(each.scoped.base.key)} by {_who(shown(each.holder.name), client(each))}"
        for each in claims[:SHOWN_KEYS]
    ]
    return "; ".join(held) + (f"; and {len(claims) - len(held)} more" if len(claims) > len(held) else "")


def client(claim: Claim) -> str | None:
    """Return the program that the holder claims to be, what its session is called, and where it works."""
    holder = claim.holder
    if isinstance(holder, OriginalHolder):
        return "agent-awareness"
    if user_and_host(holder.name):
        return "a person"
    where = None if holder.directory is None else f"in {holder.directory}"
    return ", ".join(shown(part) for part in (holder.client, holder.label, where) if part) or None


def person(name: str) -> str | None:
    """Return which person holds a claim under the holder's *name*; `None` if no person does."""
    known = user_and_host(name)
    if known is None:
        return None
    user, host = (part if _PLAIN_NAME.fullmatch(part) else quoted(part) for part in known)
    return f"a person, {user}, on {host}"


def near(claims: tuple[Claim, ...]) -> str:
    """Return the sentence that names *claims* on keys that look like the one that was granted."""
    return f"A key that looks alike is held: {held_by(claims)}."


def cycle(claims: tuple[Claim, ...]) -> str:
    """Return the sentence that says why a wait would never end: the `cycle` of a `ClaimResult`."""
    *others, own = claims
    steps = [
        f", for which {_who(shown(each.holder.name), client(each))} waits, who holds {quoted(each.scoped.base.key)}"
        for each in reversed(others)
    ]
    if len(steps) > _SHOWN_STEPS:
        steps[_SHOWN_STEPS - 1 : -1] = [", and so on"]
    return f"Waiting would never end: you hold {quoted(own.scoped.base.key)}{''.join(steps)}."


def unreadable(found: Unreadable) -> str:
    """Return where *found* is, why it cannot be read, and the remedy if one is known."""
    remedy = f". {shown(found.remedy).rstrip('.')}" if found.remedy else ""
    return f"{shown(found.where)}: {shown(found.problem)}{remedy}"


def free_at(found: Unreadable) -> str | None:
    """Return the time at which *found* is older than any TTL; `None` if that lies beyond the calendar."""
    try:
        return codec.timestamp(found.changed + validation.MAX_TTL)
    except OverflowError:
        return None


def span(time: timedelta) -> str:
    """Return *time* in seconds, minutes or hours, rounded for people."""
    seconds = round(time.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _who(name: str, program: str | None) -> str:
    if (who := person(name)) is not None:
        return who
    # Our own names are plain; any other is whatever somebody wrote into the file.
    holder = name if _PLAIN_NAME.fullmatch(name) else _in_quotes(name)
    return f"{holder} ({_in_quotes(program)})" if program else holder


def _wall_time(stamp: str, now: Moment) -> str:
    """Return the time *stamp* to the second: in UTC, or for people in local time, without the date if it is today's."""
    if _local_time:
        local = datetime.fromisoformat(stamp).astimezone()
        return f"{local:%H:%M:%S}" if local.date() == now.wall.astimezone().date() else f"{local:%Y-%m-%d %H:%M:%S}"
    return stamp[: -len(".000Z")] + "Z"


def _in_quotes(line: str) -> str:
    return _QUOTING.encode(line)
