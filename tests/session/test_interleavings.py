"""Scripted races: a rival acts in the gap between somebody's read and the change that follows from it.

Whatever the two did, at most one agent may think that it holds the key; the other learns who does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Found, Outcome
from mcp_claims.session.results import Status
from tests.session.agents import Agent
from tests.session.bench import DAY, HALF_AN_HOUR, KEY, Bench, granted
from tests.session.faulty import Slow
from tests.support.interrupting import Interrupting


class Race:
    """Two agents on one bench; what `gap` is given happens in the gap of the first one's next change."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.gap = Interrupting(bench.store)
        self.slow = Agent(bench.world, bench.session(self.gap))
        self.fast = Agent(bench.world, bench.session())

    def apparent_holders(self) -> list[str]:
        return [agent.name for agent in (self.slow, self.fast) if agent.thinks_it_holds()]


@pytest.fixture
def race(bench: Bench) -> Race:
    return Race(bench)


def holder(found: Found) -> str:
    assert isinstance(found, Claim)
    return found.holder.name


# What the key is like when the race begins.
def free(_race: Race) -> None: ...


def expired(race: Race) -> None:
    granted(race.bench.session())
    race.bench.world.pass_time(HALF_AN_HOUR)


def orphaned(race: Race) -> None:
    holder = race.bench.session()
    granted(holder)
    race.bench.world.kill(holder)


def is_past_any_ttl(race: Race) -> None:
    race.bench.damage()
    race.bench.world.pass_time(DAY + 1)


def live_claim_of_slow(race: Race) -> None:
    race.slow.try_claim()


def expired_claim_of_slow(race: Race) -> None:
    race.slow.try_claim()
    race.bench.world.pass_time(HALF_AN_HOUR)


def expired_claim_of_fast(race: Race) -> None:
    race.fast.try_claim()
    race.bench.world.pass_time(HALF_AN_HOUR)


FREE = [free]
DEAD = [expired, orphaned, is_past_any_ttl]
OWN = [live_claim_of_slow, expired_claim_of_slow]
RIVALS = [expired_claim_of_fast]


def try_claim(agent: Agent) -> object:
    return agent.try_claim()


def inspect(agent: Agent) -> object:
    return agent.inspect()


def release(agent: Agent) -> object:
    return agent.release()


def prune(agent: Agent) -> object:
    return agent.session.prune()


# Each state in which the slow one's call changes something, so that there is a gap for the fast one.
GAPS = [
    *((state, try_claim) for state in FREE + DEAD + OWN + RIVALS),
    *((state, call) for state in [*DEAD, expired_claim_of_slow, *RIVALS] for call in (inspect, prune)),
    *((state, release) for state in OWN),
]


@pytest.mark.parametrize(
    ("state", "call"), GAPS, ids=[f"{call.__name__} of {state.__name__}".replace("_", " ") for state, call in GAPS]
)
def test_whatever_happens_in_the_gap_at_most_one_thinks_it_holds_and_the_store_agrees(
    new_bench: Callable[[], Bench], state: Callable[[Race], None], call: Callable[[Agent], object]
) -> None:
    for rival in (try_claim, inspect, release, prune):
        race = Race(new_bench())
        state(race)
        race.gap.interrupt_with(partial(rival, race.fast))
        call(race.slow)
        assert race.gap.ran == 1
        apparent_holders = race.apparent_holders()
        assert len(apparent_holders) <= 1, rival
        if try_claim in (call, rival) and state is not live_claim_of_slow:
            assert len(apparent_holders) == 1, (
                "a key that nobody live held is claimed by exactly one of those who tried"
            )
        stored = [found.holder.name for found in race.bench.store.scan() if isinstance(found, Claim)]
        assert set(apparent_holders) <= set(stored), rival


@pytest.mark.rule("C1")
@pytest.mark.parametrize("state", [*FREE, *DEAD, *OWN[1:], *RIVALS])
def test_of_two_that_both_read_a_key_as_free_or_dead_the_second_is_refused(
    race: Race, state: Callable[[Race], None]
) -> None:
    state(race)
    race.gap.interrupt_with(race.fast.try_claim)
    attempt = race.slow.try_claim()
    assert race.gap.ran == 1
    assert attempt.status is Status.HELD
    assert holder(attempt.found) == race.fast.name
    assert race.apparent_holders() == [race.fast.name]


@pytest.mark.parametrize("gap", [1, 2], ids=["before the removal", "before the claim"])
def test_of_two_that_take_over_an_unreadable_claim_the_second_is_refused_in_either_gap(race: Race, gap: int) -> None:
    is_past_any_ttl(race)
    race.gap.interrupt_with(*[lambda: None] * (gap - 1), race.fast.try_claim)
    attempt = race.slow.try_claim()
    assert race.gap.ran == gap
    assert (attempt.status, holder(attempt.found)) == (Status.HELD, race.fast.name)
    assert race.apparent_holders() == [race.fast.name]


def test_a_renewal_loses_to_the_session_that_took_the_key_after_a_parallel_release(race: Race) -> None:
    race.slow.try_claim()

    def release_and_let_the_rival_in() -> None:
        race.slow.release()
        race.fast.try_claim()

    race.gap.interrupt_with(release_and_let_the_rival_in)
    attempt = race.slow.try_claim()
    assert (race.gap.ran, attempt.status) == (1, Status.HELD)
    assert holder(attempt.found) == race.fast.name
    assert race.apparent_holders() == [race.fast.name]


def test_a_take_over_that_finds_the_key_released_in_the_gap_gets_it_all_the_same(race: Race) -> None:
    expired_claim_of_fast(race)
    race.gap.interrupt_with(race.fast.release)
    attempt = race.slow.try_claim()
    assert (race.gap.ran, attempt.status) == (1, Status.ACQUIRED)
    assert race.apparent_holders() == [race.slow.name]


def test_a_take_over_that_finds_the_key_released_in_the_gap_took_over_from_nobody(race: Race) -> None:
    expired_claim_of_fast(race)
    race.gap.interrupt_with(race.fast.release)
    assert race.slow.try_claim().taken_over is None


@pytest.mark.rule("C5")
@pytest.mark.parametrize("state", [*DEAD, expired_claim_of_slow, *RIVALS])
def test_inspect_names_the_new_holder_if_a_dead_claim_was_taken_in_the_gap(
    race: Race, state: Callable[[Race], None]
) -> None:
    state(race)
    race.gap.interrupt_with(race.fast.try_claim)
    answer = race.slow.inspect()
    assert race.gap.ran == 1
    assert holder(answer.found) == race.fast.name
    assert answer.claimed_by_other


def test_a_release_of_an_expired_claim_spares_its_taker_and_names_it(race: Race) -> None:
    expired_claim_of_slow(race)
    race.gap.interrupt_with(race.fast.try_claim)
    answer = race.slow.release()
    assert (race.gap.ran, answer.released) == (1, False)
    assert holder(answer.found) == race.fast.name
    assert race.apparent_holders() == [race.fast.name]


def test_many_rivals_in_a_row_leave_one_holder(race: Race) -> None:
    rivals = [Agent(race.bench.world, race.bench.session()) for _ in range(5)]

    def come_and_go(rival: Agent) -> None:
        rival.try_claim(ttl_minutes=1)
        race.bench.world.pass_time(60)

    race.gap.interrupt_with(*(lambda rival=rival: come_and_go(rival) for rival in rivals), race.fast.try_claim)
    attempt = race.slow.try_claim()
    assert race.gap.ran == 6
    assert holder(attempt.found) == race.fast.name
    assert [agent.name for agent in (race.slow, race.fast, *rivals) if agent.thinks_it_holds()] == [race.fast.name]


@pytest.mark.rule("T4")
@pytest.mark.parametrize("delays", [[61.0], [60.0, 90.0, 3_600.0]], ids=["once", "three times"])
@pytest.mark.parametrize("holds", [False, True], ids=["on a free key", "on an own claim"])
def test_a_claim_that_ran_out_while_waiting_for_the_lock_is_not_handed_over_dead(
    bench: Bench, delays: list[float], holds: bool
) -> None:
    store = Slow(bench.store, bench.world)
    session = bench.session(store)
    if holds:
        granted(session, ttl_minutes=1)
    store.left = list(delays)
    attempt = session.try_claim(KEY, ttl_minutes=1)
    assert store.left == []
    assert attempt.status is (Status.RENEWED if holds else Status.ACQUIRED)
    assert isinstance(attempt.found, Claim)
    assert not expiry.has_passed(attempt.found.expires, bench.session().try_claim(KEY).now)
    assert bench.session().try_claim(KEY).found == attempt.found


def test_a_claim_that_expired_while_waiting_for_the_lock_is_lost_to_the_session_that_took_it(race: Race) -> None:
    race.gap.interrupt_with(lambda: None, race.fast.try_claim)
    slow = Agent(race.bench.world, race.bench.session(Slow(race.gap, race.bench.world, 61.0)))
    attempt = slow.try_claim(ttl_minutes=1)
    assert race.gap.ran == 2
    assert (attempt.status, holder(attempt.found)) == (Status.HELD, race.fast.name)
    assert [agent.name for agent in (slow, race.fast) if agent.thinks_it_holds()] == [race.fast.name]


def test_a_loss_is_reported_even_if_the_claim_expired_while_waiting_for_the_lock(bench: Bench) -> None:
    store = Slow(bench.store, bench.world)
    session, taker = bench.session(store), bench.session()
    mine = granted(session)
    bench.world.pass_time(HALF_AN_HOUR)
    granted(taker)
    taker.release(KEY)
    store.left = [61.0]
    attempt = session.try_claim(KEY, ttl_minutes=1)
    assert (store.left, attempt.status, attempt.lost) == ([], Status.ACQUIRED, mine)


def test_a_loss_is_reported_once_even_if_the_new_claim_is_lost_too_while_waiting_for_the_lock(race: Race) -> None:
    store = Slow(race.gap, race.bench.world)
    session = race.bench.session(store)
    mine = granted(session)
    race.bench.world.pass_time(HALF_AN_HOUR)
    race.fast.session.prune()
    store.left = [61.0]
    race.gap.interrupt_with(lambda: None, race.fast.try_claim)
    attempt = session.try_claim(KEY, ttl_minutes=1)
    assert (race.gap.ran, attempt.status, attempt.lost) == (2, Status.HELD, mine)
    # The caller never heard of the claim that was granted and lost within the call, so that is no news to it.
    assert session.inspect(KEY).lost is None


@pytest.mark.rule("L3")
def test_a_claim_that_is_renewed_during_a_revocation_is_revoked(race: Race) -> None:
    claim = granted(race.fast.session)
    race.gap.interrupt_with(*(partial(race.fast.session.try_claim, KEY, ttl_minutes=each) for each in (90, 120, 150)))
    assert race.slow.session.revoke(claim)
    assert race.gap.ran == 3
    inspection = race.fast.session.inspect(KEY, generation=claim.generation)
    assert inspection.lost is not None and inspection.in_force is False
    assert race.fast.session.inspect(KEY).lost is None, "that is reported once"


@pytest.mark.rule("L3")
@pytest.mark.parametrize("outcome", [None, Outcome.DONE])
@pytest.mark.parametrize("anew", [False, True])
def test_a_key_that_is_released_or_claimed_again_during_a_revocation_stays(
    race: Race, outcome: Outcome | None, anew: bool
) -> None:
    claim = granted(race.fast.session)

    def release() -> None:
        race.fast.session.release(KEY, outcome=outcome)
        if anew:
            assert race.fast.session.try_claim(KEY, redo=True).claimed

    race.gap.interrupt_with(release)
    assert not race.slow.session.revoke(claim)
    inspection = race.slow.session.inspect(KEY, generation=claim.generation + 1)
    assert inspection.in_force is anew
