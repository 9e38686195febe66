"""Calls of one session in several threads: one reads, another changes the key, then the first one concludes.

The grants that a session has recorded are those that `close` releases and whose loss is reported, so a conclusion
from a read that is out of date must not make it forget a claim that it has.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcp_claims.model.records import Claim
from mcp_claims.session.results import ClaimResult, Inspection, ReleaseResult, Status
from mcp_claims.session.session import Session
from tests.session.bench import HALF_AN_HOUR, KEY, Bench, granted
from tests.session.faulty import Delayed, Overtaken
from tests.support.interrupting import Interrupting

CALLS: dict[str, Callable[[Session], ClaimResult | Inspection | ReleaseResult]] = {
    "try_claim": lambda session: session.try_claim(KEY),
    "inspect": lambda session: session.inspect(KEY),
    "release": lambda session: session.release(KEY),
}


def everything_is_released_at_the_end(bench: Bench, session: Session) -> bool:
    session.close()
    return list(bench.store.scan()) == []


# Whether or not the session has lost an earlier claim on the key, which no call has reported yet.
after_a_loss = pytest.mark.parametrize("after_a_loss", [False, True], ids=["no claim before", "after a loss"])


def lose(bench: Bench, session: Session) -> None:
    granted(session)
    bench.world.pass_time(HALF_AN_HOUR)
    bench.session().prune()


@after_a_loss
@pytest.mark.parametrize("call", [CALLS["inspect"], CALLS["release"]], ids=["inspect", "release"])
def test_a_call_that_read_a_free_key_does_not_forget_what_a_parallel_call_then_claimed(
    bench: Bench, call: Callable[[Session], Inspection | ReleaseResult], after_a_loss: bool
) -> None:
    store = Overtaken(bench.store)
    session = bench.session(store)
    if after_a_loss:
        lose(bench, session)
    store.rival = lambda: granted(session)
    answer = call(session)
    assert store.ran == 1
    assert answer.lost is None
    assert everything_is_released_at_the_end(bench, session)


@after_a_loss
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_that_read_anothers_claim_does_not_forget_what_a_parallel_call_then_claimed(
    bench: Bench, call: Callable[[Session], ClaimResult | Inspection | ReleaseResult], after_a_loss: bool
) -> None:
    store = Overtaken(bench.store)
    session, holder = bench.session(store), bench.session()
    if after_a_loss:
        lose(bench, session)
    granted(holder)

    def let_the_parallel_call_in() -> None:
        holder.release(KEY)
        granted(session)

    store.rival = let_the_parallel_call_in
    answer = call(session)
    assert store.ran == 1
    assert answer.lost is None
    assert everything_is_released_at_the_end(bench, session)


def test_inspecting_an_own_expired_claim_does_not_forget_it_when_a_parallel_call_renews_it(bench: Bench) -> None:
    store = Interrupting(bench.store)
    session = bench.session(store)
    granted(session)
    bench.world.pass_time(HALF_AN_HOUR)
    store.interrupt_with(lambda: granted(session))
    inspection = session.inspect(KEY)
    assert store.ran == 1
    assert (inspection.held_by_you, inspection.lost) == (True, None)
    assert everything_is_released_at_the_end(bench, session)


def test_a_claim_that_a_parallel_call_got_first_is_renewed(bench: Bench) -> None:
    store = Interrupting(bench.store, lambda: granted(session, ttl_minutes=60))
    session = bench.session(store)
    attempt = session.try_claim(KEY, ttl_minutes=1)
    assert store.ran == 1
    assert (attempt.status, attempt.lost) == (Status.RENEWED, None)
    assert isinstance(attempt.found, Claim)
    assert attempt.found.expires.ticks - attempt.now.ticks == pytest.approx(3_600)
    assert everything_is_released_at_the_end(bench, session)


def test_a_renewal_that_meets_a_parallel_renewal_keeps_the_longer_time(bench: Bench) -> None:
    store = Interrupting(bench.store)
    session = bench.session(store)
    first = granted(session)
    store.interrupt_with(lambda: granted(session, ttl_minutes=60, note="from the other thread"))
    renewed = granted(session, ttl_minutes=45)
    assert store.ran == 1
    assert (renewed.generation, renewed.note) == (first.generation, "from the other thread")
    assert renewed.expires.ticks - renewed.claimed.ticks == pytest.approx(3_600)


def test_a_renewal_that_meets_a_parallel_release_claims_anew(bench: Bench) -> None:
    store = Interrupting(bench.store)
    session = bench.session(store)
    first = granted(session)
    store.interrupt_with(lambda: session.release(KEY))
    attempt = session.try_claim(KEY)
    assert store.ran == 1
    assert (attempt.status, attempt.lost) == (Status.ACQUIRED, None)
    assert isinstance(attempt.found, Claim)
    assert attempt.found.generation > first.generation
    assert everything_is_released_at_the_end(bench, session)


def test_a_renewal_after_a_parallel_take_over_took_over_from_nobody(bench: Bench) -> None:
    granted(bench.session())
    bench.world.pass_time(HALF_AN_HOUR)
    store = Interrupting(bench.store, lambda: granted(session))
    session = bench.session(store)
    attempt = session.try_claim(KEY)
    assert store.ran == 1
    assert (attempt.status, attempt.taken_over) == (Status.RENEWED, None)


def test_a_grant_that_is_noted_late_does_not_replace_what_parallel_calls_got_since(bench: Bench) -> None:
    store = Delayed(bench.store)
    session = bench.session(store)

    def release_and_claim_anew() -> None:
        session.release(KEY)
        granted(session)

    store.rival = release_and_claim_anew
    session.try_claim(KEY)
    assert store.ran == 1
    inspection = session.inspect(KEY)
    assert (inspection.held_by_you, inspection.lost) == (True, None)
    assert everything_is_released_at_the_end(bench, session)


@pytest.mark.parametrize("ttl_minutes", [1, 30], ids=["shorter", "equal"])
def test_a_grant_that_another_call_has_renewed_is_not_undone_with_its_cancelled_call(
    bench: Bench, ttl_minutes: float
) -> None:
    session = bench.session()
    cancelled = granted(session)
    renewed = session.try_claim(KEY, ttl_minutes=ttl_minutes)
    session.release_grant(cancelled)
    assert renewed.status is Status.RENEWED
    assert bench.store.read(cancelled.scoped) == renewed.found
    assert bench.session().try_claim(KEY).status is Status.HELD
