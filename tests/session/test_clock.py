"""Clocks: the wall clock may be set at will, the computer may sleep, and it may be started anew.

Within one boot a claim lives exactly as long as it was granted for.  Only across boots does the wall clock decide,
since nothing else is left.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Moment, Unreadable
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import PruneResult, Status, TakenOver
from mcp_claims.session.session import Session
from mcp_claims.stores.files.store import FileStore
from tests.session.bench import DAY, HALF_AN_HOUR, KEY, Bench, granted
from tests.support.machines import World

YEAR = 365 * DAY
JUST_BEFORE, THE_REST = HALF_AN_HOUR - 0.001, 0.001

steps = pytest.mark.parametrize(
    "step", [DAY, -DAY, YEAR, -YEAR], ids=["a day on", "a day back", "a year on", "a year back"]
)


def left(session: Session) -> timedelta:
    """Return how long the claim on the key still lives, by the answer to *session*."""
    inspection = session.inspect(KEY)
    assert isinstance(inspection.found, Claim)
    return expiry.remaining(inspection.found.expires, inspection.now)


@pytest.mark.rule("T1")
@steps
def test_a_live_claim_outlives_a_step_of_the_wall_clock_until_its_time_has_passed(bench: Bench, step: float) -> None:
    claim = granted(bench.session())
    bench.world.set_wall_clock(step)
    for seconds in (0.0, JUST_BEFORE):
        bench.world.pass_time(seconds)
        attempt = bench.session().try_claim(KEY)
        assert (attempt.status, attempt.found) == (Status.HELD, claim)
        assert bench.session().inspect(KEY).claimed_by_other
        assert bench.session().prune() == PruneResult(0, 0, 0, 1, (), ())
    bench.world.pass_time(THE_REST)
    assert bench.session().try_claim(KEY).taken_over == TakenOver(claim, ClaimState.EXPIRED)


@steps
def test_an_expired_claim_does_not_come_back_to_life_by_a_step(bench: Bench, step: float) -> None:
    holder = bench.session()
    claim = granted(holder)
    bench.world.pass_time(HALF_AN_HOUR)
    bench.world.set_wall_clock(step)
    attempt = bench.session().try_claim(KEY)
    assert (attempt.status, attempt.taken_over) == (Status.ACQUIRED, TakenOver(claim, ClaimState.EXPIRED))
    assert not holder.inspect(KEY).held_by_you


@steps
def test_an_expired_claim_is_swept_and_pruned_after_a_step(bench: Bench, step: float) -> None:
    granted(bench.session(), "swept")
    granted(bench.session(), "pruned")
    bench.world.pass_time(HALF_AN_HOUR)
    bench.world.set_wall_clock(step)
    assert bench.session().inspect("swept").found is None
    assert bench.session().prune() == PruneResult(1, 0, 0, 0, (), ())


@steps
def test_every_session_gets_the_same_time_left_whatever_the_wall_clock_does(bench: Bench, step: float) -> None:
    holder, other = bench.session(), bench.session()
    granted(holder)
    bench.world.pass_time(600)
    bench.world.set_wall_clock(step)
    assert left(holder) == left(other) == timedelta(minutes=20)
    refused = other.try_claim(KEY)
    assert isinstance(refused.found, Claim)
    assert expiry.remaining(refused.found.expires, refused.now) == timedelta(minutes=20)
    bench.world.set_wall_clock(-step)
    assert left(holder) == left(other) == timedelta(minutes=20)


@steps
@pytest.mark.parametrize(("ttl_minutes", "expected"), [(5, 20), (40, 40)], ids=["shorter", "longer"])
def test_a_renewal_after_a_step_neither_shortens_nor_stretches(
    bench: Bench, step: float, ttl_minutes: float, expected: int
) -> None:
    holder = bench.session()
    granted(holder)
    bench.world.pass_time(600)
    bench.world.set_wall_clock(step)
    assert holder.try_claim(KEY, ttl_minutes=ttl_minutes).status is Status.RENEWED
    assert left(bench.session()) == timedelta(minutes=expected)


def test_a_renewal_writes_the_new_wall_clock_beside_the_new_time(bench: Bench) -> None:
    holder = bench.session()
    granted(holder)
    bench.world.set_wall_clock(YEAR)
    renewed = granted(holder, ttl_minutes=40)
    assert renewed.expires.wall == bench.world.wall + timedelta(minutes=40)


def test_a_claim_of_a_killed_holder_is_free_at_once_whatever_the_wall_clock_says(bench: Bench) -> None:
    holder = bench.session()
    claim = granted(holder)
    bench.world.set_wall_clock(-YEAR)
    bench.world.kill(holder)
    assert bench.session().try_claim(KEY).taken_over == TakenOver(claim, ClaimState.ORPHANED)


def test_time_asleep_counts(bench: Bench) -> None:
    holder = bench.session()
    granted(holder)
    # `pass_time` is what CLOCK_BOOTTIME does over a suspend: both clocks have moved when they are next read.
    bench.world.pass_time(8 * 60 * 60)
    other = bench.session()
    assert other.try_claim(KEY).status is Status.ACQUIRED
    attempt = holder.try_claim(KEY)
    assert (attempt.status, attempt.lost is not None) == (Status.HELD, True)


@steps
def test_time_asleep_counts_and_what_the_clock_was_set_to_meanwhile_does_not(bench: Bench, step: float) -> None:
    holder, other = bench.session(), bench.session()
    claim = granted(holder)
    bench.world.pass_time(JUST_BEFORE)
    bench.world.set_wall_clock(step)
    assert left(holder) == left(other) == timedelta(milliseconds=1)
    assert other.try_claim(KEY).status is Status.HELD
    bench.world.set_wall_clock(-step)
    bench.world.pass_time(THE_REST)
    assert other.try_claim(KEY).taken_over == TakenOver(claim, ClaimState.EXPIRED)


@steps
def test_who_wakes_up_in_time_renews_for_as_long_as_it_asks(bench: Bench, step: float) -> None:
    holder, other = bench.session(), bench.session()
    claim = granted(holder)
    bench.world.pass_time(JUST_BEFORE)
    bench.world.set_wall_clock(step)
    assert granted(holder).generation == claim.generation
    bench.world.pass_time(JUST_BEFORE)
    assert other.try_claim(KEY).status is Status.HELD
    bench.world.pass_time(THE_REST)
    assert other.try_claim(KEY).status is Status.ACQUIRED


class LaterMachine:
    """A machine as it is after *asleep* seconds, and with its wall clock off by *set_by*."""

    def __init__(self, machine: Machine, *, asleep: float, set_by: float) -> None:
        self._asleep, self._set_by = asleep, set_by
        self._now = machine.now
        self.host, self.pid = machine.host, machine.pid
        self.proof, self.provably_dead = machine.proof, machine.provably_dead
        self.watch_exit, self.programs_above, self.peers = machine.watch_exit, machine.programs_above, machine.peers

    def now(self) -> Moment:
        now = self._now()
        return Moment(now.wall + timedelta(seconds=self._asleep + self._set_by), now.ticks + self._asleep, now.epoch)


@steps
def test_on_this_very_machine_a_stored_claim_lives_by_the_clock_that_cannot_be_set(tmp_path: Path, step: float) -> None:
    store, machine = FileStore(tmp_path / "claims"), local_machine()
    if machine.now().epoch is None:
        pytest.skip("has no clock that cannot be set")
    claim = granted(process_session(store, machine))

    def later(asleep: float) -> Session:
        return process_session(store, LaterMachine(machine, asleep=asleep, set_by=step))

    assert later(0).try_claim(KEY).found == later(HALF_AN_HOUR - 60).try_claim(KEY).found == claim
    assert later(HALF_AN_HOUR - 60).prune() == PruneResult(0, 0, 0, 1, (), ())
    assert later(HALF_AN_HOUR).try_claim(KEY).taken_over == TakenOver(claim, ClaimState.EXPIRED)


def a_shorter_uptime(world: World) -> None:
    world.reboot()


def a_longer_uptime(world: World) -> None:
    world.reboot()
    world.ticks += YEAR


@pytest.mark.parametrize("restart", [a_shorter_uptime, a_longer_uptime])
def test_after_a_reboot_the_wall_clock_decides_and_the_ticks_mean_nothing(
    bench: Bench, restart: Callable[[World], None]
) -> None:
    claim = granted(bench.session())
    bench.world.pass_time(60)
    restart(bench.world)
    assert left(bench.session()) == timedelta(minutes=29)
    bench.world.pass_time(JUST_BEFORE - 60)
    assert bench.session().try_claim(KEY).status is Status.HELD
    bench.world.pass_time(THE_REST)
    assert bench.session().try_claim(KEY).taken_over == TakenOver(claim, ClaimState.EXPIRED)


@pytest.mark.parametrize(
    ("step", "status"), [(DAY, Status.ACQUIRED), (-DAY, Status.HELD)], ids=["a day on", "a day back"]
)
def test_a_step_after_a_reboot_moves_what_was_claimed_before_it(bench: Bench, step: float, status: Status) -> None:
    granted(bench.session())
    bench.world.reboot()
    bench.world.set_wall_clock(step)
    assert bench.session().try_claim(KEY).status is status


def test_a_recycled_pid_after_a_reboot_neither_keeps_nor_frees_an_old_claim(bench: Bench) -> None:
    holder = bench.session()
    granted(holder)
    bench.world.reboot()
    bench.world.alive.add((bench.world.boot, holder.holder.pid))
    assert bench.session().try_claim(KEY).status is Status.HELD
    bench.world.pass_time(HALF_AN_HOUR)
    assert bench.session().try_claim(KEY).status is Status.ACQUIRED


@pytest.mark.parametrize("step", [-DAY, -YEAR], ids=["a day back", "a year back"])
def test_what_cannot_be_read_stays_held_longer_when_the_wall_clock_steps_back(bench: Bench, step: float) -> None:
    granted(bench.session())
    bench.damage()
    bench.world.set_wall_clock(step)
    bench.world.pass_time(DAY + 1)
    attempt = bench.session().try_claim(KEY)
    assert attempt.status is Status.HELD
    assert isinstance(attempt.found, Unreadable)
    bench.world.pass_time(-step)
    assert bench.session().try_claim(KEY).status is Status.ACQUIRED


def test_a_renewal_that_keeps_the_longer_time_writes_it_by_the_clock_of_today(bench: Bench) -> None:
    session = bench.session()
    granted(session, ttl_minutes=60)
    bench.world.set_wall_clock(-365 * DAY)
    granted(session, ttl_minutes=30)
    bench.world.reboot()
    bench.world.pass_time(61 * 60)
    assert bench.session().try_claim(KEY).claimed
