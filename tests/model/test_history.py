"""Lines of a history: what is written is read, and what is torn is not taken for anything else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mcp_claims.model.history import Event, Kind, LineError, beginning_of_last, facts_of, from_line, to_line
from mcp_claims.model.records import ScopedKey

AT = datetime(2026, 11, 28, 12, 30, 5, 123_000, tzinfo=UTC)
FULL = Event(
    AT,
    Kind.GRANTED,
    "ci",
    "build:red",
    7,
    mode="slot",
    slot=2,
    slots=3,
    group=(ScopedKey("ci", "build:red"), ScopedKey("ci", "test:red")),
    holder="rig:101:abc",
    client="agent 1.0",
    label="left pane",
    directory="~/work",
    host_session="session-1",
    maker="tool",
    pid=101,
    start=4_711,
    expires=AT,
    duration_seconds=1.5,
    found="orphaned",
    found_generation=5,
    outcome="failed",
    note="why",
    proof="process 100 has ended",
    by="rig:102:def",
    times=3,
    revision=99,
    redo=True,
    turn=True,
)
HOSTILE = '"}\n{"at":"2026-11-28T12:30:05.123Z","kind":"released"}\x1b[2J\u2028\ud800 é'


@pytest.mark.parametrize("event", [Event(AT, Kind.GAP, "ci", ""), FULL, FULL._replace(group=(), redo=False, slot=0)])
def test_what_is_written_is_read(event: Event) -> None:
    line = to_line(event)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert from_line(line) == event


def test_a_line_says_nothing_that_is_not_known() -> None:
    assert facts_of(Event(AT, Kind.RELEASED, "ci", "red", 4, holder="rig:101:abc")) == {
        "at": "2026-11-28T12:30:05.123Z",
        "kind": "released",
        "namespace": "ci",
        "key": "red",
        "generation": 4,
        "holder": "rig:101:abc",
    }


def test_text_of_others_stays_text_on_one_line() -> None:
    event = FULL._replace(key=HOSTILE, note=HOSTILE, holder=HOSTILE, label=HOSTILE)
    line = to_line(event)
    assert line.count(b"\n") == 1
    read = from_line(line)
    assert (read.key, read.note, read.holder, read.label, read.kind) == (*[HOSTILE] * 4, Kind.GRANTED)


def test_a_line_that_is_torn_at_any_byte_is_no_event_and_costs_no_other() -> None:
    line, following = to_line(FULL._replace(note=HOSTILE)), to_line(FULL._replace(generation=8))
    for size in range(1, len(line) - 1):
        with pytest.raises(LineError):
            from_line(line[:size])
        both = line[:size] + following
        assert beginning_of_last(both) == size and beginning_of_last(line) == 0


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"at":"2026-11-28T12:30:05","kind":"granted","namespace":"ci","key":"red"}',
        b'{"at":"2026-11-28T12:30:05Z","kind":"painted","namespace":"ci","key":"red"}',
        b'{"at":"2026-11-28T12:30:05Z","kind":"granted","namespace":"ci","key":7}',
        b'{"at":"2026-11-28T12:30:05Z","kind":"granted","namespace":"ci","key":"red","generation":-1}',
        b'{"at":"2026-11-28T12:30:05Z","kind":"granted","namespace":"ci","key":"red","generation":true}',
        b'{"at":"2026-11-28T12:30:05Z","kind":"granted","namespace":"ci","key":"red","duration_seconds":NaN}',
        b'{"at":"2026-11-28T12:30:05Z","kind":"granted","namespace":"ci","key":"red","group":[["ci"]]}',
        b"[" * 100_000,
    ],
)
def test_anything_else_is_no_event(line: bytes) -> None:
    with pytest.raises(LineError):
        from_line(line)


def test_what_a_newer_version_adds_is_passed_over() -> None:
    line = to_line(FULL).replace(b'"kind"', b'"mood":{"very":["good"]},"kind"')
    assert from_line(line) == FULL
