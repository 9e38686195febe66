"""Heads, which list who holds a key with others: each outlasts its members, drops the dead, and is nobody's claim."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Holder, ScopedKey, Unreadable
from mcp_claims.model.validation import DEFAULT_NAMESPACE
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from tests.session.bench import DAY, HALF_AN_HOUR, KEY, Bench, EtcdBench, FileBench, MemoryBench, granted
from tests.session.sharing import SCOPED, TTL, attempt, head, holders, names, share, slot, taken_over
from tests.support.interrupting import Interrupting


@pytest.fixture
def bench(bench_of_several: Bench) -> Bench:
    return bench_of_several


class TestTime:
    @pytest.mark.rule("M3")
    def test_a_claim_that_is_kept_alive_for_days_stays_listed(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        grant: Claim | None = share(ada)
        written = head(bench)
        for _ in range(70 * 3):
            assert grant is not None
            bench.world.pass_time(20 * 60)
            grant = ada.renew(grant, TTL)
        assert grant is not None and set(holders(bench)) == names(ada)
        above = head(bench)
        assert written is not None and above is not None and above.expires.ticks > written.expires.ticks
        assert above.expires.ticks >= grant.expires.ticks and grant.generation >= 1
        assert ben.try_claim(KEY).status is Status.HELD

    @pytest.mark.rule("M3")
    def test_a_renewal_within_a_day_of_the_grant_leaves_the_head_alone(self, bench: Bench) -> None:
        ada = bench.session()
        grant = share(ada)
        written = head(bench)
        bench.world.pass_time(20 * 60)
        assert ada.renew(grant, TTL) is not None
        after = head(bench)
        assert after == written and after is not None and written is not None
        if isinstance(bench, EtcdBench):
            assert after.leased == written.leased, "not even written anew"

    @pytest.mark.rule("M3")
    def test_the_head_outlasts_each_claim(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        first = share(ada, ttl_minutes=1_440)
        bench.world.pass_time(23 * 3600)
        second = share(ben, ttl_minutes=1_440)
        renewed = share(ada, ttl_minutes=1_440)
        above = head(bench)
        assert above is not None
        assert all(above.expires.ticks >= each.expires.ticks for each in (first, second, renewed))

    @pytest.mark.rule("M3")
    def test_a_head_counts_however_far_somebody_sets_the_clock(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        slot(ada, key="red")
        share(ben, "green")
        bench.world.set_wall_clock(400 * DAY)
        for session in (eve, ada):
            for keys in (["red"], ["green"], ["red", "green"]):
                assert attempt(session, *keys).status is Status.HELD
        assert ada.try_claim("red", slots=2).status is Status.RENEWED

    @pytest.mark.rule("M3", "M4")
    def test_a_head_that_cannot_be_read_counts_as_held_while_any_member_may_live(self, queues: Bench) -> None:
        ada, ben = queues.session(), queues.session()
        grant = share(ada, ttl_minutes=1_440)
        queues.damage(KEY)
        for options in ({}, {"shared": True}, {"slots": 2}):
            refused = ben.try_claim(KEY, **options)
            assert refused.status is Status.HELD and isinstance(refused.found, Unreadable)
        queues.world.pass_time(23 * 3600)
        # Within the day that its claim may have, and not beyond: once the head is gone nothing would protect it.
        kept = ada.renew(grant, timedelta(hours=24))
        queues.world.pass_time(3600 + 1)
        assert kept is None or expiry.has_passed(kept.expires, ada.now())
        assert ben.try_claim(KEY).claimed
        assert holders(queues) == {ben.holder.name: "alone"}
        assert not ada.inspect(KEY, generation=grant.generation).in_force
        assert ada.try_claim(KEY, shared=True).status is Status.HELD

    @pytest.mark.rule("M3")
    def test_the_members_of_a_head_that_cannot_be_read_are_released_and_renewed_all_the_same(
        self, queues: Bench
    ) -> None:
        ada, ben = queues.session(), queues.session()
        grant = share(ada)
        share(ben)
        queues.damage(KEY)
        queues.world.pass_time(20 * 60)
        assert ada.renew(grant, TTL) is not None
        assert ada.release(KEY).released and not ada.holds_anything
        queues.world.pass_time(DAY + 1)
        assert ada.try_claim(KEY).claimed

    @pytest.mark.rule("M4")
    def test_a_member_that_cannot_be_read_counts_as_held_until_it_is_older_than_any_claim(self, queues: Bench) -> None:
        ada, ben, eve = (queues.session() for _ in range(3))
        place = slot(ada).scoped
        queues.damage(place.key)
        assert ben.try_claim(KEY).status is Status.HELD
        assert slot(ben).slot == 1 and eve.try_claim(KEY, slots=2).status is Status.HELD
        queues.world.pass_time(DAY + 1)
        assert slot(eve).slot == 0 and set(holders(queues)) == names(eve)

    @pytest.mark.rule("M2")
    def test_a_claim_that_its_head_does_not_list_gives_nothing(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        grant = share(ada, ttl_minutes=1_440)
        above = head(bench)
        assert above is not None and bench.store.swap(SCOPED, above, None).won
        alone = granted(ben)
        bench.world.pass_time(3600)
        assert ada.renew(grant, timedelta(hours=24)) is None
        assert ada.try_claim(KEY, shared=True).status is Status.HELD
        kept = ben.renew(alone, TTL)
        assert kept is not None and bench.store.read(SCOPED) == kept and not ada.inspect(KEY).held_by_you
        unlisted = bench.store.read(grant.scoped)
        assert isinstance(unlisted, Claim) and bench.store.discard(unlisted)


class TestTheDead:
    @pytest.mark.rule("M4")
    @pytest.mark.parametrize("how", ["killed", "expired"])
    @pytest.mark.parametrize("meet", ["alone", "shared", "slots", "group", "inspect", "prune", "or_else"])
    def test_whoever_meets_a_head_removes_the_dead(self, bench: Bench, how: str, meet: str) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        for each in (ada, ben):
            share(each)
        if how == "killed":
            for each in (ada, ben):
                bench.world.kill(each)
        else:
            bench.world.pass_time(HALF_AN_HOUR)
        match meet:
            case "alone":
                assert eve.try_claim(KEY).status is Status.ACQUIRED
            case "shared":
                share(eve)
                assert set(holders(bench)) == names(eve)
            case "slots":
                assert slot(eve).slot == 0
            case "group":
                assert attempt(eve, KEY, "red").status is Status.ACQUIRED
            case "or_else":
                assert eve.try_claim(KEY, or_else=["red"]).found == bench.store.read(SCOPED)
            case "inspect":
                assert eve.inspect(KEY).found is None and list(bench.store.scan()) == []
            case _:
                pruned = eve.prune()
                assert (pruned.orphaned, pruned.expired) == ((2, 0) if how == "killed" else (0, 2))
                assert pruned.live == pruned.markers == 0 and list(bench.store.scan()) == []

    @pytest.mark.rule("M4")
    @pytest.mark.parametrize("question", [1, 2])
    def test_one_that_dies_while_it_is_met_is_alive_or_dead_to_the_end_of_a_look(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, question: int
    ) -> None:
        ada, ben = bench.session(), bench.session()
        share(ada)
        asked = 0
        machine = ben._machine
        provably_dead = machine.provably_dead

        def dies(holder: Holder) -> bool:
            nonlocal asked
            asked += 1
            if asked == question:
                bench.world.kill(ada)
            return provably_dead(holder)

        monkeypatch.setattr(machine, "provably_dead", dies)
        assert ben.try_claim(KEY).status in (Status.HELD, Status.ACQUIRED)
        assert ben.try_claim(KEY).claimed

    @pytest.mark.rule("M4")
    def test_the_living_stay_beside_them(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        for each in (ada, ben):
            slot(each)
        bench.world.kill(ada)
        assert eve.prune().live == 1 and set(holders(bench)) == names(ben)
        assert slot(eve).slot == 0

    @pytest.mark.rule("M4")
    def test_many_dead_are_removed_however_many_a_change_has_room_for(self, bench: Bench) -> None:
        for _ in range(70):
            dead = bench.session()
            share(dead)
            bench.world.kill(dead)
            if isinstance(bench, MemoryBench | FileBench):
                continue
            break
        ada = bench.session()
        assert ada.try_claim(KEY).status is Status.ACQUIRED
        assert list(bench.store.scan()) == [bench.store.read(SCOPED)]

    @pytest.mark.rule("M4")
    def test_a_member_that_its_store_has_ended_is_dropped_from_the_head(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        claims = [slot(ada), slot(ben)]
        assert bench.store.discard(claims[0])
        assert slot(eve).slot == 0
        assert all(map(bench.store.discard, bench.store.read_all([claims[0].scoped, claims[1].scoped])))  # type: ignore[arg-type]
        assert head(bench) is not None
        ada.prune()
        assert bench.store.read(SCOPED) is None

    @pytest.mark.rule("M4")
    def test_a_member_that_renews_while_it_is_removed_stays(self, bench: Bench) -> None:
        interrupting = Interrupting(bench.store)
        ada, ben = bench.session(), bench.session(interrupting)
        grant = share(ada, ttl_minutes=1)
        bench.world.pass_time(61)
        interrupting.interrupt_with(lambda: ada.renew(grant, TTL))
        assert ben.try_claim(KEY).status is Status.HELD and interrupting.ran == 1
        assert set(holders(bench)) == names(ada)

    @pytest.mark.rule("M6")
    @pytest.mark.parametrize("stays", [True, False], ids=["another stays", "nobody stays"])
    @pytest.mark.parametrize("shared", [True, False], ids=["shared", "slots"])
    def test_the_note_of_a_dead_one_is_told_to_the_next_once(self, bench: Bench, stays: bool, shared: bool) -> None:
        dead, ada, ben, eve = (bench.session() for _ in range(4))

        def come(session: Session) -> ClaimResult:
            return attempt(session, shared=True) if shared else attempt(session, slots=4)

        come(dead)
        dead.try_claim(KEY, shared=shared, slots=None if shared else 4, note="half done")
        if stays:
            come(eve)
        bench.world.kill(dead)
        assert taken_over(come(ada)) == (ClaimState.ORPHANED, "half done")
        assert come(ben).taken_over is None

    def test_one_that_expired_and_comes_again_is_told_that_it_has_lost_it(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        old = share(ada, ttl_minutes=1)
        bench.world.pass_time(61)
        again = ada.try_claim(KEY, shared=True)
        assert again.status is Status.ACQUIRED and isinstance(again.found, Claim)
        assert again.lost == old and again.found.generation > old.generation
        bench.world.pass_time(HALF_AN_HOUR)
        granted(ben)
        assert ada.try_claim(KEY, shared=True).lost == again.found
        assert ada.take_losses() == []


def test_near_keys_of_which_several_have_one_are_named_with_a_holder(queues: Bench) -> None:
    ada, ben = queues.session(), queues.session()
    claim = share(ada, "acme/web#12")
    assert ben.near_claims(ScopedKey(DEFAULT_NAMESPACE, "acme-web#12")) in ((), (claim,))
    near = ben.near_claims(ScopedKey(DEFAULT_NAMESPACE, "Acme/web#12"))
    assert near == (claim,)
