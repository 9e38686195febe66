"""Each fault of the original as a script: how two of its own sessions hold one key, and what it does to our sessions.

Each fault is the reason for a guard in the store, and a limit of what a fleet with the original can rely on.
"""

from __future__ import annotations

from typing import Any

import pytest

from mcp_claims.errors import LockDirectoryBusyError
from mcp_claims.model.records import Claim
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from tests.stores.agent_awareness.original.conftest import SessionProcess, StartSession
from tests.stores.agent_awareness.original.test_interoperation import KEY, SCOPED, expired_claim
from tests.stores.agent_awareness.samples import lock
from tests.stores.samples import grant

CLAIMED = {"answer": {"claimed": True}}


def stop(process: SessionProcess, *places: str, call: str = "tryClaim", **more: Any) -> None:
    """Let *process* make a call until the first of *places*, where it pauses; `continue_to` goes on to the others."""
    assert process.ask(call=call, plugin="ci", key=KEY, stops=places, **more) == {"paused": places[0]}


def continue_to(process: SessionProcess, place: str) -> None:
    """Let *process* go on until *place*."""
    assert process.ask(go=True) == {"paused": place}


def finish(process: SessionProcess) -> dict[str, Any]:
    return process.ask(go=True)


def stopped_before_its_record_appears(start_ours: StartSession) -> SessionProcess:
    process = start_ours("stop")
    process.send(call="try_claim", key=KEY, plugin="ci")
    process.await_stop()
    return process


# The original breaks a lock by force after 5 s, although its owner lives.


@pytest.mark.rule("A13")
def test_two_originals_hold_a_key_after_a_forced_break(start_original: StartSession) -> None:
    slow, forcing = start_original(), start_original()
    stop(slow, "read")
    assert forcing.ask(call="tryClaim", plugin="ci", key=KEY, waits=50) == CLAIMED
    assert finish(slow) == CLAIMED


@pytest.mark.rule("A6")
def test_we_never_break_the_lock_of_a_live_original(start_original: StartSession, session: Session) -> None:
    slow = start_original()
    stop(slow, "read")
    with pytest.raises(LockDirectoryBusyError):
        session.try_claim(KEY, "ci", lock_timeout=0.2)
    assert finish(slow) == CLAIMED
    assert session.try_claim(KEY, "ci").status is Status.HELD


def test_after_a_forced_break_of_our_lock_only_the_original_has_the_key(
    start_original: StartSession, start_ours: StartSession
) -> None:
    slow, forcing = stopped_before_its_record_appears(start_ours), start_original()
    assert forcing.ask(call="tryClaim", plugin="ci", key=KEY, waits=50) == CLAIMED
    slow.go_on()
    assert slow.receive()["answer"] == {"status": "held", "holder": forcing.name}


@pytest.mark.rule("A8")
def test_after_a_forced_break_during_our_takeover_only_the_original_has_the_key(
    start_original: StartSession, start_ours: StartSession, store: AgentAwarenessStore
) -> None:
    # In a takeover the original writes into the file that we are about to replace.
    grant(store, expired_claim())
    slow, forcing = stopped_before_its_record_appears(start_ours), start_original()
    assert forcing.ask(call="tryClaim", plugin="ci", key=KEY, waits=50) == CLAIMED
    slow.go_on()
    assert slow.receive()["answer"] == {"status": "held", "holder": forcing.name}
    found = store.read(SCOPED)
    assert isinstance(found, Claim)
    assert found.holder.name == forcing.name


def test_after_a_forced_break_we_wait_until_the_original_has_finished(
    start_original: StartSession, start_ours: StartSession
) -> None:
    slow, forcing = stopped_before_its_record_appears(start_ours), start_original()
    stop(forcing, "timed out", "read", waits=50)
    continue_to(forcing, "read")
    slow.go_on()
    assert finish(forcing) == CLAIMED
    assert slow.receive()["answer"] == {"status": "held", "holder": forcing.name}


@pytest.mark.rule("A13")
def test_an_original_without_its_lock_can_overwrite_our_claim_and_we_report_the_loss(
    start_original: StartSession, session: Session
) -> None:
    broken_into, breaker = start_original(), start_original()
    stop(broken_into, "read")
    # The breaker only asks, so the key is still free afterwards.
    assert breaker.ask(call="isClaimedByOther", plugin="ci", key=KEY, waits=50) == {"answer": False}
    assert session.try_claim(KEY, "ci").status is Status.ACQUIRED
    # Two holders: no file shows us that another session is between its read and its write.
    assert finish(broken_into) == CLAIMED
    attempt = session.try_claim(KEY, "ci")
    assert (attempt.status, attempt.lost is not None) == (Status.HELD, True)


# `stat` of a lock that was just released fails; the original then counts it as stale and removes the next owner's lock.


def about_to_remove_a_released_lock(start_original: StartSession) -> SessionProcess:
    inside, waiting = start_original(), start_original()
    stop(inside, "inside", call="isClaimedByOther")
    stop(waiting, "refused", "stale")
    assert finish(inside) == {"answer": False}
    continue_to(waiting, "stale")
    return waiting


@pytest.mark.rule("A13")
def test_two_originals_hold_a_key_after_one_removes_a_lock_that_was_just_released(start_original: StartSession) -> None:
    breaker, broken_into = about_to_remove_a_released_lock(start_original), start_original()
    stop(broken_into, "read")
    assert finish(breaker) == CLAIMED
    assert finish(broken_into) == CLAIMED


def test_after_our_lock_is_removed_in_place_of_a_released_one_only_the_original_has_the_key(
    start_original: StartSession, start_ours: StartSession
) -> None:
    breaker = about_to_remove_a_released_lock(start_original)
    broken_into = stopped_before_its_record_appears(start_ours)
    assert finish(breaker) == CLAIMED
    broken_into.go_on()
    assert broken_into.receive()["answer"] == {"status": "held", "holder": breaker.name}


# Two sessions break one stale lock: the second removes the lock that was made after the first break.


def about_to_break_the_lock_of_a_dead_process(start_original: StartSession, *breakers: SessionProcess) -> None:
    dead = start_original()
    stop(dead, "inside")
    for breaker in breakers:
        stop(breaker, "refused", "stale", "read")
    dead.kill_and_reap()
    for breaker in breakers:
        continue_to(breaker, "stale")


@pytest.mark.rule("A13")
def test_two_originals_hold_a_key_after_both_break_one_stale_lock(start_original: StartSession) -> None:
    first, second = start_original(), start_original()
    about_to_break_the_lock_of_a_dead_process(start_original, first, second)
    continue_to(first, "read")
    continue_to(second, "read")
    assert finish(second) == CLAIMED
    assert finish(first) == CLAIMED


def test_after_we_and_an_original_break_one_stale_lock_only_the_original_has_the_key(
    start_original: StartSession, start_ours: StartSession, store: AgentAwarenessStore
) -> None:
    breaker = start_original()
    about_to_break_the_lock_of_a_dead_process(start_original, breaker)
    broken_into = stopped_before_its_record_appears(start_ours)
    assert lock(store, SCOPED).exists()
    continue_to(breaker, "read")
    assert finish(breaker) == CLAIMED
    broken_into.go_on()
    assert broken_into.receive()["answer"] == {"status": "held", "holder": breaker.name}


# `pruneExpiredClaims` takes no lock: it removes a claim that was taken after it read the record.


def about_to_prune_an_expired_claim(start_original: StartSession, store: AgentAwarenessStore) -> SessionProcess:
    grant(store, expired_claim())
    pruner = start_original()
    stop(pruner, "pruning", call="prune")
    return pruner


def test_two_originals_hold_a_key_after_prune_removes_a_new_claim(
    start_original: StartSession, store: AgentAwarenessStore
) -> None:
    pruner, first, second = about_to_prune_an_expired_claim(start_original, store), start_original(), start_original()
    assert first.call("tryClaim", KEY) == {"claimed": True}
    finish(pruner)
    assert second.call("tryClaim", KEY) == {"claimed": True}


@pytest.mark.rule("A13")
def test_prune_of_the_original_can_remove_our_new_claim_and_we_report_the_loss(
    start_original: StartSession, store: AgentAwarenessStore, session: Session
) -> None:
    pruner, other = about_to_prune_an_expired_claim(start_original, store), start_original()
    assert session.try_claim(KEY, "ci").status is Status.ACQUIRED
    finish(pruner)
    assert other.call("tryClaim", KEY) == {"claimed": True}
    attempt = session.try_claim(KEY, "ci")
    assert (attempt.status, attempt.lost is not None) == (Status.HELD, True)


def test_our_prune_keeps_a_claim_that_the_original_took_meanwhile(
    start_original: StartSession, store: AgentAwarenessStore, session: Session
) -> None:
    grant(store, expired_claim())
    (dead,) = store.scan()
    assert start_original().call("tryClaim", KEY) == {"claimed": True}
    assert not store.discard(dead)
    assert session.prune().live == 1
