"""Waiting to share a key, for a slot of it, or to have it alone: the order, and turns as reservations."""

from __future__ import annotations

import pytest

from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import PLACES
from mcp_claims.model.records import SHARED, Claim, Mode, Outcome, ScopedKey
from mcp_claims.model.validation import DEFAULT_NAMESPACE, ClaimRequest
from mcp_claims.session.acquire import acquire
from mcp_claims.session.results import Status
from tests.session.bench import KEY, Bench, FreedWhileWaiting, granted
from tests.session.sharing import (
    ALONE_USE,
    RED,
    SCOPED,
    SLOT_USE,
    attempt,
    holders,
    names,
    share,
    slot,
    taken_over,
    wait,
)


@pytest.fixture
def bench(bench_of_several: Bench) -> Bench:
    return bench_of_several


class TestTurns:
    @pytest.mark.rule("M7")
    def test_it_is_a_reservation_in_a_place(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        slot(ben)
        turn = attempt(ada, slots=2, reserve=True)
        assert turn.status is Status.YOUR_TURN and isinstance(turn.found, Claim)
        assert (turn.found.mode, turn.found.slot) == (Mode.RESERVED, 1)
        assert attempt(eve, slots=2).status is Status.HELD
        assert ada.inspect(KEY).your_turn and not ada.inspect(KEY, generation=turn.found.generation).in_force
        taken = attempt(ada, slots=2)
        assert taken.status is Status.ACQUIRED and isinstance(taken.found, Claim)
        assert (taken.found.slot, taken.found.generation) == (1, turn.found.generation)

    @pytest.mark.rule("M7")
    @pytest.mark.parametrize("end", ["lapses", "declined", "session ends", "killed", "undone"])
    def test_one_that_is_not_taken_frees_its_place(self, bench: Bench, end: str) -> None:
        ada, ben = bench.session(), bench.session()
        share(ben)
        ben.release(KEY, outcome=Outcome.FAILED, note="red again")
        turn = attempt(ada, slots=2, reserve=True)
        assert turn.status is Status.YOUR_TURN
        match end:
            case "lapses":
                bench.world.pass_time(60)
            case "declined":
                assert ada.release(KEY).declined
            case "session ends":
                ada.queue.join(SCOPED, 60, use=SLOT_USE)
                ada.close()
            case "killed":
                bench.world.kill(ada)
            case _:
                ada.undo(turn)
        assert taken_over(attempt(ben)) == (ClaimState.FAILED, "red again"), "which nobody was told yet"
        assert list(bench.store.scan()) == [bench.store.read(SCOPED)]

    @pytest.mark.rule("M7")
    @pytest.mark.parametrize("meet", ["inspect", "prune", "shared"])
    def test_one_that_lapses_is_removed_by_whoever_meets_it(self, bench: Bench, meet: str) -> None:
        ada, ben = bench.session(), bench.session()
        assert attempt(ada, shared=True, reserve=True).status is Status.YOUR_TURN
        bench.world.pass_time(60)
        if meet == "inspect":
            assert ben.inspect(KEY).found is None
        elif meet == "prune":
            pruned = ben.prune()
            assert (pruned.expired, pruned.orphaned, pruned.live) == (0, 0, 0), "it was no claim"
        else:
            share(ben)
            ben.release(KEY)
        assert list(bench.store.scan()) == []

    @pytest.mark.rule("M7")
    def test_one_to_have_the_key_alone_gives_a_slot_to_the_same_session(self, queues: Bench) -> None:
        holder, ada, ben = (queues.session() for _ in range(3))
        granted(holder, note="half done")
        queues.world.kill(holder)
        assert attempt(ada, reserve=True).status is Status.YOUR_TURN
        wait(queues, ada, use=SLOT_USE)
        assert attempt(ben, slots=2).status is Status.HELD
        ada.end_wait(SCOPED, keeps_place=True)
        assert attempt(ada, "red").claimed and ada.release("red").released
        result = attempt(ada, slots=2)
        assert result.status is Status.ACQUIRED and taken_over(result) == (ClaimState.ORPHANED, "half done")

    @pytest.mark.rule("M7")
    def test_a_slot_is_reserved_for_one_whose_turn_it_is_to_have_the_key_alone(self, queues: Bench) -> None:
        ada = queues.session()
        directory = "file:/nowhere/new"
        path = ScopedKey(PLACES, f"{directory}/a.py")
        granted(ada, f"{directory}/")
        assert ada.try_request(ClaimRequest(path), reserve=True).status is Status.YOUR_TURN
        assert ada.queue.join(path, 60, use=SLOT_USE) is not None
        ada.end_wait(path, keeps_place=True)
        assert ada.release(f"{directory}/").released, "which looks for whom it may serve"
        assert ada.inspect(path.key).your_turn and slot(ada, key=path.key).slot == 0


class TestWaiting:
    @pytest.mark.rule("M7")
    def test_one_that_wants_it_alone_is_served_however_many_come_and_go(self, queues: Bench) -> None:
        ada, ben, alone, eve = (queues.session() for _ in range(4))
        for each in (ada, ben):
            share(each)
        wait(queues, alone, use=ALONE_USE)
        assert attempt(eve, shared=True).status is Status.HELD, "it came later"
        assert share(ben), "which is in goes on"
        ada.release(KEY)
        assert attempt(ada, shared=True).status is Status.HELD, "it went, and comes again later"
        ben.release(KEY)
        assert attempt(eve, shared=True).status is Status.HELD
        taken = attempt(alone)
        assert taken.status is Status.ACQUIRED
        alone.release(KEY)
        for each in (ada, ben, eve):
            share(each)

    @pytest.mark.rule("M7")
    def test_those_that_share_do_not_wait_for_each_others_tickets(self, queues: Bench) -> None:
        holder, ada, ben, eve = (queues.session() for _ in range(4))
        granted(holder)
        for each in (ada, ben):
            wait(queues, each, use=SHARED)
        queues.world.kill(holder)
        share(eve)
        assert set(holders(queues)) == names(eve), "and keeps no place for those who have waited longer"
        for each in (ben, ada):
            share(each)
        assert names(ada, ben, eve) == set(holders(queues))

    @pytest.mark.rule("M7", "W2")
    def test_one_that_shares_and_gives_way_serves_the_first_that_waits_not_the_first_in_its_way(
        self, queues: Bench
    ) -> None:
        holder, ada, alone, eve = (queues.session() for _ in range(4))
        granted(holder)
        wait(queues, ada, use=SHARED)
        wait(queues, alone, use=ALONE_USE)
        queues.world.kill(holder)
        assert attempt(eve, shared=True).status is Status.HELD
        assert set(holders(queues)) == names(ada)

    @pytest.mark.rule("M7")
    def test_one_that_wants_it_alone_behind_some_that_share_comes_after_them(self, queues: Bench) -> None:
        holder, ada, alone, ben = (queues.session() for _ in range(4))
        granted(holder)
        wait(queues, ada, use=SHARED)
        wait(queues, alone, use=ALONE_USE)
        wait(queues, ben, use=SHARED)
        holder.release(KEY)
        assert attempt(alone).status is Status.HELD
        assert attempt(ben, shared=True).status is Status.HELD, "one that wants it alone is between them"
        share(ada)
        ada.release(KEY)
        assert attempt(ben, shared=True).status is Status.HELD
        assert attempt(alone).status is Status.ACQUIRED
        alone.release(KEY)
        share(ben)

    @pytest.mark.rule("M7")
    def test_slots_go_to_those_who_wait_in_their_order(self, queues: Bench) -> None:
        holders_ = [queues.session() for _ in range(2)]
        ada, ben, eve, stranger = (queues.session() for _ in range(4))
        for each in holders_:
            slot(each)
        for each in (ada, ben, eve):
            wait(queues, each, use=SLOT_USE)
        holders_[0].release(KEY)
        for each in (stranger, eve, ben):
            assert attempt(each, slots=2).status is Status.HELD
        assert slot(ada).slot == 0
        holders_[1].release(KEY)
        for each in (stranger, eve):
            assert attempt(each, slots=2).status is Status.HELD
        assert slot(ben).slot == 1
        assert attempt(stranger, slots=2).status is Status.HELD
        ada.release(KEY)
        assert attempt(stranger, slots=2).status is Status.HELD and slot(eve)
        eve.release(KEY)
        assert slot(stranger)

    @pytest.mark.rule("M7")
    def test_two_slots_that_become_free_go_to_the_first_two(self, queues: Bench) -> None:
        holders_ = [queues.session() for _ in range(2)]
        ada, ben, stranger = (queues.session() for _ in range(3))
        for each in holders_:
            slot(each)
        for each in (ada, ben):
            wait(queues, each, use=SLOT_USE)
        for each in holders_:
            each.release(KEY)
        assert attempt(stranger, slots=2).status is Status.HELD
        assert [attempt(each, slots=2, reserve=True).status for each in (ben, ada)] == [Status.YOUR_TURN] * 2
        assert {slot(ada).slot, slot(ben).slot} == {0, 1}

    @pytest.mark.rule("M7")
    def test_one_that_lets_its_turn_lapse_loses_its_place(self, queues: Bench) -> None:
        holders_ = [queues.session() for _ in range(2)]
        ada, ben = queues.session(), queues.session()
        for each in holders_:
            slot(each)
        for each in (ada, ben):
            wait(queues, each, use=SLOT_USE)
        holders_[0].release(KEY)
        assert attempt(ada, slots=2, reserve=True).status is Status.YOUR_TURN
        queues.world.pass_time(60)
        assert attempt(ben, slots=2).status is Status.ACQUIRED
        assert attempt(ada, slots=2).status is Status.HELD

    @pytest.mark.rule("M7")
    def test_a_place_that_is_kept_gets_the_slot_reserved(self, queues: Bench) -> None:
        holders_ = [queues.session() for _ in range(2)]
        ada, stranger = queues.session(), queues.session()
        for each in holders_:
            slot(each)
        wait(queues, ada, use=SLOT_USE)
        ada.end_wait(SCOPED, keeps_place=True)
        holders_[1].release(KEY)
        kept = ada.inspect(KEY)
        assert kept.your_turn and isinstance(kept.found, Claim) and kept.found.slot == 1
        assert attempt(stranger, slots=2).status is Status.HELD and slot(ada).slot == 1

    def test_a_wait_ends_with_a_turn_once_a_slot_is_free(self, bench: Bench) -> None:
        holders_ = [bench.session() for _ in range(2)]
        ada = bench.session()
        for each in holders_:
            slot(each)
        request = ClaimRequest.parse(KEY, slots=2, wait_seconds=60)
        wakeup = FreedWhileWaiting(lambda: holders_[0].release(KEY))
        result = acquire(ada, request, wakeup=wakeup, reserve=True)
        assert result.status is Status.YOUR_TURN and slot(ada).slot == 0

    def test_a_wait_to_share_ends_once_one_that_has_it_alone_goes(self, bench: Bench) -> None:
        holder, ada = bench.session(), bench.session()
        granted(holder)
        request = ClaimRequest.parse(KEY, shared=True, wait_seconds=60)
        result = acquire(ada, request, wakeup=FreedWhileWaiting(lambda: holder.release(KEY)))
        assert result.status is Status.ACQUIRED and not ada.queue.keys()

    def test_a_wait_to_have_it_alone_ends_once_the_last_one_goes(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        for each in (ada, ben):
            share(each)
        request = ClaimRequest.parse(KEY, wait_seconds=60)

        def come_and_go() -> None:
            bench.world.pass_time(2)
            ada.release(KEY)
            assert attempt(bench.session(), shared=True).status is Status.HELD
            ben.release(KEY)

        result = acquire(eve, request, wakeup=FreedWhileWaiting(come_and_go))
        assert result.status is Status.ACQUIRED and holders(bench) == {eve.holder.name: "alone"}

    @pytest.mark.rule("M7")
    def test_a_revocation_wakes_whoever_waits(self, queues: Bench) -> None:
        ada, ben, eve = (queues.session() for _ in range(3))
        claim = slot(ada)
        slot(ben)
        assert eve.queue.join(SCOPED, 60, use=SLOT_USE) is not None
        woken: list[bool] = []
        (ticket,) = queues.store.tickets(DEFAULT_NAMESPACE)
        with queues.store.alarm(ticket, lambda: woken.append(True)) as alarm:
            ben.revoke(claim)
            assert woken or (alarm is not None and alarm.fileno() is not None)

    @pytest.mark.rule("M7")
    def test_a_wait_for_a_slot_is_in_no_cycle_and_one_to_share_is(self, queues: Bench) -> None:
        ada, ben = queues.session(), queues.session()
        for use, hold in ((SLOT_USE, slot), (SHARED, granted)):
            hold(ben)
            granted(ada, "red")
            if use is SLOT_USE:
                slot(queues.session())
            wait(queues, ben, "red", use=ALONE_USE)
            wait(queues, ada, use=use)
            assert bool(ada.queue.find_cycle(SCOPED)) is (use is SHARED)
            for each in (ada, ben):
                each.queue.leave(SCOPED)
                each.queue.leave(RED)
                each.release(KEY)
                each.release("red")
            for found in list(queues.store.scan()):
                queues.store.discard(found)
