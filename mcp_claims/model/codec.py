"""The JSON form of a record.

The first four fields are those of the agent-awareness project (`holder`, `pid`, `claimedAt`, `expiresAt`), so that its
sessions can read ours.  A field that this version does not know was written by a newer one and is ignored; a field that
is missing, of the wrong type or out of range makes the whole record unreadable, which the layers above treat as *held*,
never as free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from mcp_claims.model.records import (
    MAX_GENERATION,
    Claim,
    Ended,
    Holder,
    Moment,
    OriginalHolder,
    Outcome,
    Proof,
    ScopedKey,
)

if TYPE_CHECKING:
    from typing import Any

_MAX_BRACKETS = 16
# Compiled only if they are needed, as that takes a hundredth of a check's time.
_STRING = rb'(?s)"(?:[^"\\]|\\.)*"'
# 317 years after boot; a sum of such times and today is still in the calendar.
_MAX_TICKS = 1e10
# How JavaScript spells a year that Python's calendar does not have.
_FAR_YEAR = r"\+\d{6}-"
_FAR = "9999-12-31T00:00:00Z"
# No record of ours is without these, and none of the original has them.
_OURS_ALONE = frozenset({"key", "namespace", "generation"})


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",\n  ", ": "))
_spell = _ENCODER.encode


class RecordError(ValueError):
    """The bytes are not a claim; the message says which rule they break."""


def to_json(claim: Claim, beside: Mapping[str, object] | None = None) -> bytes:
    """Write *claim* as UTF-8 JSON, the fields of the original first, those that only the store minds (*beside*) last."""
    # Spelt here, not by the encoder, is only what differs from claim to claim of one holder: that takes half as long.
    claimed, expires = claim.claimed, claim.expires
    original, ours = _spelt_holder(claim.holder, expires.epoch)
    more = "" if claim.ended is None else f",\n  {_fields(_of_end(claim.ended))}"
    if beside is not None:
        more += f",\n  {_fields(beside)}"
    return (
        f"{{\n  {original}"
        f',\n  "claimedAt": "{timestamp(claimed.wall)}"'
        f',\n  "expiresAt": "{timestamp(expires.wall)}"'
        f",\n  {_spelt_key(claim.scoped)}"
        f',\n  "generation": {claim.generation}'
        f',\n  "note": {"null" if claim.note is None else _spell(claim.note)}'
        f",\n  {ours}"
        f',\n  "claimedTicks": {claimed.ticks}'
        f',\n  "expiresTicks": {expires.ticks}'
        f"{more}\n}}\n"
    ).encode()


@lru_cache(maxsize=256)
def _spelt_key(scoped: ScopedKey) -> str:
    return _fields({"key": scoped.key, "namespace": scoped.namespace})


@lru_cache(maxsize=256)
def _spelt_holder(holder: Holder, epoch: str | None) -> tuple[str, str]:
    """Return the fields of *holder* that the original has, and ours, with the *epoch* of its clock."""
    proof = holder.proof
    ours = {
        "client": holder.client,
        "boot": proof.boot,
        "pidNamespace": proof.pid_namespace,
        "timeNamespace": proof.time_namespace,
        "processStart": proof.start,
        "clockEpoch": epoch,
    }
    return _fields({"holder": holder.name, "pid": holder.pid}), _fields(ours)


def _of_end(ended: Ended) -> dict[str, object]:
    return {"outcome": ended.outcome.value, "endedAt": timestamp(ended.at.wall), "endedTicks": ended.at.ticks}


def _fields(record: Mapping[str, object]) -> str:
    """Write what is between the braces of *record*, a field a line, for people."""
    # Not with the encoder's own indentation, which is Python code, ten times as slow.
    return _ENCODER.encode(record)[1:-1]


def from_json(data: bytes, stored: float | None = None, *, number: int | None = None) -> Claim:
    """Read a claim; *stored* is when its file was last changed, if that is known.

    *number* is its generation if it says 0, for a store that knows the number of a grant only when it is written.
    Raises `RecordError` for anything that is not exactly one: half a file, other JSON, a missing field, a wrong
    type, a time without zone, a negative or fractional number where a count belongs.
    """
    record = _load(data)
    epoch = _text(record, "clockEpoch", optional=True)
    return Claim(
        scoped=ScopedKey(_required(record, "namespace"), _required(record, "key")),
        holder=_holder(record),
        claimed=Moment(_time(record, "claimedAt"), _seconds(record, "claimedTicks"), epoch),
        expires=Moment(_time(record, "expiresAt"), _seconds(record, "expiresTicks"), epoch),
        note=_text(record, "note", optional=True),
        generation=_count(record, "generation", lowest=1 if number is None else 0) or number or 0,
        ended=None if record.get("outcome") is None else _ended(record, epoch),
        stored=stored,
    )


def _holder(record: dict[str, Any]) -> Holder:
    fields = tuple(map(record.get, _OF_HOLDER))
    try:
        return _known_holder(*fields)
    except TypeError:
        # A list or an object where neither belongs cannot be looked up; the check says which field it is.
        return _checked_holder(*fields)


def _checked_holder(*fields: object) -> Holder:
    record = dict(zip(_OF_HOLDER, fields, strict=True))
    return Holder(
        name=_required(record, "holder"),
        pid=_count(record, "pid", lowest=1),
        proof=Proof(
            boot=_text(record, "boot", optional=True),
            pid_namespace=_text(record, "pidNamespace", optional=True),
            time_namespace=_text(record, "timeNamespace", optional=True),
            start=None if record.get("processStart") is None else _count(record, "processStart"),
        ),
        client=_text(record, "client", optional=True),
    )


_OF_HOLDER = ("holder", "pid", "boot", "pidNamespace", "timeNamespace", "processStart", "client")
# Most records belong to few sessions.  By type as well: `True` and 1.0 are no PIDs, although they equal 1.
_known_holder = lru_cache(maxsize=256, typed=True)(_checked_holder)


def _ended(record: dict[str, Any], epoch: str | None) -> Ended:
    try:
        outcome = Outcome(record["outcome"])
    except ValueError as error:
        raise RecordError("outcome is none that this version knows") from error
    return Ended(outcome, Moment(_time(record, "endedAt"), _seconds(record, "endedTicks"), epoch))


def is_original(data: bytes) -> bool:
    """Tell whether *data* is of the form that the original writes: an object without any field that only we have."""
    try:
        return not _OURS_ALONE & _load(data).keys()
    except RecordError:
        return False


def original_from_json(data: bytes, scoped: ScopedKey) -> Claim:
    """Read a claim that the original wrote for *scoped*; its records do not say for which key they are.

    Raises `RecordError` like `from_json`.
    """
    record = _load(data)
    # It takes any TTL.  Were such a claim unreadable, it would be nobody's after a day, while its holder lives.
    if re.match(_FAR_YEAR, _required(record, "expiresAt")):
        record["expiresAt"] = _FAR
    return Claim(
        scoped,
        OriginalHolder(_required(record, "holder"), _count(record, "pid", lowest=1)),
        claimed=Moment(_time(record, "claimedAt")),
        expires=Moment(_time(record, "expiresAt")),
    )


def timestamp(moment: datetime) -> str:
    """Write *moment* in UTC as ISO 8601 with milliseconds, as JavaScript's `toISOString` does."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    fields = (utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond // 1_000)
    # `isoformat` takes half as long again, a format string twice as long, and a record has two of them.
    return "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ" % fields


def whole_milliseconds(moment: datetime) -> datetime:
    """Cut *moment* to what the record can hold, so that a claim reads back equal to what was written."""
    return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)


def _load(data: bytes) -> dict[str, Any]:
    # How deep the parser gets depends on how deep it is called, so one call could read what the next one cannot.
    if data.count(b"[") + data.count(b"{") > _MAX_BRACKETS:
        outside = re.sub(_STRING, b"", data)
        if outside.count(b"[") + outside.count(b"{") > _MAX_BRACKETS:
            raise RecordError("not JSON that a claim can be (nested too deeply)")
    try:
        record = _decoded(data)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise RecordError("not a JSON object")
    return record


def _decoded(data: bytes) -> object:
    # As nearly every record begins and ends, in no encoding but UTF-8; looking for others takes as long as half of the rest.
    if data[:2] == b"{\n" and data[-2:] == b"}\n":
        text = data.decode("utf-8", "surrogatepass")
        record, end = _DECODER.raw_decode(text)
        if end == len(text) - 1:
            return record
    return _DECODER.decode(data.decode(json.detect_encoding(data), "surrogatepass"))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _text(record: dict[str, Any], name: str, *, optional: bool = False) -> str | None:
    value = record.get(name)
    if optional and value is None:
        return None
    if not isinstance(value, str):
        raise RecordError(f"{name} is not text")
    if not value.isascii():
        try:
            # JSON can spell half a surrogate pair, which no file name and no message can carry.
            value.encode()
        except UnicodeEncodeError as error:
            raise RecordError(f"{name} is not valid Unicode") from error
    return value


def _required(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    # What nearly every text is; the rest is looked at in turn.
    if isinstance(value, str) and value and value.isascii():
        return value
    value = _text(record, name)
    if not value:
        raise RecordError(f"{name} is empty")
    return value


def _count(record: dict[str, Any], name: str, *, lowest: int = 0) -> int:
    value = record.get(name)
    # `True` is an `int` to Python, but no writer of ours meant 1 by it.
    if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= MAX_GENERATION:
        return value
    raise RecordError(f"{name} is not a whole number from {lowest} up")


def _seconds(record: dict[str, Any], name: str) -> float:
    value = record.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_TICKS:
        return float(value)
    raise RecordError(f"{name} is not a number of seconds that a clock can show")


def _time(record: dict[str, Any], name: str) -> datetime:
    text = _required(record, name)
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is UTC:
            return moment
        if moment.tzinfo is None:
            raise RecordError(f"{name} has no time zone")
        # The first and the last hours of the calendar may have no UTC.
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise RecordError(f"{name} is not a time ({error})") from error
