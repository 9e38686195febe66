"""`renew` extends one grant and never claims anew; `revoke` takes a claim by force and leaves a marker that says so."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mcp_claims.errors import ContendedError, InvalidInputError, StoreBusyError
from mcp_claims.model.records import Claim, Ended, Maker, Outcome, Unreadable
from mcp_claims.model.validation import DEFAULT_RETENTION, MAX_NOTE_CHARACTERS
from tests.session.bench import HALF_AN_HOUR, KEY, Bench, LayoutBench, MemoryBench, granted
from tests.session.faulty import Busy, Changing
from tests.support.interrupting import Interrupting

HOURS = timedelta(hours=2)


def test_a_renewal_extends_the_grant_by_the_ttl_from_now_and_keeps_the_rest(bench: Bench) -> None:
    session = bench.session()
    grant = granted(session, note="on it")
    bench.world.pass_time(HALF_AN_HOUR / 2)
    renewed = session.renew(grant, HOURS)
    assert renewed is not None and bench.store.read(grant.scoped) == renewed
    assert renewed.expires.ticks == session.now().ticks + HOURS.total_seconds()
    assert renewed._replace(expires=grant.expires, ttl=grant.ttl) == grant


@pytest.mark.rule("C3", "L10")
def test_a_person_moves_the_end_of_a_claim_to_an_earlier_time_and_nobody_else_does(bench: Bench) -> None:
    for maker in Maker:
        session = bench.session()
        session.maker = maker
        grant = granted(session, f"{KEY} {maker}", ttl_minutes=120)
        again = session.try_claim(f"{KEY} {maker}", ttl_minutes=60).found
        assert isinstance(again, Claim) and (again.generation, again.maker) == (grant.generation, maker)
        assert (again.expires.ticks < grant.expires.ticks) is (maker is Maker.PERSON)


def test_a_claim_that_was_released_taken_over_or_claimed_anew_is_not_renewed(bench: Bench) -> None:
    session, rival = bench.session(), bench.session()
    grant = granted(session)
    session.release(KEY)
    assert session.renew(grant, HOURS) is None and bench.store.read(grant.scoped) is None
    anew = granted(session)
    assert session.renew(grant, HOURS) is None and bench.store.read(grant.scoped) == anew
    bench.world.kill(session)
    theirs = granted(rival)
    assert session.renew(anew, HOURS) is None and bench.store.read(grant.scoped) == theirs


def test_the_marker_of_a_grant_that_is_done_is_not_renewed(bench: Bench) -> None:
    session = bench.session()
    grant = granted(session)
    assert session.release(KEY, outcome="done").released
    before = bench.contents()
    assert session.renew(grant, HOURS) is None and bench.contents() == before


def test_a_renewal_that_meets_another_of_the_same_grant_goes_on_from_that(bench: Bench) -> None:
    store = Interrupting(bench.store)
    session = bench.session(store)
    grant = granted(session)
    store.interrupt_with(lambda: session.try_claim(KEY, note="nearly done"))
    renewed = session.renew(grant, HOURS)
    assert renewed is not None and renewed.note == "nearly done"


def test_a_renewal_that_meets_a_release_and_a_new_holder_is_lost(bench: Bench) -> None:
    store = Interrupting(bench.store)
    session, rival = bench.session(store), bench.session()
    grant = granted(session)
    bench.world.pass_time(2 * HALF_AN_HOUR)
    store.interrupt_with(lambda: rival.try_claim(KEY))
    assert session.renew(grant, HOURS) is None
    assert rival.inspect(KEY).held_by_you


def test_a_renewal_never_waits_for_a_lock(bench: Bench) -> None:
    store = Busy(bench.store)
    store.idle = True
    session = bench.session(store)
    grant = granted(session)
    store.idle = False
    with pytest.raises(StoreBusyError):
        session.renew(grant, HOURS)
    assert store.waits == [0]


@pytest.mark.rule("L3")
@pytest.mark.parametrize(("reason", "after"), [(None, ""), ("it hangs", ": it hangs")])
def test_a_revocation_leaves_who_held_it_who_revoked_it_and_why(bench: Bench, reason: str | None, after: str) -> None:
    holder, person, next_one = bench.session(), bench.session(), bench.session()
    claim = granted(holder)
    bench.world.pass_time(1)
    assert person.revoke(claim, reason)
    marker = next_one.inspect(KEY).marker
    if isinstance(bench, LayoutBench):
        assert marker is None, "the original would take it for a claim"
        return
    assert marker is not None and marker.generation > claim.generation
    assert (marker.holder.name, marker.claimed) == (person.holder.name, claim.claimed)
    assert marker.note == f"revoked from {holder.holder.name}{after}"
    assert marker.ended == Ended(Outcome.REVOKED, person.now())
    assert marker.expires.ticks == person.now().ticks + DEFAULT_RETENTION.total_seconds()
    assert not person.revoke(claim), "it is stored no more"
    assert next_one.try_claim(KEY).claimed


def test_the_reason_is_checked_first_and_the_marker_s_note_has_the_length_of_a_note() -> None:
    bench = MemoryBench()
    holder, person = bench.session(), bench.session()
    claim = granted(holder)
    with pytest.raises(InvalidInputError):
        person.revoke(claim, "x" * (MAX_NOTE_CHARACTERS + 1))
    assert bench.store.read(claim.scoped) == claim
    assert person.revoke(claim, "x" * MAX_NOTE_CHARACTERS)
    marker = person.inspect(KEY).marker
    assert marker is not None and marker.note is not None and len(marker.note) == MAX_NOTE_CHARACTERS


def test_what_cannot_be_read_is_removed_by_a_revocation_once(bench: Bench) -> None:
    claim = granted(bench.session())
    bench.damage()
    found = bench.store.read(claim.scoped)
    assert isinstance(found, Unreadable)
    assert bench.session().revoke(found)
    assert bench.store.read(claim.scoped) is None
    assert not bench.session().revoke(found)


def test_a_revocation_waits_as_long_as_asked_for_a_lock(bench: Bench) -> None:
    claim = granted(bench.session())
    store = Busy(bench.store)
    with pytest.raises(StoreBusyError):
        bench.session(store).revoke(claim, lock_timeout=0.01)
    bench.damage()
    found = bench.store.read(claim.scoped)
    assert isinstance(found, Unreadable)
    with pytest.raises(StoreBusyError):
        bench.session(store).revoke(found, lock_timeout=0.01)
    assert store.waits == [0.01, 0.01]


def test_a_revocation_against_endless_renewals_is_an_error_that_names_the_key(bench: Bench) -> None:
    claim = granted(bench.session())
    with pytest.raises(ContendedError, match=KEY):
        bench.session(Changing(bench.store)).revoke(claim)
