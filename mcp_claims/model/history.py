"""The history of claims: what one line of it says, and its JSON form.

A line is a JSON object: the fields of an `Event` under their names, without those that are `None` or empty.  A reader passes
over fields and kinds that it does not know: a newer version has written them.
"""

import json
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from mcp_claims.model.codec import timestamp
from mcp_claims.model.records import MAX_GENERATION, Claim, ScopedKey


class Kind(StrEnum):
    """What happened; the event says to which grant, by its key and generation."""

    #: `holder` got the key.
    GRANTED = "granted"
    #: It is kept for `holder`, who has waited for it; `granted` under the same generation follows if that takes it.
    RESERVED = "reserved"
    #: It goes on: for longer, or in another mode.  At most one line a minute.
    RENEWED = "renewed"
    #: It has another holder name or process of the same session from now on, under the same generation; `by` is the former.
    TAKEN_OVER = "taken_over"
    #: `holder` released it, with its `outcome` and `note` if it stated them.
    RELEASED = "released"
    #: Its time was up, and somebody, `by` if known, found that.
    EXPIRED = "expired"
    #: Its process was dead, and somebody found that; `proof` says what proved it.
    ORPHANED = "orphaned"
    #: `by` took it away by force; `note` is the reason.
    REVOKED = "revoked"
    #: `holder` learned that it no longer has it, and had not released it; `by` is who has the key now.
    LOST = "lost"
    #: `holder` was refused the key, `times` times since the last line: `by` has it under `generation`, or has done the
    #: work (`outcome`).
    REFUSED = "refused"
    #: What was left of ended work, or of a damaged record, was removed.
    FORGOTTEN = "forgotten"
    #: The end that was noted before this did not happen: the change failed, and the claim is held on.
    KEPT = "kept"
    #: `times` lines before this one could not be written.
    GAP = "gap"

    @property
    def begins(self) -> bool:
        """Whether from now on `holder` has the key, or a turn at it."""
        return self in (Kind.GRANTED, Kind.RESERVED)

    @property
    def ends(self) -> bool:
        """Whether `holder` no longer has the key after it."""
        return self in _ENDS


_ENDS = frozenset({Kind.RELEASED, Kind.EXPIRED, Kind.ORPHANED, Kind.REVOKED, Kind.LOST})


class Event(NamedTuple):
    """One line of the history.

    `key` is the key as resolved, without the place of a member.  `mode`, `slot` and `slots` say in which way it is held;
    with `turn` it is only kept for `holder`, who has waited.  `group` has the keys that were granted together.

    `holder` and the fields up to `start` describe the session that has or had the claim, or was refused; `pid` and `start`
    identify its process.  `expires` is when the claim ends unless it is renewed.

    `found` is what a grant replaced (a word of `ClaimState`; `free` is left out), and `found_generation` its generation.
    With `redo` the grant was asked for even if the work is done.  `revision` is that of the change on etcd; it orders the
    lines of several machines.
    """

    at: datetime
    kind: Kind
    namespace: str
    key: str
    generation: int = 0
    mode: str = "alone"
    slot: int | None = None
    slots: int | None = None
    group: tuple[ScopedKey, ...] = ()
    holder: str = ""
    client: str | None = None
    label: str | None = None
    directory: str | None = None
    host_session: str | None = None
    maker: str | None = None
    pid: int | None = None
    start: int | None = None
    expires: datetime | None = None
    duration_seconds: float | None = None
    found: str | None = None
    found_generation: int | None = None
    outcome: str | None = None
    note: str | None = None
    proof: str | None = None
    by: str | None = None
    times: int | None = None
    revision: int | None = None
    redo: bool = False
    turn: bool = False

    @property
    def scoped(self) -> ScopedKey:
        """The key in its namespace."""
        return ScopedKey(self.namespace, self.key)


_TEXTS = ("holder", "mode")
_WHO = ("client", "label", "directory", "host_session", "maker", "pid", "start")
_OPTIONAL_TEXTS = (*_WHO[:5], "found", "outcome", "note", "proof", "by")
_OPTIONAL_NUMBERS = ("slot", "slots", "pid", "start", "found_generation", "times", "revision")
_LAST = ("found", "found_generation", "outcome", "note", "proof", "by", "times", "revision")
_NOTHING_MORE = (None,) * len(_LAST)
_BEGINNING = b'{"at":"'
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class LineError(ValueError):
    """The bytes are not a line of the history: torn, damaged, or of a newer version."""


def to_line(event: Event) -> bytes:
    """Return *event* as one line, its end included."""
    # What is the same in many lines is encoded once, and the rest only where it is there: this happens under a lock.
    rest = "" if event.mode == "alone" else more_facts(mode=event.mode, slot=event.slot, slots=event.slots)
    if event.group:
        rest += more_facts(group=event.group)
    if event.holder:
        rest += _by_whom(*event[9:17])
    if event.expires is not None:
        rest += f',"expires":"{timestamp(event.expires)}"'
    if event.duration_seconds is not None:
        rest += f',"duration_seconds":{event.duration_seconds!r}'
    if event[19:27] != _NOTHING_MORE:
        rest += more_facts(**dict(zip(_LAST, event[19:27], strict=True)))
    if event.redo:
        rest += ',"redo":true'
    if event.turn:
        rest += ',"turn":true'
    start = f'{{"at":"{timestamp(event.at)}","kind":"{event.kind._value_}"{_about(event.namespace, event.key)}'
    # A lone surrogate becomes an escape that is JSON, too.
    return f'{start},"generation":{event.generation}{rest}}}\n'.encode(errors="backslashreplace")


def plain_line(kind: Kind, at: datetime, claim: Claim, rest: str) -> bytes:
    """Return what `to_line` does for an event of *claim*, held alone and in no group, with the JSON *rest*.

    In a third of the time: most events are like that.
    """
    holder = claim.holder
    whom = _by_whom(
        holder.name,
        holder.client,
        holder.label,
        holder.directory,
        holder.host_session,
        claim.maker,
        holder.pid,
        holder.proof.start,
    )
    about = f'{{"at":"{timestamp(at)}","kind":"{kind._value_}"{_about(*claim.scoped)},"generation":{claim.generation}'
    return f"{about}{whom}{rest}}}\n".encode(errors="backslashreplace")


@lru_cache(256)
def _about(namespace: str, key: str) -> str:
    return more_facts(namespace=namespace, key=key)


@lru_cache(256)
def _by_whom(holder: str | int | None, *who: str | int | None) -> str:
    return more_facts(holder=holder, **dict(zip(_WHO, who, strict=True)))


def more_facts(**facts: object) -> str:
    """Return what of *facts* is known, as it goes on in an object."""
    known = {name: fact for name, fact in facts.items() if fact is not None}
    return f",{_ENCODER.encode(known)[1:-1]}" if known else ""


def facts_of(event: Event) -> dict[str, object]:
    """Return *event* as the JSON object that stands for it."""
    facts: dict[str, object] = json.loads(to_line(event))
    return facts


def beginning_of_last(line: bytes) -> int:
    """Return where in *line* the last event begins: behind the rest of one that was torn, 0 if there is none.

    No text in an object has the bytes with which each line begins, as its quotes are escaped.
    """
    return max(0, line.rfind(_BEGINNING))


def from_line(line: bytes) -> Event:
    """Return the event that *line* says; raises `LineError` for anything that is not exactly one.

    A torn line is not: no proper beginning of a JSON object is one.
    """
    try:
        facts = json.loads(line)
        others: dict[str, Any] = {name: _text(facts[name]) for name in _TEXTS if name in facts}
        others |= {name: _text(facts[name]) for name in _OPTIONAL_TEXTS if facts.get(name) is not None}
        others |= {name: _number(facts[name]) for name in _OPTIONAL_NUMBERS if facts.get(name) is not None}
        return Event(
            at=_time(facts["at"]),
            kind=Kind(facts["kind"]),
            namespace=_text(facts["namespace"]),
            key=_text(facts["key"]),
            generation=_number(facts.get("generation", 0)),
            group=tuple(ScopedKey(_text(namespace), _text(key)) for namespace, key in facts.get("group", ())),
            expires=None if facts.get("expires") is None else _time(facts["expires"]),
            duration_seconds=_seconds(facts.get("duration_seconds")),
            redo=facts.get("redo") is True,
            turn=facts.get("turn") is True,
            **others,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise LineError(str(error)) from error


def _time(value: Any) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError("a time has no zone")
    return moment.astimezone(UTC)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_GENERATION:
        raise ValueError(f"{value!r} is not a whole number from 0 up")
    return value


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"{value!r} is not a number of seconds")
    return float(value)
