"""Ends leave a trace: the note of a claim that died or expired is for the next holder, whoever met the claim before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.errors import SessionEndedError
from mcp_claims.model import expiry
from mcp_claims.model.codec import from_json, to_json
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Outcome, Unreadable
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.render.answers import claim_answer, inspect_answer
from mcp_claims.render.listed import listed_line
from mcp_claims.session.results import PruneResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT
from tests.session.bench import DAY, HALF_AN_HOUR, KEY, Bench, FileBench, LayoutBench, MemoryBench, granted
from tests.session.faulty import Busy
from tests.support.interrupting import DelegatingStore, Interrupting

NOTE = "half of it is pushed to ci/fix"


def orphan(bench: Bench, note: str | None = NOTE) -> Claim:
    holder = bench.session()
    claim = granted(holder, note=note)
    bench.world.pass_time(60)
    bench.world.kill(holder)
    return claim


def expire(bench: Bench, note: str | None = NOTE) -> Claim:
    claim = granted(bench.session(), note=note)
    bench.world.pass_time(HALF_AN_HOUR + 60)
    return claim


def inspect(session: Session) -> None:
    session.inspect(KEY)


def prune(session: Session) -> None:
    session.prune()


def show(session: Session) -> None:
    session.read(KEY)
    session.list_claims()


ENDS = pytest.mark.parametrize(("end", "outcome"), [(orphan, Outcome.ORPHANED), (expire, Outcome.EXPIRED)])
LOOKS = pytest.mark.parametrize(
    "looks",
    [(), (inspect,), (prune,), (show,), (inspect, inspect, prune, prune, show, inspect)],
    ids=["at once", "after an inspection", "after a prune", "after a list", "after all of them"],
)


@pytest.fixture(params=["memory", "files"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """A bench of each store that keeps markers; the shared layout has tests of its own below."""
    return MemoryBench() if request.param == "memory" else FileBench(tmp_path / "claims")


@pytest.mark.rule("C14")
@ENDS
@LOOKS
def test_the_next_holder_learns_whose_it_was_when_it_ended_and_its_note_whoever_looked_before(
    bench: Bench,
    end: Callable[[Bench], Claim],
    outcome: Outcome,
    looks: tuple[Callable[[Session], None], ...],
) -> None:
    dead = end(bench)
    noticed = bench.world.wall
    for look in looks:
        look(bench.session())
    attempt = bench.session().try_claim(KEY)
    assert attempt.status is Status.ACQUIRED and attempt.taken_over is not None
    assert (attempt.taken_over.state, attempt.taken_over.found.note) == (ClaimState(outcome.value), NOTE)  # type: ignore[union-attr]
    answer = claim_answer(dead.scoped, attempt)
    ended_at = dead.expires.wall if outcome is Outcome.EXPIRED else noticed
    assert answer.structured["previous"] == {
        "state": outcome.value,
        "holder": dead.holder.name,
        "generation": 1,
        "note": NOTE,
        "ended_at": f"{ended_at:%Y-%m-%dT%H:%M:%S}.000Z",
    }
    why = {Outcome.ORPHANED: "whose process is dead (noticed at {})", Outcome.EXPIRED: "whose claim expired at {}"}
    when = why[outcome].format(f"{ended_at:%Y-%m-%dT%H:%M:%SZ}")
    for part in (dead.holder.name, when, f'"{NOTE}"'):
        assert part in answer.lead


@pytest.mark.rule("C14")
@ENDS
def test_each_look_reports_the_end_and_the_key_is_free(
    bench: Bench, end: Callable[[Bench], Claim], outcome: Outcome
) -> None:
    dead = end(bench)
    for _ in range(3):
        inspection = bench.session().inspect(KEY, generation=dead.generation)
        assert (inspection.claimed_by_other, inspection.held_by_you, inspection.in_force) == (False, False, False)
        assert inspection.marker is not None and inspection.marker.ended is not None
        assert inspection.marker.ended.outcome is outcome
        answer = inspect_answer(dead.scoped, inspection)
        assert answer.lead.startswith("FREE: nobody holds") and f'"{NOTE}"' in answer.lead
        assert (answer.structured["outcome"], answer.structured["note"]) == (outcome.value, NOTE)
        (listed,) = bench.session().list_claims().claims
        assert listed.state is ClaimState(outcome.value)
        line = listed_line(listed, inspection.now)
        assert line.startswith(f"{outcome.value.upper()}, free: ") and NOTE in line


@pytest.mark.rule("C14")
@ENDS
def test_a_claim_without_a_note_leaves_nothing(bench: Bench, end: Callable[..., Claim], outcome: Outcome) -> None:
    for look in (inspect, prune):
        dead = end(bench, None)
        look(bench.session())
        assert bench.store.read(dead.scoped) is None
    assert bench.session().inspect(KEY).marker is None


@pytest.mark.rule("C14")
@ENDS
def test_prune_counts_a_claim_once_and_its_marker_never(
    bench: Bench, end: Callable[[Bench], Claim], outcome: Outcome
) -> None:
    end(bench)
    counted = (1, 0) if outcome is Outcome.EXPIRED else (0, 1)
    assert bench.session().prune() == PruneResult(*counted, 0, 0, (), ())
    assert bench.session().prune() == PruneResult(0, 0, 0, 0, (), (), markers=1)
    bench.world.pass_time(DAY - 1)
    assert bench.session().prune().markers == 1
    bench.world.pass_time(1)
    assert bench.session().prune() == PruneResult(0, 0, 0, 0, (), ())
    assert list(bench.store.scan()) == []


def test_what_a_look_has_made_a_marker_of_prune_does_not_count(bench: Bench) -> None:
    orphan(bench)
    inspect(bench.session())
    assert bench.session().prune() == PruneResult(0, 0, 0, 0, (), (), markers=1)


@pytest.mark.rule("C14")
@ENDS
def test_the_note_is_kept_for_a_day_from_the_first_look_however_long_ago_the_claim_ended(
    bench: Bench, end: Callable[[Bench], Claim], outcome: Outcome
) -> None:
    end(bench)
    bench.world.pass_time(3 * DAY)
    inspect(bench.session())
    bench.world.pass_time(DAY - 1)
    inspect(bench.session())
    attempt = bench.session().try_claim(KEY)
    assert attempt.taken_over is not None and attempt.taken_over.found.note == NOTE  # type: ignore[union-attr]


@pytest.mark.rule("C14")
@ENDS
def test_a_look_that_cannot_write_reports_the_end_and_takes_nothing_away(
    bench: Bench, end: Callable[[Bench], Claim], outcome: Outcome
) -> None:
    dead = end(bench)
    marker = bench.session(Busy(bench.store)).inspect(KEY).marker
    assert marker is not None and marker.ended is not None
    assert (marker.ended.outcome, marker.note) == (outcome, NOTE)
    assert bench.store.read(dead.scoped) == dead


@pytest.mark.parametrize("look", [inspect, prune])
@ENDS
def test_a_look_changes_nothing_that_was_claimed_since_it_was_read(
    bench: Bench, look: Callable[[Session], None], end: Callable[[Bench], Claim], outcome: Outcome
) -> None:
    dead = end(bench)
    rival = bench.session()
    store = Interrupting(bench.store, lambda: rival.try_claim(KEY))
    look(bench.session(store))
    assert store.ran == 1
    found = bench.store.read(dead.scoped)
    assert isinstance(found, Claim) and (found.holder, found.ended) == (rival.holder, None)


@pytest.mark.rule("C7")
@pytest.mark.parametrize("call", ["inspect", "release", "try_claim"])
@pytest.mark.parametrize("look", [inspect, prune])
def test_a_living_holder_whose_expired_claim_became_a_marker_learns_of_the_loss_once(
    bench: Bench, look: Callable[[Session], None], call: str
) -> None:
    holder = bench.session()
    claim = granted(holder, note=NOTE)
    bench.world.pass_time(HALF_AN_HOUR)
    look(bench.session())
    assert getattr(holder, call)(KEY).lost == claim
    assert holder.inspect(KEY).lost is None
    assert holder.holds_anything is (call == "try_claim")


@pytest.mark.rule("C7")
def test_any_call_of_a_living_holder_reports_that_its_expired_claim_became_a_marker(bench: Bench) -> None:
    holder = bench.session()
    claim = granted(holder, note=NOTE)
    bench.world.pass_time(HALF_AN_HOUR)
    inspect(bench.session())
    assert [lost for lost, _ in holder.take_losses()] == [claim]
    assert holder.take_losses() == []


def test_a_grant_of_unknown_outcome_that_became_a_marker_is_not_held_any_more(bench: Bench) -> None:
    class Interrupted(DelegatingStore):
        def swap(self, scoped, old, new, *, lock_timeout=LOCK_TIMEOUT, **options):  # type: ignore[no-untyped-def]
            super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)
            raise KeyboardInterrupt

    holder = bench.session(Interrupted(bench.store))
    with pytest.raises(KeyboardInterrupt):
        holder.try_claim(KEY, note=NOTE)
    bench.world.pass_time(HALF_AN_HOUR)
    inspect(bench.session())
    holder.release(KEY)
    assert not holder.holds_anything


def test_forget_removes_the_trace(bench: Bench) -> None:
    orphan(bench)
    inspect(bench.session())
    assert bench.session().forget(KEY)
    assert (bench.session().inspect(KEY).found, bench.session().try_claim(KEY).taken_over) == (None, None)


@pytest.mark.parametrize("look", [inspect, prune])
def test_the_trace_of_a_claim_of_an_earlier_boot_goes_by_the_wall_clock_and_reads_back_as_written(
    bench: Bench, look: Callable[[Session], None]
) -> None:
    claim = granted(bench.session(), note=NOTE)
    bench.world.reboot()
    bench.world.pass_time(HALF_AN_HOUR)
    look(bench.session())
    marker = bench.store.read(claim.scoped)
    assert isinstance(marker, Claim) and marker.ended is not None
    assert from_json(to_json(marker)) == marker
    assert (marker.ended.outcome, marker.ended.at.wall) == (Outcome.EXPIRED, claim.expires.wall)
    assert marker.claimed.wall == claim.claimed.wall
    bench.world.pass_time(DAY - 1)
    assert bench.session().inspect(KEY).marker == marker
    bench.world.pass_time(1)
    assert bench.session().inspect(KEY).found is None


REQUEST = ClaimRequest.parse(KEY)


@pytest.mark.rule("C14")
@ENDS
@pytest.mark.parametrize("look", [None, inspect, prune])
def test_who_takes_a_reservation_is_told_what_it_replaced(
    bench: Bench, end: Callable[..., Claim], outcome: Outcome, look: Callable[[Session], None] | None
) -> None:
    for note in (NOTE, None):
        end(bench, note)
        waiter = bench.session()
        assert waiter.try_request(REQUEST, reserve=True).status is Status.YOUR_TURN
        if look is not None:
            look(bench.session())
        taken_over = waiter.try_claim(KEY).taken_over
        assert taken_over is not None and isinstance(taken_over.found, Claim)
        assert (taken_over.state, taken_over.found.note) == (ClaimState(outcome.value), note)
        assert waiter.release(KEY).released


@pytest.mark.rule("C14")
@ENDS
@pytest.mark.parametrize("look", [None, inspect, prune])
@pytest.mark.parametrize("by", ["time", "death", "choice", "the end of its call"])
def test_a_reservation_that_goes_leaves_the_note_that_it_replaced(
    bench: Bench, end: Callable[..., Claim], outcome: Outcome, look: Callable[[Session], None] | None, by: str
) -> None:
    for note in (None, NOTE):
        dead = end(bench, note)
        waiter = bench.session()
        reservation = waiter.try_request(REQUEST, reserve=True).found
        assert isinstance(reservation, Claim)
        match by:
            case "time":
                bench.world.pass_time(61)
            case "death":
                bench.world.kill(waiter)
            case "choice":
                waiter.release(KEY)
            case _:
                waiter.release_grant(reservation)
        if look is not None:
            look(bench.session())
        attempt = bench.session().try_claim(KEY)
        if note is None:
            assert attempt.taken_over is None
        else:
            assert attempt.taken_over is not None and isinstance(attempt.taken_over.found, Claim)
            assert (attempt.taken_over.state, attempt.taken_over.found.note) == (ClaimState(outcome.value), NOTE)
            assert attempt.taken_over.found.generation == dead.generation
        bench.world.pass_time(2 * DAY)
        prune(bench.session())


def test_what_cannot_be_read_leaves_no_trace(bench: Bench) -> None:
    bench.damage()
    bench.world.pass_time(DAY + 1)
    found = next(found for found in bench.store.scan() if isinstance(found, Unreadable))
    assert expiry.trace_of(found, ClaimState.EXPIRED, bench.session().now()) is None
    assert bench.session().prune().unreadable == 1


@ENDS
def test_in_the_shared_layout_whoever_meets_a_dead_claim_first_is_told(
    tmp_path: Path, end: Callable[[Bench], Claim], outcome: Outcome
) -> None:
    bench = LayoutBench(tmp_path)
    end(bench)
    attempt = bench.session().try_claim(KEY)
    assert attempt.taken_over is not None and attempt.taken_over.found.note == NOTE  # type: ignore[union-attr]
    bench = LayoutBench(tmp_path / "another")
    dead = end(bench)
    marker = bench.session().inspect(KEY).marker
    assert marker is not None and (marker.ended and marker.ended.outcome, marker.note) == (outcome, NOTE)
    # The original would take a marker for a claim.
    assert bench.store.read(dead.scoped) is None


UNTOLD = pytest.mark.parametrize("by", ["the end of its call", "the end of its session"])


def take_untold(bench: Bench, request: ClaimRequest, by: str) -> None:
    """Let a session be granted the key without anybody being told of it."""
    if by == "the end of its call":
        session = bench.session()
        result = session.try_request(request)
        assert result.status is Status.ACQUIRED and isinstance(result.found, Claim)
        session.release_grant(result.found, result.taken_over)
    else:
        store = Interrupting(bench.store)
        session = bench.session(store)
        store.interrupt_with(session.begin_close)
        with pytest.raises(SessionEndedError):
            session.try_request(request)
        assert store.ran == 1
        assert not session.has_anything_to_end


@pytest.mark.rule("C14")
@ENDS
@UNTOLD
@pytest.mark.parametrize("look", [None, inspect])
def test_a_grant_that_nobody_is_told_of_leaves_the_note_that_it_replaced(
    bench: Bench, end: Callable[..., Claim], outcome: Outcome, by: str, look: Callable[[Session], None] | None
) -> None:
    dead = end(bench)
    if look is not None:
        look(bench.session())
    take_untold(bench, REQUEST, by)
    attempt = bench.session().try_claim(KEY)
    assert attempt.taken_over is not None and isinstance(attempt.taken_over.found, Claim)
    assert (attempt.taken_over.state, attempt.taken_over.found.note) == (ClaimState(outcome.value), NOTE)
    assert isinstance(attempt.found, Claim) and attempt.found.generation > dead.generation + 1


@pytest.mark.rule("C10")
@UNTOLD
def test_what_was_done_is_done_after_a_grant_to_redo_it_that_nobody_is_told_of(bench: Bench, by: str) -> None:
    worker = bench.session()
    granted(worker)
    worker.release(KEY, outcome="done")
    take_untold(bench, REQUEST._replace(redo=True), by)
    assert bench.session().try_claim(KEY).status is Status.DONE


@UNTOLD
def test_a_grant_that_nobody_is_told_of_and_that_replaced_nothing_leaves_nothing(bench: Bench, by: str) -> None:
    for before in (None, orphan):
        if before is not None:
            before(bench, None)
        take_untold(bench, REQUEST, by)
        assert not bench.session().read(KEY).claims
