"""Keep-alive: what is renewed and when, and how the loss of a claim is noticed between renewals."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from mcp_claims.errors import StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.model.records import Found, ScopedKey
from mcp_claims.session.keepalive import KeepAlive, KeepAliveThread
from mcp_claims.session.session import Session
from tests.session.bench import HALF_AN_HOUR, FileBench, MemoryBench, granted
from tests.session.faulty import Failing
from tests.support.interrupting import DelegatingStore

TTL = timedelta(seconds=HALF_AN_HOUR)
RED = ScopedKey("ci", "red")


@pytest.fixture
def bench() -> MemoryBench:
    return MemoryBench()


def kept_alive(session: Session) -> KeepAlive:
    """Keep a claim on `red` alive from now on."""
    keep_alive = KeepAlive(session)
    keep_alive.add(granted(session, RED.key, RED.namespace), TTL, session.now().ticks)
    return keep_alive


def test_a_claim_that_was_revoked_is_noticed_without_a_renewal(bench: MemoryBench) -> None:
    session = bench.session()
    keep_alive = kept_alive(session)
    keep_alive.verify(RED)
    claim = keep_alive.get(RED)
    assert claim is not None, "nobody has revoked it"
    bench.session().revoke(claim)
    keep_alive.verify(RED)
    assert keep_alive.get(RED) is None


def test_a_claim_that_another_session_has_taken_over_is_noticed_without_a_renewal(bench: MemoryBench) -> None:
    keep_alive = kept_alive(bench.session())
    bench.world.pass_time(HALF_AN_HOUR)
    granted(bench.session(), RED.key, RED.namespace)
    keep_alive.verify(RED)
    assert keep_alive.get(RED) is None


def test_a_claim_that_has_expired_is_kept_as_long_as_it_can_be_renewed(bench: MemoryBench) -> None:
    session = bench.session()
    keep_alive = kept_alive(session)
    bench.world.pass_time(2 * HALF_AN_HOUR)
    keep_alive.verify(RED)
    assert keep_alive.get(RED) is not None
    keep_alive.renew_due(session.now().ticks)
    assert session.inspect(RED.key, RED.namespace).held_by_you


def test_a_renewal_that_failed_is_known_until_one_succeeds(bench: MemoryBench) -> None:
    broken: set[str] = set()
    session = bench.session(Failing(bench.store, broken))
    keep_alive = kept_alive(session)
    bench.world.pass_time(HALF_AN_HOUR / 2)
    broken.add(RED.key)
    next_due = keep_alive.renew_due(session.now().ticks)
    assert 0 < next_due < HALF_AN_HOUR / 10, "there is time for more attempts"
    assert "cannot be used" in str(keep_alive.problem(RED)) and keep_alive.get(RED) is not None
    broken.clear()
    bench.world.pass_time(HALF_AN_HOUR / 10)
    keep_alive.renew_due(session.now().ticks)
    assert keep_alive.problem(RED) is None


def test_a_claim_that_was_released_or_cannot_be_read_is_kept_no_more(bench: MemoryBench) -> None:
    session = bench.session()
    keep_alive = kept_alive(session)
    session.release(RED.key, RED.namespace)
    keep_alive.verify(RED)
    assert keep_alive.get(RED) is None and keep_alive.problem(RED) is None
    keep_alive = kept_alive(session)
    bench.damage(RED.key, RED.namespace)
    keep_alive.verify(RED)
    assert keep_alive.get(RED) is None


def test_each_claim_is_renewed_when_a_third_of_its_ttl_has_passed_until_the_limit(bench: MemoryBench) -> None:
    session = bench.session()
    keep_alive = KeepAlive(session, TTL)
    assert keep_alive.renew_due(session.now().ticks) == float("inf")
    grant = granted(session, RED.key, RED.namespace)
    keep_alive.add(grant, TTL, session.now().ticks)
    bench.world.pass_time(1)
    assert keep_alive.renew_due(session.now().ticks) == HALF_AN_HOUR / 3 - 1
    assert keep_alive.get(RED) == grant, "not yet"
    for passes in (HALF_AN_HOUR / 3 - 1, HALF_AN_HOUR / 3, HALF_AN_HOUR / 3):
        bench.world.pass_time(passes)
        assert keep_alive.renew_due(session.now().ticks) == HALF_AN_HOUR / 3
        renewed = keep_alive.get(RED)
        assert renewed is not None and renewed.expires.ticks == session.now().ticks + HALF_AN_HOUR
    bench.world.pass_time(HALF_AN_HOUR / 3)
    assert keep_alive.renew_due(session.now().ticks) == float("inf")
    assert keep_alive.get(RED) is None and session.inspect(RED.key, RED.namespace).held_by_you


def test_a_renewal_of_a_lost_claim_ends_the_keeping(bench: MemoryBench) -> None:
    session = bench.session()
    keep_alive = kept_alive(session)
    claim = keep_alive.get(RED)
    assert claim is not None
    bench.session().revoke(claim)
    bench.world.pass_time(HALF_AN_HOUR / 3)
    assert keep_alive.renew_due(session.now().ticks) == float("inf")
    assert keep_alive.get(RED) is None


def test_a_thread_notices_a_revoked_claim_and_ends(bench: MemoryBench) -> None:
    session = bench.session()
    grant = granted(session, RED.key, RED.namespace)
    with KeepAliveThread(session, grant, TTL, verify_every=0.01) as kept:
        assert kept.claim == grant
        bench.session().revoke(grant)
        deadline = time.monotonic() + 60
        while kept.claim is not None:
            assert time.monotonic() < deadline
            Event().wait(0.005)


def test_a_thread_ends_with_its_block(bench: MemoryBench) -> None:
    session = bench.session()
    before = set(threading.enumerate())
    with KeepAliveThread(session, granted(session, RED.key, RED.namespace), TTL):
        (thread,) = set(threading.enumerate()) - before
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.rule("C7")
@pytest.mark.parametrize(
    "error", [StoreUnavailableError("/claims", OSError(5, "Input/output error")), UnsafeDirectoryError("/claims", "")]
)
def test_a_loss_that_cannot_be_read_keeps_no_other_from_being_reported(bench: MemoryBench, error: Exception) -> None:
    class Failing(DelegatingStore):
        def read(self, scoped: ScopedKey) -> Found:
            if reading and scoped.key == "green":
                raise error
            return super().read(scoped)

    reading = False
    session, person = bench.session(Failing(bench.store)), bench.session()
    for key in ("green", "red"):
        person.revoke(granted(session, key))
    reading = True
    assert [lost.scoped.key for lost, _ in session.take_losses()] == ["red"]
    reading = False
    assert [lost.scoped.key for lost, _ in session.take_losses()] == ["green"]


@pytest.mark.rule("C7")
def test_on_a_remote_store_a_loss_that_a_renewal_has_found_is_reported_once_by_whatever_call_comes_next(
    bench: MemoryBench,
) -> None:
    bench.store.remote = True  # To look at each claim in each call would take a network.
    session, person = bench.session(), bench.session()
    for key in ("red", "green", "blue"):
        claim = granted(session, key)
        person.revoke(claim)
        assert session.take_losses() == []
        assert session.renew(claim, TTL) is None
        if key == "green":
            assert session.inspect(key).lost == claim, "the call about that key, if it comes first"
        else:
            ((lost, found),) = session.take_losses()
            assert lost == claim and found != claim
        assert session.take_losses() == [] and session.inspect(key).lost is None


@pytest.mark.rule("C7")
def test_what_was_claimed_again_is_not_reported_as_lost(bench: MemoryBench) -> None:
    session, person = bench.session(), bench.session()
    claim = granted(session, RED.key)
    person.revoke(claim)
    assert session.renew(claim, TTL) is None
    again = session.try_claim(RED.key)
    assert again.claimed and again.lost == claim
    assert session.take_losses() == []
    assert session.inspect(RED.key).held_by_you


@pytest.mark.rule("C7")
def test_a_key_that_the_call_has_just_read_is_not_read_again_and_its_loss_is_reported_by_a_later_call(
    bench: MemoryBench,
) -> None:
    session, person = bench.session(), bench.session()
    claims = [granted(session, key) for key in ("red", "green")]
    for claim in claims:
        person.revoke(claim)
    red, green = claims
    assert [lost for lost, _ in session.take_losses(but=red.scoped)] == [green]
    assert [lost for lost, _ in session.take_losses()] == [red]


@pytest.mark.rule("C7")
def test_of_the_keys_held_only_those_whose_records_have_changed_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, reads = FileBench(tmp_path / "claims"), list[str]()

    class Counting(DelegatingStore):
        def read(self, scoped: ScopedKey) -> Found:
            reads.append(scoped.key)
            return super().read(scoped)

    session, person = bench.session(Counting(bench.store)), bench.session()
    claims = {key: granted(session, key) for key in ("red", "green", "blue")}

    def losses() -> list[str]:
        reads.clear()
        return [lost.scoped.key for lost, _ in session.take_losses()]

    assert losses() == [] and losses() == [] and len(reads) == 3, "a change may leave no trace yet"
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 2)
    assert losses() == [] and len(reads) == 3
    assert losses() == [] and reads == []
    person.revoke(claims["green"])
    assert losses() == ["green"] and reads == ["green"]
    assert session.renew(claims["red"], TTL) is not None
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 2)
    assert losses() == [] and reads == ["red"], "it is another record now"
    Path(bench.place("blue")).unlink()
    assert losses() == ["blue"] and losses() == []
