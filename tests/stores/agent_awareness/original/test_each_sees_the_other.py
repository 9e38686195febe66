"""Each state in which one side can leave a key, as the other side finds it."""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mcp_claims.errors import LockDirectoryBusyError
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Holder, Moment, OriginalHolder, ScopedKey, Unreadable
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from tests.stores.agent_awareness.original.conftest import Original
from tests.stores.agent_awareness.samples import lock, record
from tests.stores.samples import grant

KEY = "vercel/next.js#4521:checks_failed"
SCOPED = ScopedKey("ci", KEY)
A_DAY_AND_MORE = 86_400 + 60


def of_the_past(minutes: float = 1) -> Claim:
    """Return a claim of ours, of a live process of this machine, whose time has passed."""
    then = Moment(datetime.now(UTC) - timedelta(minutes=60))
    holder = Holder(f"{socket.gethostname()}:{os.getpid()}:0123456789ab", os.getpid())
    return Claim(SCOPED, holder, then, expiry.later(then, timedelta(minutes=minutes)))


def make_old(path: Path, seconds: float = 11) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


# What the original leaves, as we find it.


@pytest.mark.rule("A2")
def test_the_original_s_files_are_where_we_look(original: Original, store: AgentAwarenessStore) -> None:
    original().call("tryClaim", KEY)
    assert record(store, SCOPED) == Path(store.directory, "ci", "vercel_next.js_4521_checks_failed.json")
    assert record(store, SCOPED).is_file()


def test_its_live_claim_is_held_and_said_to_be_of_its_kind(original: Original, session: Session) -> None:
    holder = original()
    assert holder.call("tryClaim", KEY, minutes=45) == {"claimed": True}
    attempt = session.try_claim(KEY, "ci")
    assert attempt.status is Status.HELD
    assert isinstance(attempt.found, Claim)
    assert isinstance(attempt.found.holder, OriginalHolder)
    assert (attempt.found.holder.name, attempt.found.holder.pid) == (holder.name, holder.pid)
    assert attempt.found.generation == 0
    assert expiry.remaining(attempt.found.expires, attempt.now) == pytest.approx(
        timedelta(minutes=45), abs=timedelta(seconds=30)
    )
    assert session.inspect(KEY, "ci").claimed_by_other
    assert not session.release(KEY, "ci").released
    assert session.prune().live == 1


def test_what_it_renews_stays_its_own(original: Original, session: Session) -> None:
    holder = original()
    holder.call("tryClaim", KEY, minutes=10)
    holder.call("tryClaim", KEY, minutes=60)
    found = session.try_claim(KEY, "ci").found
    assert isinstance(found, Claim)
    assert expiry.remaining(found.expires, Moment(datetime.now(UTC))) > timedelta(minutes=59)


def test_what_it_released_is_free(original: Original, session: Session) -> None:
    holder = original()
    holder.call("tryClaim", KEY)
    holder.call("release", KEY)
    assert session.try_claim(KEY, "ci").status is Status.ACQUIRED


def test_its_expired_claim_is_taken_over_though_its_process_lives(original: Original, session: Session) -> None:
    holder = original()
    holder.call("tryClaim", KEY, minutes=-1)
    attempt = session.try_claim(KEY, "ci")
    assert attempt.claimed and attempt.taken_over
    assert attempt.taken_over.why is ClaimState.EXPIRED
    assert isinstance(attempt.taken_over.what, Claim)
    assert attempt.taken_over.what.holder.name == holder.name


@pytest.mark.parametrize("reaped", [True, False])
def test_its_claim_is_orphaned_once_its_process_is_dead(original: Original, session: Session, reaped: bool) -> None:
    holder = original()
    holder.call("tryClaim", KEY)
    if reaped:
        holder.bury()
    else:
        holder.kill()
    attempt = session.try_claim(KEY, "ci")
    assert attempt.claimed and attempt.taken_over
    assert attempt.taken_over.why is ClaimState.ORPHANED


def test_its_claim_from_another_host_waits_for_its_time_whatever_its_pid(
    original: Original, session: Session, store: AgentAwarenessStore
) -> None:
    holder = original()
    holder.call("tryClaim", KEY)
    holder.bury()
    there = record(store, SCOPED)
    there.write_text(there.read_text().replace(holder.name, f"elsewhere:{holder.pid}"))
    assert session.try_claim(KEY, "ci").status is Status.HELD


@pytest.mark.rule("A11")
def test_a_corrupt_claim_counts_as_held(original: Original, session: Session, store: AgentAwarenessStore) -> None:
    original().call("tryClaim", KEY)
    there = record(store, SCOPED)
    there.write_bytes(there.read_bytes()[:20])
    attempt = session.try_claim(KEY, "ci")
    assert attempt.status is Status.HELD
    assert isinstance(attempt.found, Unreadable)
    assert not expiry.is_past_any_ttl(attempt.found, attempt.now)


def test_while_it_is_inside_we_wait_and_then_say_whose_turn_it_is(
    original: Original, session: Session, store: AgentAwarenessStore
) -> None:
    inside = original()
    assert inside.ask(call="tryClaim", plugin="ci", key=KEY, stops=["inside"]) == {"paused": "inside"}
    # However old its lock looks: its owner lives.
    make_old(lock(store, SCOPED), 3_600)
    meta = lock(store, SCOPED) / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"createdAt": "2026-01-01T00:00:00.000Z"}))
    with pytest.raises(LockDirectoryBusyError, match=r"Other keys are not affected.*meta\.json"):
        session.try_claim(KEY, "ci", lock_timeout=0.1)
    assert session.try_claim("another key", "ci", lock_timeout=0).claimed
    assert inside.ask(go=True) == {"answer": {"claimed": True}}
    assert session.try_claim(KEY, "ci").status is Status.HELD


def test_the_lock_of_its_dead_process_is_broken_at_once(
    original: Original, session: Session, store: AgentAwarenessStore
) -> None:
    inside = original()
    inside.ask(call="tryClaim", plugin="ci", key=KEY, stops=["inside"])
    inside.kill()
    assert session.try_claim(KEY, "ci", lock_timeout=0).status is Status.ACQUIRED
    assert not lock(store, SCOPED).exists()


def test_a_lock_without_meta_is_waited_for_and_nobodys_after_10_s(
    original: Original, session: Session, store: AgentAwarenessStore
) -> None:
    slow = original()
    assert slow.ask(call="tryClaim", plugin="ci", key=KEY, stops=["made"]) == {"paused": "made"}
    make_old(lock(store, SCOPED), 9)
    with pytest.raises(LockDirectoryBusyError):
        session.try_claim(KEY, "ci", lock_timeout=0.05)
    make_old(lock(store, SCOPED), 11)
    assert session.try_claim(KEY, "ci", lock_timeout=0).status is Status.ACQUIRED
    # It was alive after all; its call fails, and it holds nothing.
    assert slow.ask(go=True) == {"failed": "ENOENT"}
    assert session.inspect(KEY, "ci").held_by_you


# What we leave, as the original finds it.


@pytest.mark.rule("A4")
def test_it_sees_our_claim_as_held_by_us(original: Original, session: Session) -> None:
    session.try_claim(KEY, "ci")
    other = original()
    assert other.call("tryClaim", KEY) == {"claimed": False, "holder": session.holder.name}
    assert other.call("isClaimedByOther", KEY) is True
    other.call("release", KEY)
    assert other.call("prune") == 0
    assert session.try_claim(KEY, "ci").status is Status.RENEWED
    assert other.call("tryClaim", KEY)["claimed"] is False


def test_it_finds_free_what_we_released(original: Original, session: Session) -> None:
    session.try_claim(KEY, "ci")
    assert session.release(KEY, "ci").released
    assert original().call("tryClaim", KEY) == {"claimed": True}
    assert session.try_claim(KEY, "ci").status is Status.HELD


def test_it_takes_over_our_expired_claim_and_we_are_told(original: Original, store: AgentAwarenessStore) -> None:
    grant(store, of_the_past())
    holder = original()
    assert holder.call("tryClaim", KEY) == {"claimed": True}
    found = store.read(SCOPED)
    assert isinstance(found, Claim)
    assert found.holder.name == holder.name


def test_it_takes_over_from_our_dead_process(original: Original, ours: Original) -> None:
    holder = ours()
    assert holder.ask(call="try_claim", key=KEY, plugin="ci")["answer"]["status"] == "acquired"
    other = original()
    assert other.call("tryClaim", KEY)["claimed"] is False
    holder.bury()
    assert other.call("tryClaim", KEY) == {"claimed": True}


@pytest.mark.rule("A11", "A13")
def test_it_takes_our_corrupt_claim_for_free_which_is_a_fault_of_the_original(
    original: Original, session: Session, store: AgentAwarenessStore
) -> None:
    session.try_claim(KEY, "ci")
    record(store, SCOPED).write_bytes(b'{"holder": "half')
    assert original().call("tryClaim", KEY) == {"claimed": True}
    lost = session.try_claim(KEY, "ci")
    assert lost.status is Status.HELD
    assert lost.lost


@pytest.mark.rule("A5")
def test_it_waits_while_we_are_inside(original: Original, ours: Original, store: AgentAwarenessStore) -> None:
    inside = ours("stop")
    inside.tell(call="try_claim", key=KEY, plugin="ci")
    inside.await_stop()
    assert {path.name for path in lock(store, SCOPED).iterdir()} == {"meta.json"}
    other = original()
    other.tell(call="tryClaim", plugin="ci", key=KEY)
    inside.go_on()
    assert inside.hear()["answer"] == {"status": "acquired", "holder": inside.name}
    assert other.hear()["answer"] == {"claimed": False, "holder": inside.name}


def test_it_breaks_the_lock_of_our_dead_process(original: Original, ours: Original, store: AgentAwarenessStore) -> None:
    inside = ours("stop")
    inside.tell(call="try_claim", key=KEY, plugin="ci")
    inside.await_stop()
    inside.bury()
    assert original().call("tryClaim", KEY) == {"claimed": True}
    assert not lock(store, SCOPED).exists()


def test_it_waits_for_our_lock_without_meta_and_breaks_it_after_10_s(
    original: Original, store: AgentAwarenessStore
) -> None:
    # Where we are between two system calls, or died there.
    lock(store, SCOPED).mkdir(parents=True)
    other = original()
    paused = other.ask(call="tryClaim", plugin="ci", key=KEY, stops=["no meta", "no meta", "stale"])
    assert paused == {"paused": "no meta"}
    assert other.ask(go=True) == {"paused": "no meta"}, "it did not wait for a fresh one"
    make_old(lock(store, SCOPED))
    assert other.ask(go=True) == {"paused": "stale"}
    assert other.ask(go=True) == {"answer": {"claimed": True}}


# Keys whose names are the same.


@pytest.mark.rule("A3")
def test_a_key_whose_file_another_key_of_ours_holds_is_refused_and_says_so(
    session: Session, store: AgentAwarenessStore
) -> None:
    holder = session.try_claim("a/b", "ci").found
    attempt = session.try_claim("a:b", "ci")
    assert attempt.status is Status.HELD, "the holder itself has not claimed this key"
    assert attempt.found == holder
    assert session.inspect("a:b", "ci").claimed_by_other
    assert not session.release("a:b", "ci").released
    assert session.inspect("a/b", "ci").held_by_you
    assert session.release("a/b", "ci").released
    assert session.try_claim("a:b", "ci").claimed
    assert store.read(ScopedKey("ci", "a/b")) == store.read(ScopedKey("ci", "a:b"))


def test_a_dead_claim_on_a_key_with_the_same_file_is_taken_over(session: Session, store: AgentAwarenessStore) -> None:
    grant(store, of_the_past()._replace(scoped=ScopedKey("ci", "a/b")))
    attempt = session.try_claim("a:b", "ci")
    assert attempt.claimed and attempt.taken_over
    assert session.inspect("a:b", "ci").held_by_you
    assert session.inspect("a/b", "ci").claimed_by_other


def test_a_dead_claim_on_a_key_with_the_same_file_is_swept_by_a_look(
    session: Session, store: AgentAwarenessStore
) -> None:
    grant(store, of_the_past()._replace(scoped=ScopedKey("ci", "a/b")))
    assert not session.inspect("a:b", "ci").claimed_by_other
    assert store.read(ScopedKey("ci", "a/b")) is None


@pytest.mark.rule("A3")
def test_the_original_s_claim_holds_every_key_with_its_name(original: Original, session: Session) -> None:
    original().call("tryClaim", "a/b")
    for key in ("a/b", "a:b", "a#b", "a\\b", "a_b"):
        assert session.try_claim(key, "ci").status is Status.HELD
    assert session.try_claim("a-b", "ci").claimed
