"""`release` ends one's own claim and nothing else; `inspect` reads and claims nothing."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.records import Claim, Found, Unreadable
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Swap
from tests.session.bench import DAY, HALF_AN_HOUR, KEY, Bench, granted
from tests.session.faulty import Busy, Overtaken
from tests.support.interrupting import Interrupting


def test_the_holder_releases_and_the_key_is_free_at_once(bench: Bench) -> None:
    session = bench.session()
    claim = granted(session)
    release = session.release(KEY)
    assert (release.released, release.found, release.lost) == (True, claim, None)
    assert list(bench.store.scan()) == []
    assert bench.session().try_claim(KEY).status is Status.ACQUIRED


def test_a_release_leaves_the_holders_other_claims_alone(bench: Bench) -> None:
    session = bench.session()
    granted(session)
    others = [session.try_claim(KEY, "another").found, session.try_claim("another").found]
    session.release(KEY)
    assert sorted(bench.store.scan(), key=str) == sorted(filter(None, others), key=str)


def test_a_second_release_says_that_there_is_nothing(bench: Bench) -> None:
    session = bench.session()
    granted(session)
    session.release(KEY)
    again = session.release(KEY)
    assert (again.released, again.found, again.lost) == (False, None, None)


def somebody_holds(bench: Bench) -> Found:
    return granted(bench.session())


def somebody_dead_held(bench: Bench) -> Found:
    holder = bench.session()
    claim = granted(holder)
    bench.world.kill(holder)
    return claim


def nothing_is_there(_bench: Bench) -> Found:
    return None


def it_cannot_be_read(bench: Bench) -> Found:
    granted(bench.session())
    bench.damage()
    return next(bench.store.scan())


@pytest.mark.rule("C4")
@pytest.mark.parametrize("there", [somebody_holds, somebody_dead_held, nothing_is_there, it_cannot_be_read])
def test_another_sessions_claim_is_not_released_but_named(bench: Bench, there: Callable[[Bench], Found]) -> None:
    found = there(bench)
    before = bench.contents()
    release = bench.session().release(KEY)
    assert (release.released, release.found, release.lost) == (False, found, None)
    assert bench.contents() == before


@pytest.mark.rule("C4")
def test_a_release_spares_the_claim_of_a_later_holder(bench: Bench) -> None:
    store = Interrupting(bench.store)
    holder, rival = bench.session(store), bench.session()
    mine = granted(holder)
    bench.world.pass_time(HALF_AN_HOUR)
    store.interrupt_with(lambda: rival.try_claim(KEY))
    release = holder.release(KEY)
    assert store.ran == 1
    assert (release.released, release.lost) == (False, mine)
    assert isinstance(release.found, Claim)
    assert release.found.holder == rival.holder
    assert rival.inspect(KEY).held_by_you


@pytest.mark.rule("C4")
def test_a_release_spares_what_a_parallel_call_of_the_same_session_took_anew(bench: Bench) -> None:
    store = Interrupting(bench.store)
    session = bench.session(store)
    first = granted(session)

    def retake() -> None:
        session.release(KEY)
        granted(session)

    store.interrupt_with(retake)
    release = session.release(KEY)
    assert store.ran == 1
    assert (release.released, release.lost) == (False, None)
    assert isinstance(release.found, Claim)
    assert release.found.generation > first.generation
    assert list(bench.store.scan()) == [release.found]
    assert session.close() == 1


def test_a_release_takes_the_claim_that_a_parallel_call_renewed(bench: Bench) -> None:
    store = Interrupting(bench.store)
    session = bench.session(store)
    granted(session)
    store.interrupt_with(lambda: session.try_claim(KEY, ttl_minutes=60))
    assert session.release(KEY).released
    assert store.ran == 1
    assert list(bench.store.scan()) == []


def test_inspecting_a_free_key_creates_nothing(bench: Bench) -> None:
    before = bench.contents()
    inspection = bench.session().inspect(KEY)
    assert (inspection.found, inspection.held_by_you, inspection.claimed_by_other) == (None, False, False)
    assert bench.contents() == before


def test_inspect_distinguishes_ones_own_claim_from_anothers_and_changes_neither(bench: Bench) -> None:
    holder = bench.session()
    claim = granted(holder)
    before = bench.contents()
    own, others = holder.inspect(KEY), bench.session().inspect(KEY)
    assert (own.found, own.held_by_you, own.claimed_by_other) == (claim, True, False)
    assert (others.found, others.held_by_you, others.claimed_by_other) == (claim, False, True)
    assert bench.contents() == before


def test_inspect_counts_an_unreadable_claim_as_another_sessions(bench: Bench) -> None:
    it_cannot_be_read(bench)
    before = bench.contents()
    inspection = bench.session().inspect(KEY)
    assert isinstance(inspection.found, Unreadable)
    assert inspection.claimed_by_other
    assert bench.contents() == before


def expire(bench: Bench, _holder: Session) -> None:
    bench.world.pass_time(HALF_AN_HOUR)


def kill(bench: Bench, holder: Session) -> None:
    bench.world.kill(holder)


def damage_and_wait(bench: Bench, _holder: Session) -> None:
    bench.damage()
    bench.world.pass_time(DAY + 1)


@pytest.mark.rule("C5")
@pytest.mark.parametrize("die", [expire, kill, damage_and_wait])
def test_inspect_removes_a_dead_claim(bench: Bench, die: Callable[[Bench, Session], None]) -> None:
    holder = bench.session()
    granted(holder)
    die(bench, holder)
    inspection = bench.session().inspect(KEY)
    assert (inspection.found, inspection.claimed_by_other, inspection.lost) == (None, False, None)
    assert list(bench.store.scan()) == []


@pytest.mark.parametrize("die", [expire, kill, damage_and_wait])
def test_inspect_does_not_remove_a_key_that_was_claimed_again_since_it_read(
    bench: Bench, die: Callable[[Bench, Session], None]
) -> None:
    holder, taker = bench.session(), bench.session()
    granted(holder)
    die(bench, holder)
    store = Overtaken(bench.store, lambda: granted(taker))
    inspection = bench.session(store).inspect(KEY)
    assert store.ran == 1
    assert isinstance(inspection.found, Claim)
    assert (inspection.found.holder, inspection.claimed_by_other) == (taker.holder, True)
    assert taker.inspect(KEY).held_by_you


@pytest.mark.rule("C5")
def test_inspect_answers_without_waiting_if_it_cannot_remove_a_dead_claim(bench: Bench) -> None:
    claim = granted(bench.session())
    bench.world.pass_time(HALF_AN_HOUR)
    busy = Busy(bench.store)
    inspection = bench.session(busy).inspect(KEY)
    assert (inspection.found, inspection.claimed_by_other) == (None, False)
    assert busy.waits == [0]
    assert list(bench.store.scan()) == [claim]


# How a session loses a claim without releasing it, and who is there instead afterwards.
def to_a_taker(bench: Bench) -> str | None:
    bench.world.pass_time(HALF_AN_HOUR)
    return granted(bench.session()).holder.name


def to_nobody(bench: Bench) -> str | None:
    bench.world.pass_time(HALF_AN_HOUR)
    assert bench.session().prune().expired == 1
    return None


def to_a_taker_who_is_done(bench: Bench) -> str | None:
    bench.world.pass_time(HALF_AN_HOUR)
    taker = bench.session()
    granted(taker)
    assert taker.release(KEY).released
    return None


def to_a_damaged_record(bench: Bench) -> str | None:
    bench.damage()
    return "damaged"


def asked(call: str, session: Session) -> tuple[Found, Claim | None]:
    """Make *call*; return what is there and the lost claim that the session reports."""
    if call == "try_claim":
        attempt = session.try_claim(KEY)
        return attempt.found, attempt.lost
    if call == "is_claimed_by_other":
        inspection = session.inspect(KEY)
        return inspection.found, inspection.lost
    release = session.release(KEY)
    return release.found, release.lost


@pytest.mark.rule("C7")
@pytest.mark.parametrize("call", ["try_claim", "is_claimed_by_other", "release"])
@pytest.mark.parametrize("lose", [to_a_taker, to_nobody, to_a_taker_who_is_done, to_a_damaged_record])
def test_the_next_call_about_a_lost_claim_reports_it_once_and_names_the_holder(
    bench: Bench, lose: Callable[[Bench], str | None], call: str
) -> None:
    session = bench.session()
    mine = granted(session)
    heir = lose(bench)
    found, lost = asked(call, session)
    assert lost == mine
    match found:
        case Claim():
            # A free key is the asker's own again, under a new generation.
            assert found.holder.name == (heir or session.holder.name)
            assert found.generation > mine.generation
        case Unreadable():
            assert heir == "damaged"
        case None:
            assert heir is None
    for again in ("try_claim", "is_claimed_by_other", "release"):
        assert asked(again, session)[1] is None


def test_inspect_reports_an_own_expired_claim_as_lost_when_it_removes_it(bench: Bench) -> None:
    session = bench.session()
    mine = granted(session)
    bench.world.pass_time(HALF_AN_HOUR)
    inspection = session.inspect(KEY)
    assert (inspection.found, inspection.held_by_you, inspection.lost) == (None, False, mine)
    assert session.inspect(KEY).lost is None


def test_an_own_claim_that_expired_but_is_still_there_can_be_released(bench: Bench) -> None:
    session = bench.session()
    mine = granted(session)
    bench.world.pass_time(HALF_AN_HOUR)
    release = session.release(KEY)
    assert (release.released, release.found, release.lost) == (True, mine, None)


def test_a_call_about_another_key_does_not_use_up_the_report_of_a_loss(bench: Bench) -> None:
    session = bench.session()
    mine = granted(session)
    to_a_taker(bench)
    assert session.try_claim("another").lost is None
    assert session.try_claim(KEY, "another").lost is None
    assert session.try_claim(KEY).lost == mine


@pytest.mark.rule("C7")
@pytest.mark.parametrize("outcome_unknown", [False, True])
def test_a_loss_after_a_release_that_failed_is_reported_unless_that_release_may_have_been_made(
    bench: Bench, outcome_unknown: bool
) -> None:
    session, other = bench.session(), bench.session()
    mine = granted(session)

    def no_answer(*_: object, **__: object) -> Swap:
        raise StoreUnavailableError("somewhere", OSError(errno.EIO, "no answer"), outcome_unknown)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.store, "swap", no_answer)
        patch.setattr(bench.store, "swap_all", no_answer)
        with pytest.raises(StoreUnavailableError):
            session.release(KEY)
    assert other.revoke(mine, "it hangs")
    assert session.inspect(KEY).lost == (None if outcome_unknown else mine)
