"""Several keys that are claimed together: all or none, renewed and released as one."""

from __future__ import annotations

import select
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.errors import InvalidInputError, NotClaimedError, StoreUnavailableError
from mcp_claims.model.records import Claim, Mode, Outcome, ScopedKey
from mcp_claims.model.validation import DEFAULT_NAMESPACE, ClaimRequest
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Change, Swaps
from tests.session.bench import Bench, FileBench, LayoutBench, MemoryBench, granted
from tests.support.interrupting import DelegatingStore

RED, GREEN, BLUE = (ScopedKey(DEFAULT_NAMESPACE, key) for key in ("red", "green", "blue"))


@pytest.fixture(params=[MemoryBench, FileBench])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Return a bench whose store takes several keys at once."""
    return MemoryBench() if request.param is MemoryBench else FileBench(tmp_path / "claims")


def attempt(session: Session, *keys: str, reserve: bool = False) -> ClaimResult:
    return session.try_request(ClaimRequest.parse(keys[0], also=keys[1:]), reserve=reserve)


def holders(bench: Bench) -> dict[str, str]:
    """Return who holds which key."""
    return {
        found.scoped.key: found.holder.name
        for found in bench.store.scan()
        if isinstance(found, Claim) and found.ended is None and found.mode is Mode.ALONE
    }


def wait(bench: Bench, session: Session, *keys: str) -> None:
    scoped = ClaimRequest.parse(keys[0], also=keys[1:]).keys
    assert session.queue.join(scoped[0], 300, scoped[1:]) is not None
    bench.world.pass_time(2)


@pytest.mark.rule("C15")
def test_all_are_claimed_or_none_and_a_refusal_names_every_key_in_the_way(bench: Bench) -> None:
    ada, ben = bench.session(), bench.session()
    green, blue = granted(ada, "green"), granted(ada, "blue")
    refused = attempt(ben, "red", "green", "blue")
    assert (refused.status, refused.found, refused.in_the_way) == (Status.HELD, green, (green, blue))
    assert holders(bench) == {"green": ada.holder.name, "blue": ada.holder.name} and not ben.holds_anything
    ada.close()
    result = attempt(ben, "red", "green", "blue")
    assert result.status is Status.ACQUIRED and set(holders(bench)) == {"red", "green", "blue"}
    assert isinstance(result.found, Claim) and result.found.scoped == RED
    assert result.found.group == (RED, GREEN, BLUE)


@pytest.mark.rule("C15")
def test_renewal_and_release_through_any_member_act_on_all(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    attempt(session, "red", "green")
    bench.world.pass_time(20 * 60)
    assert attempt(session, "green").status is Status.RENEWED
    bench.world.pass_time(20 * 60)
    assert not other.try_claim("red").claimed, "it would have expired"
    assert session.release("green").released
    assert holders(bench) == {} and not session.holds_anything
    assert other.try_claim("red").claimed


def test_a_keep_alive_renews_all(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    grant = attempt(session, "red", "green").found
    assert isinstance(grant, Claim)
    bench.world.pass_time(20 * 60)
    renewed = session.renew(grant, timedelta(minutes=30))
    assert renewed is not None and renewed.scoped == RED
    bench.world.pass_time(20 * 60)
    assert not other.try_claim("green").claimed


def test_a_key_belongs_to_the_group_of_the_last_call_that_granted_it(bench: Bench) -> None:
    session = bench.session()
    attempt(session, "red", "green")
    result = attempt(session, "green", "blue")
    assert result.status is Status.RENEWED, "another caller of the session may act on green"
    assert [claim.scoped for claim, _ in result.grants] == [BLUE]
    assert attempt(session, "red").status is Status.RENEWED
    assert session.release("blue").released
    assert set(holders(bench)) == {"red"}


@pytest.mark.rule("C15")
def test_a_lost_member_is_named_and_nothing_is_taken_anew(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    attempt(session, "red", "green", "blue")
    green = bench.store.read(GREEN)
    assert isinstance(green, Claim) and other.revoke(green, "needed")
    bench.world.pass_time(20 * 60)
    for keys in (["red"], ["red", "green", "blue"]):
        result = attempt(session, *keys)
        assert (result.status, result.missing) == (Status.HELD, (GREEN,))
    assert set(holders(bench)) == {"red", "blue"}
    taken = granted(other, "green")
    result = attempt(session, "blue")
    assert (result.status, result.found, result.missing) == (Status.HELD, taken, (GREEN,))
    bench.world.pass_time(20 * 60)
    assert not bench.session().try_claim("red").claimed, "the others are renewed all the same"
    assert session.release("red").released
    assert set(holders(bench)) == {"green"}


def test_what_is_partly_dead_is_taken_over_key_by_key(bench: Bench) -> None:
    dead, other, heir = (bench.session() for _ in range(3))
    dead.try_claim("red", also=["green"], note="half done")
    other.try_claim("blue")
    bench.world.kill(dead)
    assert attempt(heir, "red", "blue").status is Status.HELD
    result = attempt(heir, "red", "green")
    assert result.status is Status.ACQUIRED
    notes = [taken.found.note for _, taken in result.grants if taken is not None and isinstance(taken.found, Claim)]
    assert notes == ["half done", "half done"]


@pytest.mark.rule("C15", "C10")
def test_only_the_key_that_is_named_first_is_done(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    attempt(session, "red", "green")
    assert session.release("green", outcome=Outcome.DONE).released
    assert attempt(other, "red").status is Status.DONE
    assert attempt(other, "red", "blue").status is Status.DONE
    assert attempt(other, "green").status is Status.ACQUIRED
    assert not other.inspect("green").done
    assert other.try_claim("red", also=["blue"], redo=True).status is Status.ACQUIRED


@pytest.mark.rule("C15", "W2")
def test_whoever_waits_for_a_set_is_served_before_those_who_come_later_for_a_part(bench: Bench) -> None:
    holder, ada, ben = (bench.session() for _ in range(3))
    held = granted(holder, "red")
    wait(bench, ada, "red", "green")
    refused = attempt(ben, "green")
    assert (refused.status, refused.found) == (Status.HELD, held)
    holder.release("red")
    kept = attempt(ben, "green").found
    assert isinstance(kept, Claim) and kept.mode is Mode.RESERVED and kept.holder == ada.holder
    assert {each.scoped for each in bench.store.scan() if isinstance(each, Claim) and each.mode is Mode.RESERVED} == {
        RED,
        GREEN,
    }
    assert attempt(ada, "green").status is Status.ACQUIRED, "any member takes all"
    assert set(holders(bench)) == {"red", "green"}


@pytest.mark.rule("W2", "W6")
def test_a_set_is_served_although_one_waits_before_it_for_a_key_that_others_hold(bench: Bench) -> None:
    keeper, asker, ada, ben = (bench.session() for _ in range(4))
    granted(keeper, "green")
    granted(asker, "pink")
    wait(bench, keeper, "pink")
    wait(bench, ada, "blue", "green")
    wait(bench, ben, "red", "blue")
    # Were it ada's turn first, asker would wait for keeper, who waits for asker.
    assert attempt(asker, "red").status is Status.HELD
    assert attempt(ben, "red", "blue").status is Status.ACQUIRED
    ben.close()
    assert attempt(asker, "red").status is Status.ACQUIRED


@pytest.mark.rule("W2")
@pytest.mark.parametrize("asks", ["red", "red and green"])
def test_what_is_done_is_kept_for_nobody_who_waits_for_it(bench: Bench, asks: str) -> None:
    red, green, ada, ben, eve = (bench.session() for _ in range(5))
    granted(red, "red")
    granted(green, "green")
    wait(bench, ada, "green")
    ada.end_wait(GREEN, keeps_place=True)
    wait(bench, ben, "red", "green")
    ben.end_wait(RED, keeps_place=True)
    green.release("green", outcome=Outcome.DONE)
    bench.world.kill(red)
    if asks == "red":
        assert attempt(eve, "red").status is Status.HELD, "it is ben's turn"
    assert not ada.inspect("green").your_turn
    assert attempt(ben, "red", "green").status is Status.ACQUIRED


def test_a_turn_is_for_all_and_so_is_a_decline(bench: Bench) -> None:
    holder, ada, ben = (bench.session() for _ in range(3))
    granted(holder, "green")
    wait(bench, ada, "red", "green")
    holder.release("green")
    assert attempt(ada, "red", "green", reserve=True).status is Status.YOUR_TURN
    assert attempt(ben, "red").status is Status.HELD
    assert ada.release("red").declined
    assert attempt(ben, "red", "green").status is Status.ACQUIRED


def test_a_grant_of_a_cancelled_call_is_undone_for_all(bench: Bench) -> None:
    session, dead = bench.session(), bench.session()
    dead.try_claim("green", note="half done")
    bench.world.kill(dead)
    result = attempt(session, "red", "green")
    session.undo(result)
    assert holders(bench) == {} and not session.holds_anything
    left = bench.session().try_claim("green")
    assert left.taken_over is not None and isinstance(left.taken_over.found, Claim)
    assert left.taken_over.found.note == "half done"


def test_the_end_of_a_session_frees_all(bench: Bench) -> None:
    session = bench.session()
    attempt(session, "red", "green", "blue")
    session.close()
    assert holders(bench) == {}


@pytest.mark.parametrize(
    ("also", "rule"),
    [
        (["x"] * 32, "at most 31 keys"),
        ("green", "must be a list of keys"),
        ([5], "must be text"),
        ([""], "must not be empty"),
        (["k" * 1_024 + str(each) for each in range(3)], "at most 1,024 bytes"),
        ([f"{each}".ljust(1_000, "k") for each in range(9)], "at most 8,192 bytes with all keys together"),
    ],
)
def test_what_cannot_be_a_set_of_keys_is_refused_with_the_rule(bench: Bench, also: list[str], rule: str) -> None:
    with pytest.raises(InvalidInputError, match=rule):
        bench.session().try_claim("red", also=also)


def test_a_key_that_is_named_twice_counts_once(bench: Bench) -> None:
    result = bench.session().try_claim("red", also=["red", "green", "green"])
    assert isinstance(result.found, Claim) and result.found.group == (RED, GREEN)


def test_the_layout_of_agent_awareness_takes_one_key_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="layout"):
        LayoutBench(tmp_path / "claims").session().try_claim("red", also=["green"])


def test_a_call_that_gets_a_part_of_what_it_asks_for_anew_is_a_renewal(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    with session.claim("red"):
        with pytest.raises(NotClaimedError), session.claim("blue", also=["red"]):
            pytest.fail("another block holds red")
        assert not other.try_claim("red").claimed and other.try_claim("blue").claimed
    assert other.try_claim("red").claimed


def test_what_was_held_before_a_cancelled_call_has_its_old_group_again(bench: Bench) -> None:
    session = bench.session()
    attempt(session, "red", "green")
    session.undo(attempt(session, "green", "blue"))
    assert set(holders(bench)) == {"red", "green"}
    assert attempt(session, "red").status is Status.RENEWED
    assert session.release("red").released and holders(bench) == {}


def test_keys_of_two_groups_are_renewed_by_a_call_for_both(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    attempt(session, "red", "green")
    attempt(session, "green", "blue")
    bench.world.pass_time(20 * 60)
    assert attempt(session, "red", "green").status is Status.RENEWED
    bench.world.pass_time(20 * 60)
    assert not other.try_claim("green").claimed


def test_a_keep_alive_goes_on_with_the_others_and_the_loss_is_told(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    grant = attempt(session, "red", "green").found
    assert isinstance(grant, Claim)
    other.revoke(grant)
    kept = session.renew(grant, timedelta(minutes=30))
    assert kept is not None and kept.scoped == GREEN
    assert [lost.scoped for lost, _ in session.take_losses()] == [RED]
    assert session.release_own(grant, 0).released and holders(bench) == {}


def test_a_keep_alive_ends_where_others_have_a_file_that_overlaps(bench: Bench, tmp_path: Path) -> None:
    session, other = bench.session(), bench.session()
    directory = f"file:{tmp_path.resolve()}/new"
    grant = session.try_claim(f"{directory}/", also=["branch:github.com/a/b:main"], ttl_minutes=1).found
    assert isinstance(grant, Claim)
    bench.world.pass_time(61)
    granted(other, f"{directory}/a.py")
    assert session.renew(grant, timedelta(minutes=30)) is None
    assert grant.scoped in [lost.scoped for lost, _ in session.take_losses()]


def test_a_session_does_not_give_way_to_one_that_waits_for_what_it_holds(bench: Bench) -> None:
    session, ada = bench.session(), bench.session()
    granted(session, "red")
    wait(bench, ada, "red", "green")
    assert session.try_claim("green").claimed


def test_a_group_in_two_namespaces_keeps_to_the_order_of_the_first(bench: Bench, tmp_path: Path) -> None:
    holder, ada, ben = (bench.session() for _ in range(3))
    path = f"file:{tmp_path.resolve()}/new"
    granted(holder, path)
    scoped = ada.resolve(ScopedKey(DEFAULT_NAMESPACE, path))
    ticket = ada.queue.join(scoped, 300)
    assert ticket is not None
    bench.world.pass_time(2)
    with bench.store.alarm(ticket, lambda: None):
        holder.release(path)
        assert ben.try_claim("red", also=[path]).claimed, "a limit, which the design notes state"


def test_a_file_below_a_directory_that_is_kept_for_another_session_is_held(bench: Bench, tmp_path: Path) -> None:
    holder, ada, ben = (bench.session() for _ in range(3))
    directory = f"file:{tmp_path.resolve()}/new"
    granted(holder, f"{directory}/")
    scoped = ada.resolve(ScopedKey(DEFAULT_NAMESPACE, f"{directory}/"))
    assert ada.queue.join(scoped, 300) is not None
    bench.world.pass_time(2)
    holder.release(f"{directory}/")
    for _ in range(2):
        kept = ben.try_claim(f"{directory}/a.py")
        assert kept.status is Status.HELD and isinstance(kept.found, Claim) and kept.found.holder == ada.holder


def test_a_wait_for_keys_that_a_parallel_call_has_got_is_over(bench: Bench) -> None:
    session = bench.session()
    granted(session, "red")
    granted(session, "green")
    assert attempt(session, "red", "green", reserve=True).status is Status.RENEWED


def test_a_grant_of_which_no_call_knows_is_told_as_one(bench: Bench) -> None:
    class Failing(DelegatingStore):
        failed = False

        def swap_all(self, changes: Sequence[Change], **options: Any) -> Swaps:
            swaps = super().swap_all(changes, **options)
            if not self.failed:
                self.failed = True
                raise StoreUnavailableError("it", OSError("lost"))
            return swaps

    session = bench.session(Failing(bench.store))
    with pytest.raises(StoreUnavailableError):
        attempt(session, "red", "green")
    assert attempt(session, "red", "green").status is Status.ACQUIRED


def test_whichever_member_takes_the_turn_the_first_one_stays_the_first(bench: Bench) -> None:
    holder, ada = bench.session(), bench.session()
    granted(holder, "green")
    wait(bench, ada, "red", "green")
    holder.release("green")
    assert attempt(ada, "red", "green", reserve=True).status is Status.YOUR_TURN
    taken = attempt(ada, "green")
    assert isinstance(taken.found, Claim) and taken.found.scoped == GREEN and taken.found.group == (RED, GREEN)


@pytest.mark.rule("W3")
@pytest.mark.parametrize("shared", [False, True])
def test_a_turn_for_several_keys_is_taken_whoever_waits_by_now(bench: Bench, shared: bool) -> None:
    ada, ben = bench.session(), bench.session()
    request = ClaimRequest.parse("red", also=["green"], shared=shared)
    assert ada.try_request(request, reserve=True).status is Status.YOUR_TURN
    wait(bench, ben, "green")
    assert ada.try_request(request).status is Status.ACQUIRED


def test_the_end_of_a_wait_declines_what_is_kept_of_a_group_that_is_partly_held(bench: Bench) -> None:
    holder, ada, ben = (bench.session() for _ in range(3))
    granted(ada, "red")
    granted(holder, "green")
    wait(bench, ada, "red", "green")
    holder.release("green")
    assert attempt(ada, "red", "green", reserve=True).status is Status.YOUR_TURN
    ada.end_wait(RED, keeps_place=False)
    assert ben.try_claim("green").claimed and ada.inspect("red").held_by_you


def test_the_end_of_a_wait_for_a_group_wakes_the_waiters_for_each_key(bench: Bench) -> None:
    holder, ada, ben = (bench.session() for _ in range(3))
    granted(holder, "red")
    wait(bench, ada, "red", "green")
    ticket = ben.queue.join(GREEN, 300)
    assert ticket is not None
    rung: list[bool] = []
    with bench.store.alarm(ticket, lambda: rung.append(True)) as alarm:
        ada.end_wait(RED, keeps_place=False)
        descriptor = None if alarm is None else alarm.fileno()
        assert rung or (descriptor is not None and select.select([descriptor], [], [], 0)[0])


def test_the_end_of_a_session_counts_each_key(bench: Bench) -> None:
    session = bench.session()
    attempt(session, "red", "green", "blue")
    assert session.close() == 3
