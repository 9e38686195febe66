"""The JSON form of a record.

The first four fields are those of the agent-awareness project (`holder`, `pid`, `claimedAt`, `expiresAt`), so that its
sessions can read our records.  A field that this version does not know was written by a newer one and is ignored.  A
field that is missing, of the wrong type or out of range makes the whole record unreadable, and a record that cannot be
read counts as *held*, never as free.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

from mcp_claims.model.records import (
    MAX_GENERATION,
    Claim,
    Ended,
    Holder,
    Mode,
    Moment,
    OriginalHolder,
    Outcome,
    Proof,
    ScopedKey,
    Ticket,
    Use,
)

_MAX_BRACKETS = 100
_STRING = re.compile(rb'(?s)"(?:[^"\\]|\\.)*"')
# 317 years after boot; a sum of such times and today is still in the calendar.
_MAX_TICKS = 1e10
# How JavaScript writes a year that Python's calendar does not have.
_FAR_YEAR = re.compile(r"\+\d{6}-")
_FAR = "9999-12-31T00:00:00Z"
# Every record of mcp-claims has these fields, and no record of the original has any of them.
_OWN_FIELDS = frozenset({"key", "namespace", "generation"})


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


# Made once: `json.dumps` and `json.loads` would make one for each record.
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


_Words = TypeVar("_Words", bound=Enum)


class RecordError(ValueError):
    """The bytes are not a claim; the message says which rule they break."""


def to_json(claim: Claim, extra: Mapping[str, object] | None = None) -> bytes:
    """Return *claim* as UTF-8 JSON, the fields of the original first; *extra* are fields for the store alone, last."""
    return _ENCODER.encode({**_record(claim), **(extra or {})}).encode() + b"\n"


def tickets_to_json(tickets: Iterable[Ticket]) -> bytes:
    """Return the list of *tickets* as UTF-8 JSON, one a line."""
    return b"".join(map(_ticket_line, tickets))


def tickets_from_json(data: bytes) -> tuple[Ticket, ...]:
    """Return the tickets in *data*, as `tickets_to_json` wrote them.

    Raises `RecordError` for anything else.
    """
    return tuple(map(_ticket, data.splitlines()))


# Each change of the list makes everybody read it again: of 50 tickets, 49 are as they were.
@lru_cache(1_024)
def _ticket_line(ticket: Ticket) -> bytes:
    record = {
        "number": ticket.number,
        "keys": [list(scoped) for scoped in ticket.keys],
        **_holder_record(ticket.holder),
        "takenAt": timestamp(ticket.taken.wall),
        "until": timestamp(ticket.until.wall),
        "clockEpoch": ticket.taken.epoch,
        "takenTicks": ticket.taken.ticks,
        "untilTicks": ticket.until.ticks,
        "lapsed": ticket.lapsed,
        "returned": ticket.returned,
        "any": ticket.any,
        "mode": ticket.use.mode.value,
        "slots": ticket.use.slots,
    }
    return _ENCODER.encode(record).encode() + b"\n"


@lru_cache(1_024)
def _ticket(line: bytes) -> Ticket:
    record = _load(line, brackets=None)
    epoch = _optional_text(record, "clockEpoch")
    return Ticket(
        _count(record, "number", lowest=1),
        _scoped_keys(record, "keys"),
        _holder(record),
        Moment(_time(record, "takenAt"), _seconds(record, "takenTicks"), epoch),
        Moment(_time(record, "until"), _seconds(record, "untilTicks"), epoch),
        record.get("lapsed") is True,
        record.get("returned") is True,
        record.get("any") is True,
        Use(
            Mode.ALONE if record.get("mode") is None else _word(record, "mode", Mode),
            None if record.get("slots") is None else _count(record, "slots", lowest=1),
        ),
    )


def _holder_record(holder: Holder) -> dict[str, object]:
    proof = holder.proof
    record: dict[str, object] = {
        "holder": holder.name,
        "pid": holder.pid,
        "client": holder.client,
        "label": holder.label,
        "directory": holder.directory,
        "boot": proof.boot,
        "pidNamespace": proof.pid_namespace,
        "timeNamespace": proof.time_namespace,
        "processStart": proof.start,
    }
    if holder.host_session is not None:
        record["hostSession"] = holder.host_session
    return record


def _record(claim: Claim) -> dict[str, object]:
    holder = _holder_record(claim.holder)
    record: dict[str, object] = {
        "holder": holder.pop("holder"),
        "pid": holder.pop("pid"),
        "claimedAt": timestamp(claim.claimed.wall),
        "expiresAt": timestamp(claim.expires.wall),
        "key": claim.scoped.base.key,
        "namespace": claim.scoped.namespace,
        "generation": claim.generation,
        "note": claim.note,
        **holder,
        "clockEpoch": claim.expires.epoch,
        "claimedTicks": claim.claimed.ticks,
        "expiresTicks": claim.expires.ticks,
    }
    if claim.ended is not None:
        record["outcome"] = claim.ended.outcome.value
        record["endedAt"] = timestamp(claim.ended.at.wall)
        record["endedTicks"] = claim.ended.at.ticks
    if claim.mode is not Mode.ALONE:
        record["mode"] = claim.mode.value
    if claim.replaced is not None:
        record["replaced"] = _record(claim.replaced)
    if claim.group:
        record["group"] = [list(scoped.base) for scoped in claim.group]
    if claim.redo:
        record["redo"] = True
    if claim.members:
        record["members"] = list(claim.members)
    optional = {"member": claim.scoped.member, "slot": claim.slot, "slots": claim.slots, "maker": claim.maker}
    return record | {name: value for name, value in optional.items() if value is not None}


def from_json(data: bytes, stored: float | None = None, *, number: int | None = None) -> Claim:
    """Return the claim in *data*; *stored* is when its file was last changed, if that is known.

    *number* replaces a generation of 0, for a store that learns the number of a grant only from the write.  Raises
    `RecordError` for anything that is not exactly one claim: half a file, other JSON, a missing field, a wrong type,
    a time without zone, a negative or fractional number where a count belongs.
    """
    return _claim(_load(data), stored, number)


def _claim(record: dict[str, Any], stored: float | None = None, number: int | None = None) -> Claim:
    epoch, member = _optional_text(record, "clockEpoch"), _optional_text(record, "member")
    scoped = ScopedKey(_text(record, "namespace"), _text(record, "key"))
    group = () if record.get("group") is None else _scoped_keys(record, "group")
    return Claim(
        scoped=scoped.place(member) if member else scoped,
        holder=_holder(record),
        claimed=Moment(_time(record, "claimedAt"), _seconds(record, "claimedTicks"), epoch),
        expires=Moment(_time(record, "expiresAt"), _seconds(record, "expiresTicks"), epoch),
        note=_optional_text(record, "note"),
        generation=_count(record, "generation", lowest=1 if number is None else 0) or number or 0,
        ended=None if record.get("outcome") is None else _ended(record, epoch),
        mode=Mode.ALONE if record.get("mode") is None else _word(record, "mode", Mode),
        slot=None if record.get("slot") is None else _count(record, "slot"),
        slots=None if record.get("slots") is None else _count(record, "slots", lowest=1),
        # A session has the same member in all keys of a group.
        group=tuple(key.place(member) for key in group) if member else group,
        maker=_optional_text(record, "maker"),
        replaced=_replaced(record),
        members=_members(record),
        redo=record.get("redo") is True,
        stored=stored,
    )


def is_original(data: bytes) -> bool:
    """Return whether *data* has the form that the original writes: an object without any field of this program."""
    try:
        return not _OWN_FIELDS & _load(data).keys()
    except RecordError:
        return False


def original_from_json(data: bytes, scoped: ScopedKey) -> Claim:
    """Return the claim that the original wrote for *scoped*; its records do not contain their key.

    Raises `RecordError` like `from_json`.
    """
    record = _load(data)
    # The original takes any TTL.  If such a claim were unreadable, it would count as expired after a day,
    # although its holder lives.
    if _FAR_YEAR.match(_text(record, "expiresAt")):
        record["expiresAt"] = _FAR
    return Claim(
        scoped,
        OriginalHolder(_text(record, "holder"), _count(record, "pid", lowest=1)),
        claimed=Moment(_time(record, "claimedAt")),
        expires=Moment(_time(record, "expiresAt")),
    )


# A record and the line of the history about it have the same times.
@lru_cache(64)
def timestamp(moment: datetime) -> str:
    """Return *moment* in UTC as ISO 8601 with milliseconds, as JavaScript's `toISOString` does."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def whole_milliseconds(moment: datetime) -> datetime:
    """Return *moment* in the precision of the record, so that a claim reads back equal to the one written."""
    return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)


def _load(data: bytes, brackets: int | None = _MAX_BRACKETS) -> dict[str, Any]:
    """Return the JSON object in *data*, which has at most so many *brackets* outside of texts."""
    # The parser's recursion limit depends on how deep the caller is: without this, one call could read what the next
    # one cannot.
    if brackets is not None and data.count(b"[") + data.count(b"{") > brackets:
        outside = _STRING.sub(b"", data)
        if outside.count(b"[") + outside.count(b"{") > brackets:
            raise RecordError("not JSON that a claim can be (nested too deeply)")
    try:
        record = _DECODER.decode(data.removeprefix(BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise RecordError("not a JSON object")
    return record


def _word(record: dict[str, Any], name: str, words: type[_Words]) -> _Words:
    try:
        return words(record[name])
    except ValueError as error:
        # Of a newer version.  The record is unreadable, and so held: what cannot be understood must not count as free.
        raise RecordError(f"{name} is none that this version knows") from error


def _holder(record: dict[str, Any]) -> Holder:
    return Holder(
        name=_text(record, "holder"),
        pid=_count(record, "pid", lowest=1),
        proof=Proof(
            boot=_optional_text(record, "boot"),
            pid_namespace=_optional_text(record, "pidNamespace"),
            time_namespace=_optional_text(record, "timeNamespace"),
            start=None if record.get("processStart") is None else _count(record, "processStart"),
        ),
        client=_optional_text(record, "client"),
        label=_optional_text(record, "label"),
        directory=_optional_text(record, "directory"),
        host_session=_optional_text(record, "hostSession"),
    )


def _scoped_keys(record: dict[str, Any], name: str) -> tuple[ScopedKey, ...]:
    keys = record.get(name)
    if not isinstance(keys, list) or not all(
        isinstance(each, list) and len(each) == 2 and all(isinstance(part, str) for part in each) for each in keys
    ):
        raise RecordError(f"{name} is not a list of namespaces and keys")
    return tuple(ScopedKey(*each) for each in keys)


def _members(record: dict[str, Any]) -> tuple[str, ...]:
    members = record.get("members")
    if members is None:
        return ()
    if not isinstance(members, list) or not members or not all(isinstance(each, str) and each for each in members):
        raise RecordError("members is not a list of texts")
    return tuple(members)


def _replaced(record: dict[str, Any]) -> Claim | None:
    replaced = record.get("replaced")
    if replaced is None:
        return None
    if not isinstance(replaced, dict):
        raise RecordError("replaced is not a JSON object")
    return _claim(replaced)


def _ended(record: dict[str, Any], epoch: str | None) -> Ended:
    outcome = _word(record, "outcome", Outcome)
    return Ended(outcome, Moment(_time(record, "endedAt"), _seconds(record, "endedTicks"), epoch))


def _optional_text(record: dict[str, Any], name: str) -> str | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise RecordError(f"{name} is not text")
    try:
        # JSON can hold half a surrogate pair, which no file name and no message can carry.
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"{name} is not valid Unicode") from error
    return value


def _text(record: dict[str, Any], name: str) -> str:
    value = _optional_text(record, name)
    if value is None:
        raise RecordError(f"{name} is not text")
    if not value:
        raise RecordError(f"{name} is empty")
    return value


def _count(record: dict[str, Any], name: str, *, lowest: int = 0) -> int:
    value = record.get(name)
    # `True` is an `int` to Python, but JSON's `true` is not a count.
    if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= MAX_GENERATION:
        return value
    raise RecordError(f"{name} is not a whole number from {lowest} up")


def _seconds(record: dict[str, Any], name: str) -> float:
    value = record.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_TICKS:
        return float(value)
    raise RecordError(f"{name} is not a number of seconds that a clock can show")


def _time(record: dict[str, Any], name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(_text(record, name))
        if moment.tzinfo is None:
            raise RecordError(f"{name} has no time zone")
        # The first and the last hours of the calendar may have no UTC.
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{name} is not a time ({error})") from error
