"""`try_claim`: who gets a key, who does not, and the answer of either."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import pytest

from mcp_claims.errors import ForkedError, InvalidInputError, SessionEndedError
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, ScopedKey, Unreadable
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import Status, TakenOver
from mcp_claims.session.session import Session
from tests.session.bench import DAY, HALF_AN_HOUR, KEY, Bench, granted

SCOPED = ScopedKey("default", KEY)


def test_a_free_key_is_acquired(bench: Bench) -> None:
    session = bench.session()
    attempt = session.try_claim(KEY, ttl_minutes=30, note="fixing it")
    assert (attempt.status, attempt.claimed) == (Status.ACQUIRED, True)
    assert (attempt.taken_over, attempt.lost) == (None, None)
    claim = attempt.found
    assert isinstance(claim, Claim)
    assert (claim.holder, claim.note, claim.claimed) == (session.holder, "fixing it", attempt.now)
    assert claim.expires == expiry.later(attempt.now, timedelta(minutes=30))
    assert bench.store.read(SCOPED) == claim


def test_the_holders_second_try_renews_with_the_generation_and_the_time_of_the_first(bench: Bench) -> None:
    session = bench.session()
    first = granted(session)
    bench.world.pass_time(600)
    attempt = session.try_claim(KEY, ttl_minutes=30)
    assert attempt.status is Status.RENEWED
    assert isinstance(attempt.found, Claim)
    assert (attempt.found.generation, attempt.found.claimed) == (first.generation, first.claimed)
    assert expiry.remaining(attempt.found.expires, attempt.now) == timedelta(minutes=30)
    assert bench.store.read(SCOPED) == attempt.found


@pytest.mark.rule("C3")
@pytest.mark.parametrize(
    ("ttl_minutes", "left"), [(1, 20), (20, 20), (21, 21)], ids=["shorter stays", "equal stays", "longer grows"]
)
def test_renewing_never_shortens_a_claim(bench: Bench, ttl_minutes: float, left: float) -> None:
    session = bench.session()
    granted(session, ttl_minutes=30)
    bench.world.pass_time(600)
    renewed = session.try_claim(KEY, ttl_minutes=ttl_minutes)
    assert isinstance(renewed.found, Claim)
    assert expiry.remaining(renewed.found.expires, renewed.now) == timedelta(minutes=left)
    # And so it is for others: refused until then, not a moment longer.
    bench.world.pass_time(left * 60 - 0.001)
    assert bench.session().try_claim(KEY).status is Status.HELD
    bench.world.pass_time(0.001)
    assert bench.session().try_claim(KEY).status is Status.ACQUIRED


@pytest.mark.parametrize(
    ("note", "kept"),
    [(None, "first"), ("", "first"), (" \n ", "first"), ("second", "second")],
    ids=["none keeps", "empty keeps", "blank keeps", "another replaces"],
)
def test_a_renewal_keeps_the_note_unless_it_brings_another(bench: Bench, note: str | None, kept: str) -> None:
    session = bench.session()
    granted(session, note="first")
    assert granted(session, note=note).note == kept


def test_another_session_is_refused_with_the_holder_and_changes_nothing(bench: Bench) -> None:
    claim = granted(bench.session(), note="mine")
    before = bench.contents()
    bench.world.pass_time(60)
    attempt = bench.session().try_claim(KEY, ttl_minutes=60, note="no, mine")
    assert (attempt.status, attempt.claimed, attempt.found) == (Status.HELD, False, claim)
    assert (attempt.taken_over, attempt.lost) == (None, None)
    assert bench.contents() == before


def test_keys_and_namespaces_are_held_one_by_one(bench: Bench) -> None:
    granted(bench.session())
    other = bench.session()
    assert other.try_claim(KEY + "!").status is Status.ACQUIRED
    assert other.try_claim(KEY, "another").status is Status.ACQUIRED


@pytest.mark.rule("P1")
def test_two_sessions_of_one_process_exclude_each_other(bench: Bench) -> None:
    machine = bench.world.process()
    first, second = process_session(bench.store, machine), process_session(bench.store, machine)
    claim = granted(first)
    refused = second.try_claim(KEY)
    assert (refused.status, refused.found) == (Status.HELD, claim)
    assert not second.release(KEY).released
    assert first.release(KEY).released
    assert second.try_claim(KEY).status is Status.ACQUIRED


def expire(bench: Bench, _holder: Session) -> None:
    bench.world.pass_time(HALF_AN_HOUR)


def kill(bench: Bench, holder: Session) -> None:
    bench.world.kill(holder)


def kill_and_expire(bench: Bench, holder: Session) -> None:
    kill(bench, holder)
    expire(bench, holder)


@pytest.mark.rule("C2")
@pytest.mark.parametrize(
    ("die", "why"),
    [(expire, ClaimState.EXPIRED), (kill, ClaimState.ORPHANED), (kill_and_expire, ClaimState.EXPIRED)],
    ids=["expired", "orphaned", "both"],
)
def test_a_dead_claim_is_taken_over_at_once_and_the_answer_has_from_whom_and_why(
    bench: Bench, die: Callable[[Bench, Session], None], why: ClaimState
) -> None:
    holder, taker = bench.session(), bench.session()
    dead = granted(holder, note="theirs")
    die(bench, holder)
    attempt = taker.try_claim(KEY)
    assert attempt.status is Status.ACQUIRED
    assert attempt.taken_over == TakenOver(dead, why)
    assert isinstance(attempt.found, Claim)
    assert (attempt.found.holder, attempt.found.note) == (taker.holder, None)
    assert attempt.found.generation > dead.generation
    assert attempt.found.claimed == attempt.now


def test_generations_grow_with_every_holder_also_across_releases(bench: Bench) -> None:
    generations = []
    for _ in range(4):
        holder = bench.session()
        generations.append(granted(holder).generation)
        holder.release(KEY)
        generations.append(granted(bench.session(), ttl_minutes=1).generation)
        bench.world.pass_time(60)
    assert generations == sorted(set(generations))


@pytest.mark.rule("C3")
def test_an_own_expired_claim_that_nobody_took_is_renewed_with_its_generation(bench: Bench) -> None:
    session = bench.session()
    first = granted(session)
    bench.world.pass_time(DAY)
    attempt = session.try_claim(KEY, ttl_minutes=5)
    assert (attempt.status, attempt.lost, attempt.taken_over) == (Status.RENEWED, None, None)
    assert isinstance(attempt.found, Claim)
    assert (attempt.found.generation, attempt.found.claimed) == (first.generation, first.claimed)
    assert expiry.remaining(attempt.found.expires, attempt.now) == timedelta(minutes=5)


@pytest.mark.rule("T2")
def test_a_claim_of_another_boot_is_held_until_the_wall_clock_says_that_it_expired(bench: Bench) -> None:
    # It may be another machine's: nothing here proves its holder dead, and its ticks mean nothing.
    claim = granted(bench.session())
    bench.world.reboot()
    bench.world.pass_time(HALF_AN_HOUR - 0.001)
    refused = bench.session().try_claim(KEY)
    assert (refused.status, refused.found) == (Status.HELD, claim)
    bench.world.pass_time(0.001)
    assert bench.session().try_claim(KEY).taken_over == TakenOver(claim, ClaimState.EXPIRED)


@pytest.mark.parametrize("ttl_minutes", [1 / 60, 1, 1_440], ids=["a second", "a minute", "a day"])
def test_a_claim_is_held_up_to_its_ttl_and_at_the_instant_of_its_ttl_no_more(bench: Bench, ttl_minutes: float) -> None:
    granted(bench.session(), ttl_minutes=ttl_minutes)
    bench.world.pass_time(ttl_minutes * 60 - 0.001)
    assert bench.session().try_claim(KEY).status is Status.HELD
    bench.world.pass_time(0.001)
    assert bench.session().try_claim(KEY).status is Status.ACQUIRED


BAD_INPUT: dict[str, tuple[str, Callable[[Session], object]]] = {
    "empty key": ("key", lambda session: session.try_claim("")),
    "line break in key": ("key", lambda session: session.try_claim(f"{KEY}\n")),
    "direction override in key": ("key", lambda session: session.try_claim(f"\u202e{KEY}")),
    "half a surrogate in key": ("key", lambda session: session.try_claim("\ud800")),
    "key too long": ("key", lambda session: session.try_claim("é" * 513)),
    "empty namespace": ("namespace", lambda session: session.try_claim(KEY, "")),
    "NUL in namespace": ("namespace", lambda session: session.try_claim(KEY, "a\0b")),
    "no ttl": ("ttl_minutes", lambda session: session.try_claim(KEY, ttl_minutes=0)),
    "negative ttl": ("ttl_minutes", lambda session: session.try_claim(KEY, ttl_minutes=-1)),
    "ttl under a second": ("ttl_minutes", lambda session: session.try_claim(KEY, ttl_minutes=0.0166)),
    "ttl over a day": ("ttl_minutes", lambda session: session.try_claim(KEY, ttl_minutes=1_440.001)),
    "ttl NaN": ("ttl_minutes", lambda session: session.try_claim(KEY, ttl_minutes=float("nan"))),
    "ttl infinite": ("ttl_minutes", lambda session: session.try_claim(KEY, ttl_minutes=float("inf"))),
    "note too long": ("note", lambda session: session.try_claim(KEY, note="n" * 501)),
}


@pytest.mark.rule("C9")
@pytest.mark.parametrize("holds", [False, True], ids=["on a free key", "on an own claim"])
def test_bad_input_names_its_field_and_changes_nothing(bench: Bench, holds: bool) -> None:
    session = bench.session()
    if holds:
        granted(session, note="before")
    before = bench.contents()
    bench.world.pass_time(1)
    for name, (field, call) in BAD_INPUT.items():
        with pytest.raises(InvalidInputError) as error:
            call(session)
        assert (error.value.field, bench.contents()) == (field, before), name


def test_an_unreadable_claim_is_held_until_it_is_older_than_any_ttl_and_then_taken_over(bench: Bench) -> None:
    holder, other = bench.session(), bench.session()
    generation = granted(holder).generation
    bench.damage()
    damaged = bench.contents()
    young = other.try_claim(KEY)
    assert young.status is Status.HELD
    assert isinstance(young.found, Unreadable)
    for seconds in (HALF_AN_HOUR, DAY - HALF_AN_HOUR):
        bench.world.pass_time(seconds)
        attempt = other.try_claim(KEY)
        assert (attempt.status, attempt.found) == (Status.HELD, young.found)
    assert bench.contents() == damaged

    bench.world.pass_time(0.001)
    attempt = other.try_claim(KEY)
    assert attempt.status is Status.ACQUIRED
    assert attempt.taken_over == TakenOver(young.found, ClaimState.EXPIRED)
    assert isinstance(attempt.found, Claim)
    assert attempt.found.generation > generation


@pytest.mark.rule("P5")
def test_a_forked_child_cannot_use_its_parents_session(bench: Bench) -> None:
    session = process_session(bench.store)
    granted(session)
    calls: list[Callable[[], object]] = [
        lambda: session.try_claim(KEY),
        lambda: session.inspect(KEY),
        lambda: session.release(KEY),
        session.prune,
    ]
    if not (child := os.fork()):
        # Whatever happens, the child must not go on as a second pytest.
        refused = 0
        try:
            for call in calls:
                try:
                    call()
                except ForkedError:
                    refused += 1
        finally:
            os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == len(calls)
    assert session.inspect(KEY).held_by_you


def test_an_ended_session_claims_nothing(bench: Bench) -> None:
    session = bench.session()
    session.close()
    before = bench.contents()
    with pytest.raises(SessionEndedError):
        session.try_claim(KEY)
    assert bench.contents() == before
