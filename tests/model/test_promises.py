"""The check of a history: silent about what is allowed or cannot be known, and never about a broken promise."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from mcp_claims.model.history import Event, Kind
from mcp_claims.model.keys import PLACES
from mcp_claims.model.promises import Promise, by_revision, check
from mcp_claims.model.records import ScopedKey

BEGAN = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
_seconds = count()


def event(kind: Kind, generation: int, holder: str = "a", key: str = "red", **more: Any) -> Event:
    at = BEGAN + timedelta(seconds=next(_seconds))
    facts: dict[str, Any] = {"namespace": PLACES if key.startswith("file:") else "ci", "holder": f"rig:1:{holder}"}
    if kind in (Kind.GRANTED, Kind.RESERVED, Kind.RENEWED):
        facts["expires"] = at + HOUR
    return Event(at, kind, key=key, generation=generation, **(facts | more))


def granted(generation: int, holder: str = "a", key: str = "red", **more: Any) -> Event:
    return event(Kind.GRANTED, generation, holder, key, **more)


def released(generation: int, holder: str = "a", key: str = "red", **more: Any) -> Event:
    return event(Kind.RELEASED, generation, holder, key, **more)


def broken(events: Iterable[Event]) -> list[Promise]:
    return [violation.promise for violation in check(events).violations]


SHARED: dict[str, Any] = {"mode": "shared"}
FIRST_SLOT: dict[str, Any] = {"mode": "slot", "slots": 2, "slot": 0}
SECOND_SLOT: dict[str, Any] = FIRST_SLOT | {"slot": 1}
TURN: dict[str, Any] = {"turn": True}
GROUP = (ScopedKey("ci", "green"), ScopedKey("ci", "red"))
DONE: dict[str, Any] = {"outcome": "done", "expires": BEGAN + 24 * HOUR}
ALLOWED: dict[str, list[Event]] = {
    "one after the other": [granted(1), released(1), granted(2, "b"), released(2, "b")],
    "still held": [granted(1)],
    "renewed": [granted(1), event(Kind.RENEWED, 1), released(1)],
    "taken from the dead": [granted(1), event(Kind.ORPHANED, 1, pid=7, start=1), granted(2, "b", found="orphaned")],
    "taken after its time": [granted(1), event(Kind.EXPIRED, 1), granted(2, "b", found="expired")],
    "revoked": [granted(1), event(Kind.REVOKED, 1, by="rig:1:b"), granted(3, "b"), event(Kind.LOST, 1)],
    "other keys": [granted(1), granted(2, "b", "green")],
    "the same session anew": [granted(1), granted(2)],
    "shared": [granted(1, **SHARED), granted(2, "b", **SHARED)],
    "slots": [granted(1, **FIRST_SLOT), granted(2, "b", **SECOND_SLOT)],
    "alone after others": [
        granted(1, **SHARED),
        granted(2, "b", **SHARED),
        released(1, **SHARED),
        event(Kind.RENEWED, 2, "b"),
        released(2, "b"),
    ],
    "files apart": [granted(1, key="file:/w/a/"), granted(2, "b", "file:/w/b/")],
    "files shared": [granted(1, key="file:/w/", **SHARED), granted(2, "b", "file:/w/x.py", **SHARED)],
    "own files": [granted(1, key="file:/w/"), granted(2, key="file:/w/x.py")],
    "a turn that is taken": [event(Kind.RESERVED, 1, **TURN), granted(1), released(1)],
    "a turn that lapses": [event(Kind.RESERVED, 1, **TURN), event(Kind.EXPIRED, 1, **TURN), granted(2, "b")],
    "done again on request": [granted(1), released(1, **DONE), granted(2, "b", found="done", found_generation=1, redo=True)],
    "done again before the release that nobody answered was noted": [
        granted(1, revision=11),
        granted(2, "b", revision=13, found="done", found_generation=1, redo=True),
        released(1, **DONE),
        released(2, "b", revision=14),
        granted(3, "c", revision=15),
    ],
    "done, forgotten": [granted(1), released(1, **DONE), event(Kind.FORGOTTEN, 1), granted(2, "b")],
    "done, of a file": [granted(1, key="file:/w/x"), released(1, key="file:/w/x", **DONE), granted(2, "b", "file:/w/x", found="done", found_generation=1)],
    "done, of what was shared": [granted(1, **SHARED), released(1, **SHARED, **DONE), granted(2, "b", found="done", found_generation=1)],
    "failed": [granted(1), released(1, outcome="failed"), granted(2, "b", found="failed", found_generation=1)],
    "handed on within a session of a host": [
        granted(1, host_session="s"),
        event(Kind.TAKEN_OVER, 1, "b", host_session="s", by="rig:1:a"),
        released(1, "b"),
    ],
    "handed on by the guard": [granted(1, maker="guard"), event(Kind.TAKEN_OVER, 1, "b", by="rig:1:a"), released(1, "b")],
    "an end that was noted too early": [granted(1), released(1), event(Kind.KEPT, 1), event(Kind.RENEWED, 1), released(1)],
    "an end that was noted twice": [granted(1), released(1), event(Kind.ORPHANED, 1), granted(2, "b")],
}  # fmt: skip
UNKNOWN: dict[str, list[Event]] = {
    "its grant has no line": [released(1), granted(2, "b")],
    "a grant between has no line": [granted(1), event(Kind.ORPHANED, 2, "b"), granted(3, "c")],
    "the one before the found one": [granted(1), granted(3, "c", found="orphaned", found_generation=2)],
    "lines are missing": [granted(1), event(Kind.GAP, 0, key=""), granted(2, "b")],
    "a damaged record was removed": [granted(1), event(Kind.FORGOTTEN, 0), granted(2, "b")],
    "its lease ended": [granted(1, revision=11), granted(2, "b", revision=12)],
    "its lease ended before a release that nobody answered": [
        granted(1, revision=11),
        granted(2, "b", revision=12),
        released(1),
        released(2, "b", revision=13),
    ],
}
BROKEN: dict[str, tuple[Promise, list[Event]]] = {
    "two hold it": (Promise.ONE_HOLDER, [granted(1), granted(2, "b")]),
    "the first goes on": (Promise.ONE_HOLDER, [granted(1), released(1), granted(2, "b"), event(Kind.RENEWED, 1)]),
    "one alone beside one who shares": (Promise.ONE_HOLDER, [granted(1, **SHARED), granted(2, "b")]),
    "one who shares beside one alone": (Promise.ONE_HOLDER, [granted(1), granted(2, "b", **SHARED)]),
    "two in one slot": (Promise.ONE_HOLDER, [granted(1, **FIRST_SLOT), granted(2, "b", **FIRST_SLOT)]),
    "slots of two numbers": (
        Promise.ONE_HOLDER,
        [granted(1, **FIRST_SLOT), granted(2, "b", mode="slot", slots=3, slot=1)],
    ),
    "alone although shared": (
        Promise.ONE_HOLDER,
        [granted(1, **SHARED), granted(2, "b", **SHARED), event(Kind.RENEWED, 2, "b")],
    ),
    "a file in a directory": (Promise.ONE_HOLDER, [granted(1, key="file:/w/"), granted(2, "b", "file:/w/x.py")]),
    "a reader beside a writer": (
        Promise.ONE_HOLDER,
        [granted(1, key="file:/w/x.py"), granted(2, "b", "file:/w/", **SHARED)],
    ),
    "a key of a group": (
        Promise.ONE_HOLDER,
        [granted(1), granted(2, "b", "green", group=GROUP), granted(3, "b", group=GROUP)],
    ),
    "a turn beside a holder": (Promise.ONE_HOLDER, [granted(1), event(Kind.RESERVED, 2, "b", **TURN)]),
    "a holder beside a turn": (Promise.ONE_HOLDER, [event(Kind.RESERVED, 1, **TURN), granted(2, "b")]),
    "another's turn": (Promise.ONE_HOLDER, [event(Kind.RESERVED, 1, **TURN), granted(1, "b")]),
    "declared dead, and alive": (
        Promise.ONE_HOLDER,
        [
            granted(1, pid=7, start=1),
            event(Kind.ORPHANED, 1, pid=7, start=1),
            granted(2, "b"),
            released(2, "b"),
            granted(3, pid=7, start=1),
        ],
    ),
    "handed to a stranger": (Promise.ONE_HOLDER, [granted(1), event(Kind.TAKEN_OVER, 1, "b", by="rig:1:a")]),
    "on a cluster": (
        Promise.ONE_HOLDER,
        [granted(1, revision=11), granted(2, "b", revision=12), released(1, revision=13)],
    ),
    "a generation again": (Promise.GENERATIONS_GROW, [granted(2), released(2), granted(2, "b")]),
    "a generation that goes back": (Promise.GENERATIONS_GROW, [granted(2), released(2), granted(1, "b")]),
    "no end": (Promise.EVERY_HOLD_ENDS, [granted(1, expires=BEGAN), granted(2, "b")]),
    "done is done again": (
        Promise.DONE_STAYS_DONE,
        [granted(1), released(1, **DONE), granted(2, "b", found="done", found_generation=1)],
    ),
    "done is gone": (Promise.DONE_STAYS_DONE, [granted(1), released(1, **DONE), granted(2, "b")]),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_breaks_nothing(name: str) -> None:
    findings = check(ALLOWED[name])
    assert (findings.violations, findings.unknown) == ([], 0)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_no_line_says_is_unknown_and_not_broken(name: str) -> None:
    findings = check(UNKNOWN[name])
    assert findings.violations == []
    assert findings.unknown >= 1


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_promise_is_found(name: str) -> None:
    promise, events = BROKEN[name]
    assert broken(events) == [promise]


def test_grants_and_what_is_in_force_are_counted() -> None:
    findings = check([granted(1), released(1), granted(2), event(Kind.REFUSED, 2, "b", times=4)])
    assert (findings.grants, findings.in_force, findings.refusals) == (2, 1, 4)


def test_where_others_write_no_history_a_missing_end_is_unknown() -> None:
    events = BROKEN["two hold it"][1]
    assert check(events, complete=False).violations == []


def test_a_line_without_a_revision_does_not_come_before_its_grant() -> None:
    # Processes of one machine write their lines when they come to it.
    late = granted(7, "b", key="green", revision=7)
    assert broken(by_revision([[granted(9, revision=9), late, released(9), granted(12, "c", revision=12)]])) == []


def test_several_machines_are_put_together_by_revision() -> None:
    one = [granted(1, revision=11), released(1, revision=14)]
    other = [granted(2, "b", revision=12), event(Kind.RENEWED, 2, "b", revision=13)]
    assert [each.revision for each in by_revision([one, other])] == [11, 12, 13, 14]
    assert broken(by_revision([one, other])) == [Promise.ONE_HOLDER]
    assert broken(by_revision([one])) == broken(by_revision([other])) == []
