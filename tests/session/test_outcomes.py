"""Work that is done stays done; the next holder learns of work that failed or was abandoned."""

from __future__ import annotations

import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.codec import from_json, to_json
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Outcome
from mcp_claims.session.results import Status, TakenOver
from tests.session.bench import DAY, KEY, Bench, LayoutBench, granted
from tests.support.interrupting import Interrupting


def finished(bench: Bench, outcome: Outcome = Outcome.DONE, note: str | None = None) -> Claim:
    """Let a session claim the key and give it back with *outcome*, and die."""
    session = bench.session()
    granted(session, note="on it")
    release = session.release(KEY, outcome=outcome, note=note)
    assert release.released and isinstance(release.found, Claim)
    bench.world.kill(session)
    return release.found


@pytest.mark.rule("C10")
def test_a_later_session_learns_that_it_is_done_by_whom_when_and_how(bench: Bench) -> None:
    marker = finished(bench, note="fixed in #4530")
    bench.world.pass_time(600)
    attempt = bench.session().try_claim(KEY)
    assert (attempt.status, attempt.claimed, attempt.found) == (Status.DONE, False, marker)
    assert marker.ended is not None and marker.ended.outcome is Outcome.DONE
    assert (marker.note, marker.generation) == ("fixed in #4530", 1)


def test_the_note_of_the_claim_stays_if_the_release_has_none(bench: Bench) -> None:
    assert finished(bench).note == "on it"


def test_the_session_that_did_the_work_is_refused_too_and_has_lost_nothing(bench: Bench) -> None:
    session = bench.session()
    granted(session)
    session.release(KEY, outcome=Outcome.DONE)
    attempt = session.try_claim(KEY)
    assert (attempt.status, attempt.lost) == (Status.DONE, None)
    assert session.release(KEY).released is False
    assert session.close() == 0
    assert bench.session().try_claim(KEY).status is Status.DONE


def test_redo_claims_what_is_done_and_says_what_it_redoes(bench: Bench) -> None:
    marker = finished(bench)
    attempt = bench.session().try_claim(KEY, redo=True)
    assert (attempt.status, attempt.taken_over) == (Status.ACQUIRED, TakenOver(marker, ClaimState.DONE))
    assert isinstance(attempt.found, Claim)
    assert (attempt.found.generation, attempt.found.ended) == (2, None)


def test_redo_takes_nothing_from_a_live_holder(bench: Bench) -> None:
    granted(bench.session())
    assert bench.session().try_claim(KEY, redo=True).status is Status.HELD


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ABANDONED])
def test_failed_or_abandoned_work_is_free_at_once_and_the_next_holder_learns_it(bench: Bench, outcome: Outcome) -> None:
    marker = finished(bench, outcome, note="the runner has no disk")
    other = bench.session()
    if isinstance(bench, LayoutBench):
        # The original would take that marker for a claim.
        assert (other.inspect(KEY).found, other.try_claim(KEY).taken_over) == (None, None)
        return
    inspection = other.inspect(KEY)
    assert (inspection.claimed_by_other, inspection.held_by_you, inspection.marker) == (False, False, marker)
    attempt = other.try_claim(KEY)
    assert (attempt.status, attempt.taken_over) == (Status.ACQUIRED, TakenOver(marker, ClaimState(outcome.value)))


@pytest.mark.rule("C10")
def test_a_marker_ends_with_its_retention_whatever_became_of_its_writer(bench: Bench) -> None:
    finished(bench)
    bench.world.pass_time(DAY - 1)
    assert bench.session().try_claim(KEY).status is Status.DONE
    assert bench.session().prune().markers == 1
    bench.world.pass_time(1)
    pruned = bench.session().prune()
    assert (pruned.expired, pruned.markers) == (0, 0)
    assert bench.session().try_claim(KEY).status is Status.ACQUIRED


def test_a_retention_of_a_month_is_kept_for_a_month(bench: Bench) -> None:
    session = bench.session()
    granted(session)
    session.release(KEY, outcome=Outcome.DONE, retention_hours=720)
    bench.world.pass_time(29 * DAY)
    assert bench.session().try_claim(KEY).status is Status.DONE


@pytest.mark.parametrize("hours", [0, -1, 721, float("nan"), True, "24"])
def test_a_retention_out_of_range_is_refused_and_the_claim_stays(bench: Bench, hours: float) -> None:
    session = bench.session()
    granted(session)
    with pytest.raises(InvalidInputError, match="retention_hours"):
        session.release(KEY, outcome=Outcome.DONE, retention_hours=hours)
    assert session.inspect(KEY).held_by_you


def test_a_note_without_an_outcome_is_refused_as_nothing_would_keep_it(bench: Bench) -> None:
    session = bench.session()
    granted(session)
    with pytest.raises(InvalidInputError, match="note goes with an outcome"):
        session.release(KEY, note="done?")
    assert session.inspect(KEY).held_by_you


def test_only_the_holder_can_record_an_outcome(bench: Bench) -> None:
    holder = bench.session()
    granted(holder)
    release = bench.session().release(KEY, outcome=Outcome.DONE)
    assert not release.released
    assert holder.inspect(KEY).held_by_you


@pytest.mark.rule("C10")
def test_a_session_that_lost_the_claim_cannot_record_an_outcome_for_its_successor(bench: Bench) -> None:
    store = Interrupting(bench.store)
    late = bench.session(store)
    granted(late, ttl_minutes=1)
    successor = bench.session()

    def take_over() -> None:
        bench.world.pass_time(60)
        granted(successor)

    store.interrupt_with(take_over)
    release = late.release(KEY, outcome=Outcome.DONE)
    assert (store.ran, release.released, release.lost is not None) == (1, False, True)
    assert successor.inspect(KEY).held_by_you


def test_the_clock_does_not_end_a_marker_early(bench: Bench) -> None:
    finished(bench)
    bench.world.set_wall_clock(2 * DAY)
    assert bench.session().try_claim(KEY).status is Status.DONE


@pytest.mark.rule("C11")
def test_a_grant_is_in_force_until_it_is_released_or_taken_over(bench: Bench) -> None:
    first, second = bench.session(), bench.session()
    generation = granted(first, ttl_minutes=1).generation

    def in_force(number: int) -> bool | None:
        return second.inspect(KEY, generation=number).in_force

    assert (in_force(generation), in_force(generation + 1)) == (True, False)
    bench.world.pass_time(60)
    assert in_force(generation) is False
    later = granted(second).generation
    assert (in_force(generation), in_force(later)) == (False, True)
    second.release(KEY, outcome=Outcome.DONE)
    assert in_force(later) is False
    assert second.inspect(KEY).in_force is None


@pytest.mark.parametrize("generation", [0, -1, True, "1", 1.5])
def test_a_generation_that_is_none_is_refused(bench: Bench, generation: int) -> None:
    with pytest.raises(InvalidInputError, match="generation"):
        bench.session().inspect(KEY, generation=generation)


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.FAILED, Outcome.ABANDONED])
def test_a_marker_reads_back_as_it_was_written(bench: Bench, outcome: Outcome) -> None:
    marker = finished(bench, outcome)
    assert from_json(to_json(marker)) == marker
