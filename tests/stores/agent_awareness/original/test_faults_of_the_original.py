"""The original's own faults, each scripted: where it makes two holders without us, and what it can do to us.

Each of them is a reason for a rule of ours, and a limit of what can be promised in a mixed fleet (DESIGN.md, A13).
"""

from __future__ import annotations

from typing import Any

import pytest

from mcp_claims.errors import LockDirectoryBusyError
from mcp_claims.model.records import Claim
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from tests.stores.agent_awareness.original.conftest import Original, Party
from tests.stores.agent_awareness.original.test_each_sees_the_other import KEY, SCOPED, of_the_past
from tests.stores.agent_awareness.samples import lock
from tests.stores.samples import grant

CLAIMED = {"answer": {"claimed": True}}


def stop(party: Party, *places: str, call: str = "tryClaim", **more: Any) -> None:
    """Let *party* make a call and stop at the first of *places*; at the others when it comes there."""
    assert party.ask(call=call, plugin="ci", key=KEY, stops=places, **more) == {"paused": places[0]}


def go_on(party: Party, place: str) -> None:
    """Let *party* go on, up to *place*."""
    assert party.ask(go=True) == {"paused": place}


def finish(party: Party) -> dict[str, Any]:
    return party.ask(go=True)


def stopped_before_its_claim_appears(ours: Original) -> Party:
    party = ours("stop")
    party.tell(call="try_claim", key=KEY, plugin="ci")
    party.await_stop()
    return party


# Breaking by force after 5 s, although the owner lives.


@pytest.mark.rule("A13")
def test_its_forced_break_makes_two_holders_of_its_own(original: Original) -> None:
    slow, impatient = original(), original()
    stop(slow, "read")
    assert impatient.ask(call="tryClaim", plugin="ci", key=KEY, waits=50) == CLAIMED
    assert finish(slow) == CLAIMED


@pytest.mark.rule("A6")
def test_we_never_break_in_upon_a_live_owner(original: Original, session: Session) -> None:
    slow = original()
    stop(slow, "read")
    with pytest.raises(LockDirectoryBusyError):
        session.try_claim(KEY, "ci", lock_timeout=0.2)
    assert finish(slow) == CLAIMED
    assert session.try_claim(KEY, "ci").status is Status.HELD


def test_when_it_breaks_in_upon_us_by_force_it_alone_has_the_key(original: Original, ours: Original) -> None:
    slow, impatient = stopped_before_its_claim_appears(ours), original()
    assert impatient.ask(call="tryClaim", plugin="ci", key=KEY, waits=50) == CLAIMED
    slow.go_on()
    assert slow.hear()["answer"] == {"status": "held", "holder": impatient.name}


@pytest.mark.rule("A8")
def test_when_it_breaks_in_upon_our_takeover_by_force_it_alone_has_the_key(
    original: Original, ours: Original, store: AgentAwarenessStore
) -> None:
    # Here it writes into the file that we are about to replace.
    grant(store, of_the_past())
    slow, impatient = stopped_before_its_claim_appears(ours), original()
    assert impatient.ask(call="tryClaim", plugin="ci", key=KEY, waits=50) == CLAIMED
    slow.go_on()
    assert slow.hear()["answer"] == {"status": "held", "holder": impatient.name}
    found = store.read(SCOPED)
    assert isinstance(found, Claim)
    assert found.holder.name == impatient.name


def test_when_it_breaks_in_upon_us_and_is_still_inside_we_wait_for_what_it_does(
    original: Original, ours: Original
) -> None:
    slow, impatient = stopped_before_its_claim_appears(ours), original()
    stop(impatient, "impatient", "read", waits=50)
    go_on(impatient, "read")
    slow.go_on()
    assert finish(impatient) == CLAIMED
    assert slow.hear()["answer"] == {"status": "held", "holder": impatient.name}


@pytest.mark.rule("A13")
def test_who_was_robbed_among_its_own_can_write_over_our_claim_and_we_are_told(
    original: Original, session: Session
) -> None:
    robbed, robber = original(), original()
    stop(robbed, "read")
    # The robber only looks, so that the key is free when it has left.
    assert robber.ask(call="isClaimedByOther", plugin="ci", key=KEY, waits=50) == {"answer": False}
    assert session.try_claim(KEY, "ci").status is Status.ACQUIRED
    assert finish(robbed) == CLAIMED  # Two holders: nothing that we could look at says that somebody is inside.
    told = session.try_claim(KEY, "ci")
    assert (told.status, told.lost is not None) == (Status.HELD, True)


# A lock that was just left counts as stale, since its `stat` fails, and the next owner's is removed for it.


def about_to_remove_a_lock_that_was_left(original: Original) -> Party:
    inside, waiting = original(), original()
    stop(inside, "inside", call="isClaimedByOther")
    stop(waiting, "refused", "stale")
    assert finish(inside) == {"answer": False}
    go_on(waiting, "stale")
    return waiting


@pytest.mark.rule("A13")
def test_a_lock_left_in_good_order_counts_as_stale_and_makes_two_holders_of_its_own(original: Original) -> None:
    robber, robbed = about_to_remove_a_lock_that_was_left(original), original()
    stop(robbed, "read")
    assert finish(robber) == CLAIMED
    assert finish(robbed) == CLAIMED


def test_when_it_takes_our_lock_for_one_that_was_left_it_alone_has_the_key(original: Original, ours: Original) -> None:
    robber = about_to_remove_a_lock_that_was_left(original)
    robbed = stopped_before_its_claim_appears(ours)
    assert finish(robber) == CLAIMED
    robbed.go_on()
    assert robbed.hear()["answer"] == {"status": "held", "holder": robber.name}


# Two break one stale lock: the second removes the lock of the first one's successor.


def about_to_break_a_dead_one_s_lock(original: Original, *breakers: Party) -> None:
    dead = original()
    stop(dead, "inside")
    for breaker in breakers:
        stop(breaker, "refused", "stale", "read")
    dead.bury()
    for breaker in breakers:
        go_on(breaker, "stale")


@pytest.mark.rule("A13")
def test_two_breakers_of_one_lock_make_two_holders_of_their_own(original: Original) -> None:
    first, second = original(), original()
    about_to_break_a_dead_one_s_lock(original, first, second)
    go_on(first, "read")
    go_on(second, "read")
    assert finish(second) == CLAIMED
    assert finish(first) == CLAIMED


def test_when_we_have_broken_a_dead_one_s_lock_its_second_breaker_does_not_make_two_holders(
    original: Original, ours: Original, store: AgentAwarenessStore
) -> None:
    breaker = original()
    about_to_break_a_dead_one_s_lock(original, breaker)
    robbed = stopped_before_its_claim_appears(ours)
    assert lock(store, SCOPED).exists()
    go_on(breaker, "read")
    assert finish(breaker) == CLAIMED
    robbed.go_on()
    assert robbed.hear()["answer"] == {"status": "held", "holder": breaker.name}


# Pruning without a lock: what was taken again since it was read goes too.


def about_to_prune_a_dead_claim(original: Original, store: AgentAwarenessStore) -> Party:
    grant(store, of_the_past())
    pruner = original()
    stop(pruner, "pruning", call="prune")
    return pruner


def test_its_prune_removes_a_claim_taken_again_and_makes_two_holders_of_its_own(
    original: Original, store: AgentAwarenessStore
) -> None:
    pruner, first, second = about_to_prune_a_dead_claim(original, store), original(), original()
    assert first.call("tryClaim", KEY) == {"claimed": True}
    finish(pruner)
    assert second.call("tryClaim", KEY) == {"claimed": True}


@pytest.mark.rule("A13")
def test_its_prune_can_remove_our_claim_and_we_are_told(
    original: Original, store: AgentAwarenessStore, session: Session
) -> None:
    pruner, other = about_to_prune_a_dead_claim(original, store), original()
    assert session.try_claim(KEY, "ci").status is Status.ACQUIRED
    finish(pruner)
    assert other.call("tryClaim", KEY) == {"claimed": True}
    told = session.try_claim(KEY, "ci")
    assert (told.status, told.lost is not None) == (Status.HELD, True)


def test_our_prune_spares_what_it_takes_meanwhile(
    original: Original, store: AgentAwarenessStore, session: Session
) -> None:
    grant(store, of_the_past())
    (dead,) = store.scan()
    assert original().call("tryClaim", KEY) == {"claimed": True}
    assert not store.discard(dead)
    assert session.prune().live == 1
