"""What a session does is in the history, as what it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from mcp_claims.model.history import Event, Kind, from_line
from mcp_claims.model.promises import Promise, check
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Change
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.events import begins, ends, plain
from mcp_claims.stores.history.history import Limits
from mcp_claims.stores.history.reader import HistoryReader
from tests.support.machines import World

KEY = ScopedKey("ci", "red")


class Bench:
    """Two sessions of two processes on one store, and what the history says since the last question."""

    def __init__(self, directory: Path) -> None:
        self.world = World()
        self.store = FileStore(directory, history=Limits(), machine=self.world.process())
        self.mine, self.other = self.world.session(self.store), self.world.session(self.store)
        self._seen = 0

    def events(self) -> list[Event]:
        found = list(HistoryReader(self.store.history.directory).events())
        new, self._seen = found[self._seen :], len(found)
        return new

    def kinds(self) -> list[tuple[str, int]]:
        return [(event.kind.value, event.generation) for event in self.events()]

    def claim(self, session: Session, key: str = "red", **more: object) -> Claim:
        result = session.try_claim(key, "ci", **more)  # type: ignore[arg-type]
        assert result.claimed and isinstance(result.found, Claim)
        return result.found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "claims")


def test_a_grant_says_who_has_what_until_when(bench: Bench) -> None:
    bench.mine.describe_client("agent 1.0")
    bench.mine.describe(label="left pane", directory="~/work")
    claim = bench.claim(bench.mine, note="fixing it")
    (event,) = bench.events()
    assert event == Event(
        bench.world.wall,
        Kind.GRANTED,
        "ci",
        "red",
        claim.generation,
        holder=bench.mine.holder.name,
        client="agent 1.0",
        label="left pane",
        directory="~/work",
        maker="library",
        pid=bench.mine.holder.pid,
        start=bench.mine.holder.proof.start,
        expires=claim.expires.wall,
        note="fixing it",
    )


@pytest.mark.parametrize("revision", [None, 7])
@pytest.mark.parametrize("more", [{}, {"note": "fixing it"}, {"redo": True}], ids=str)
def test_the_short_way_to_a_line_and_the_long_one_say_the_same(
    bench: Bench, revision: int | None, more: dict[str, object]
) -> None:
    claim, nobody_died = bench.claim(bench.mine, "red", **more), lambda _: None
    bench.world.pass_time(2.5)
    now = bench.world.process().now()
    for change, long in (
        (Change(KEY, None, claim), begins([Change(KEY, None, claim)], claim.claimed)),
        (Change(KEY, claim, None), ends([Change(KEY, claim, None)], now, nobody_died)),
    ):
        line = plain(change, now, revision)
        assert line is not None and from_line(line) == long[0]._replace(revision=revision)


def test_renewals_are_noted_once_a_minute_at_most(bench: Bench) -> None:
    bench.claim(bench.mine)
    for _ in range(12):
        bench.world.pass_time(10)
        bench.claim(bench.mine)
    assert bench.kinds() == [("granted", 1), ("renewed", 1), ("renewed", 1)]


def test_a_release_says_the_outcome_the_note_and_how_long(bench: Bench) -> None:
    bench.claim(bench.mine)
    bench.world.pass_time(90)
    bench.mine.release("red", "ci", outcome="failed", note="no room")
    event = bench.events()[-1]
    assert (event.kind, event.outcome, event.note, event.duration_seconds) == (Kind.RELEASED, "failed", "no room", 90.0)


def test_a_wall_clock_that_is_set_changes_no_duration(bench: Bench) -> None:
    bench.claim(bench.mine)
    bench.world.pass_time(5)
    bench.world.set_wall_clock(-3_600)
    bench.mine.release("red", "ci")
    assert bench.events()[-1].duration_seconds == 5.0


def test_a_takeover_says_how_the_one_before_ended_and_who_found_it(bench: Bench) -> None:
    bench.claim(bench.mine, ttl_minutes=1)
    bench.world.pass_time(61)
    bench.claim(bench.other)
    bench.world.kill(bench.other)
    third = bench.world.session(bench.store)
    bench.claim(third)
    events = bench.events()
    assert [event.kind.value for event in events] == ["granted", "expired", "granted", "orphaned", "granted"]
    assert [(event.found, event.found_generation) for event in events[2::2]] == [("expired", 1), ("orphaned", 2)]
    assert events[1].by == bench.other.holder.name and events[1].holder == bench.mine.holder.name
    assert events[3].proof == f"process {bench.other.holder.pid} has ended"


def test_an_orphan_whose_pid_was_given_anew_says_so(bench: Bench) -> None:
    bench.claim(bench.mine)
    bench.world.recycle(bench.mine.holder.pid)
    bench.claim(bench.other)
    proof = bench.events()[1].proof
    assert proof is not None and "another one" in proof


@pytest.mark.parametrize("note", [None, "half done"], ids=["without a note", "with a note"])
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_what_a_prune_removes_has_its_end(bench: Bench, note: str | None, shared: bool) -> None:
    bench.claim(bench.mine, note=note, shared=shared)
    bench.claim(bench.other, "green", ttl_minutes=1, shared=shared, note=note)
    bench.world.kill(bench.mine)
    bench.world.pass_time(61)
    bench.events()
    bench.other.prune()
    assert sorted(event.kind.value for event in bench.events()) == ["expired", "orphaned"]


def test_a_revocation_says_by_whom_and_why_and_its_holder_learns_of_it(bench: Bench) -> None:
    claim = bench.claim(bench.mine)
    bench.other.revoke(claim, "it hangs")
    bench.mine.inspect("red", "ci")
    _, revoked, lost = bench.events()
    assert (revoked.kind, revoked.by, revoked.generation) == (Kind.REVOKED, bench.other.holder.name, claim.generation)
    assert revoked.note is not None and "it hangs" in revoked.note
    assert (lost.kind, lost.generation, lost.by) == (Kind.LOST, claim.generation, bench.other.holder.name)


def test_a_turn_is_kept_and_taken_or_declined(bench: Bench) -> None:
    request = ClaimRequest.parse("red", "ci")
    bench.mine.try_request(request, reserve=True)
    bench.claim(bench.mine)
    bench.mine.release("red", "ci")
    bench.other.try_request(request, reserve=True)
    bench.other.release("red", "ci")
    events = bench.events()
    assert [(event.kind.value, event.generation, event.turn) for event in events] == [
        ("reserved", 1, True),
        ("granted", 1, False),
        ("released", 1, False),
        ("reserved", 2, True),
        ("released", 2, True),
    ]


def test_a_turn_that_lapses_has_expired(bench: Bench) -> None:
    bench.mine.try_request(ClaimRequest.parse("red", "ci"), reserve=True)
    bench.world.pass_time(61)
    bench.claim(bench.other)
    assert bench.kinds() == [("reserved", 1), ("expired", 1), ("granted", 2)]


def test_what_is_done_again_says_so(bench: Bench) -> None:
    bench.claim(bench.mine)
    bench.mine.release("red", "ci", outcome="done")
    bench.claim(bench.other, redo=True)
    granted = bench.events()[-1]
    assert (granted.found, granted.found_generation, granted.redo) == ("done", 1, True)


def test_a_marker_that_is_forgotten_is_noted(bench: Bench) -> None:
    bench.claim(bench.mine)
    bench.mine.release("red", "ci", outcome="done")
    bench.other.forget("red", "ci")
    assert bench.kinds()[-1] == ("forgotten", 1)


def test_each_key_of_a_group_has_its_lines(bench: Bench) -> None:
    bench.claim(bench.mine, also=["green"])
    bench.mine.release("green", "ci")
    events = bench.events()
    assert [(event.kind.value, event.key) for event in events] == [
        ("granted", "red"),
        ("granted", "green"),
        ("released", "green"),
        ("released", "red"),
    ]
    assert {event.group for event in events} == {(KEY, ScopedKey("ci", "green"))}


def test_a_key_of_several_has_the_lines_of_its_members_alone(bench: Bench) -> None:
    bench.claim(bench.mine, slots=2)
    bench.claim(bench.other, slots=2)
    bench.mine.release("red", "ci", outcome="failed", note="no luck")
    bench.other.release("red", "ci")
    events = bench.events()
    assert [(event.kind.value, event.slot, event.outcome) for event in events] == [
        ("granted", 0, None),
        ("granted", 1, None),
        ("released", 0, "failed"),
        ("released", 1, None),
    ]
    assert {event.key for event in events} == {"red"}


def test_a_claim_that_passes_from_shared_to_alone_and_back_is_one_hold(bench: Bench) -> None:
    bench.claim(bench.mine, shared=True)
    bench.claim(bench.mine)
    bench.claim(bench.mine, shared=True)
    bench.mine.release("red", "ci")
    events = bench.events()
    assert [(event.kind.value, event.mode) for event in events] == [
        ("granted", "shared"),
        ("renewed", "alone"),
        ("renewed", "shared"),
        ("released", "shared"),
    ]
    assert len({event.generation for event in events}) == 1


def test_a_dead_claim_alone_that_somebody_shares_then_has_its_end(bench: Bench) -> None:
    bench.claim(bench.mine)
    bench.world.kill(bench.mine)
    bench.claim(bench.other, shared=True)
    assert [event.kind.value for event in bench.events()] == ["granted", "orphaned", "granted"]


def test_a_grant_that_is_undone_is_released(bench: Bench) -> None:
    result = bench.mine.try_claim("red", "ci")
    bench.mine.undo(result)
    assert bench.kinds() == [("granted", 1), ("released", 1)]


def test_a_damaged_record_that_is_removed_is_noted(bench: Bench, tmp_path: Path) -> None:
    bench.claim(bench.mine)
    (tmp_path / "claims" / "ci" / "red.json").write_bytes(b"{")
    (damaged,) = bench.other.list_claims("ci").claims
    assert bench.other.revoke(damaged.found)
    event = bench.events()[-1]
    assert (event.kind, event.key, event.generation) == (Kind.FORGOTTEN, "red", 0)


def test_a_claim_that_another_name_of_its_session_takes_is_taken_over(bench: Bench) -> None:
    claim = bench.claim(bench.mine)
    bench.store.swap(claim.scoped, claim, claim._replace(holder=bench.other.holder))
    event = bench.events()[-1]
    assert (event.kind, event.holder, event.by) == (Kind.TAKEN_OVER, bench.other.holder.name, bench.mine.holder.name)


def test_a_dead_claim_that_a_file_is_granted_beside_has_its_end_once(bench: Bench) -> None:
    bench.mine.try_claim("file:/w/a.py")
    bench.mine.try_claim("file:/w/b.py", shared=True)
    bench.world.kill(bench.mine)
    bench.events()
    for key in ("file:/w/", "file:/w/*.py"):
        assert bench.other.try_claim(key).claimed
    events = bench.events()
    assert sorted(event.key for event in events[:2]) == ["file:/w/a.py", "file:/w/b.py"]
    assert [event.kind.value for event in events] == ["orphaned", "orphaned", "granted", "granted"]
    assert check(events).violations == []


@pytest.mark.rule("J6")
def test_a_claim_that_is_deleted_under_its_holder_shows_as_a_second_holder(bench: Bench, tmp_path: Path) -> None:
    bench.claim(bench.mine)
    (tmp_path / "claims" / "ci" / "red.json").unlink()
    bench.claim(bench.other)
    (violation,) = check(bench.events()).violations
    assert violation.promise is Promise.ONE_HOLDER
    assert violation.other is not None and violation.other.holder == bench.mine.holder.name


def refused(bench: Bench, times: int) -> None:
    for _ in range(times):
        assert not bench.other.try_claim("red", "ci").claimed


@pytest.fixture
def minutes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let minutes pass on the clock by which refusals are counted."""
    now = [0.0]
    fs = bench.store._fs
    monkeypatch.setattr(type(fs), "monotonic", staticmethod(lambda: now[0]))

    def let_pass(passed: float) -> None:
        now[0] += 60 * passed

    return let_pass


@pytest.mark.rule("J5")
def test_refusals_are_one_line_a_minute_for_each_grant_and_none_is_lost(
    bench: Bench, minutes: Callable[[float], None]
) -> None:
    bench.claim(bench.mine)
    bench.events()
    refused(bench, 5)
    assert [event.times for event in bench.events()] == [1]
    minutes(0.9)
    refused(bench, 1)
    assert bench.events() == []
    minutes(0.2)
    refused(bench, 1)
    (event,) = bench.events()
    assert (event.times, event.by, event.generation) == (6, bench.mine.holder.name, 1)
    refused(bench, 2)
    bench.other.close()
    assert [event.times for event in bench.events()] == [2]


def test_another_grant_of_the_key_has_a_line_of_its_own(bench: Bench) -> None:
    bench.claim(bench.mine)
    refused(bench, 1)
    bench.mine.release("red", "ci", outcome="done")
    refused(bench, 1)
    events = [event for event in bench.events() if event.kind is Kind.REFUSED]
    assert [(event.generation, event.outcome) for event in events] == [(1, None), (1, "done")]


def test_a_session_in_its_own_way_is_not_refused(bench: Bench) -> None:
    bench.claim(bench.mine)
    assert not bench.mine.try_claim("red", "ci", slots=2).claimed
    assert [event.kind for event in bench.events()] == [Kind.GRANTED]


def test_one_of_several_keys_is_refused_only_if_all_are(bench: Bench) -> None:
    bench.claim(bench.mine)
    bench.claim(bench.other, or_else=["green"])
    assert [event.kind.value for event in bench.events()] == ["granted", "granted"]
    third = bench.world.session(bench.store)
    assert not third.try_claim("red", "ci", or_else=["green"]).claimed
    (event,) = bench.events()
    assert (event.kind, event.key) == (Kind.REFUSED, "red")


def test_a_renewal_for_longer_is_noted_as_such(bench: Bench) -> None:
    bench.claim(bench.mine)
    claim = bench.claim(bench.mine, ttl_minutes=60)
    event = bench.events()[-1]
    assert event.kind is Kind.RENEWED and event.expires == claim.expires.wall == bench.world.wall + timedelta(hours=1)
