"""Keys that several sessions hold at once: shared by any number or in N slots, in groups, and where files overlap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import SHARED, Claim, ScopedKey
from mcp_claims.model.validation import DEFAULT_NAMESPACE
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from tests.session.bench import KEY, Bench, LayoutBench, granted
from tests.session.faulty import Overtaken
from tests.session.sharing import (
    ALONE_USE,
    GREEN,
    RED,
    SCOPED,
    SLOT_USE,
    TTL,
    attempt,
    head,
    holders,
    named,
    names,
    share,
    slot,
    wait,
)
from tests.support.interrupting import Interrupting


@pytest.fixture
def bench(bench_of_several: Bench) -> Bench:
    return bench_of_several


class TestShared:
    @pytest.mark.rule("M1")
    def test_any_number_have_it_at_once_each_with_a_claim_and_a_generation_of_its_own(self, bench: Bench) -> None:
        sessions = [bench.session() for _ in range(5)]
        claims = [share(each) for each in sessions]
        assert holders(bench) == {each.holder.name: "shared" for each in sessions}
        assert len({each.generation for each in claims}) == 5 and {each.scoped.base for each in claims} == {SCOPED}
        above = head(bench)
        assert above is not None and set(above.places) == {each.scoped for each in claims}
        assert all(each.inspect(KEY).held_by_you for each in sessions)

    @pytest.mark.rule("M1")
    def test_the_head_is_nobodys_claim(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        claim = share(ada)
        above = head(bench)
        assert above is not None
        assert ada.renew(above, TTL) is None and not ben.release(KEY).released
        assert not ben.inspect(KEY, generation=claim.generation + 1_000).in_force
        assert ben.near_claims(ScopedKey(DEFAULT_NAMESPACE, KEY.upper())) in ((), (claim,))
        assert head(bench) == above

    def test_it_is_renewed_by_another_call_and_by_a_keep_alive_and_keeps_its_generation(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        claim = share(ada)
        share(ben)
        bench.world.pass_time(20 * 60)
        again = ada.try_claim(KEY, shared=True, note="still here")
        assert again.status is Status.RENEWED and isinstance(again.found, Claim)
        assert (again.found.generation, again.found.note) == (claim.generation, "still here")
        bench.world.pass_time(20 * 60)
        assert ada.renew(again.found, TTL) is not None
        bench.world.pass_time(20 * 60)
        assert set(holders(bench)) == names(ada)

    @pytest.mark.rule("M2")
    def test_the_last_to_go_takes_the_head_with_it(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        share(ada)
        share(ben)
        assert ada.release(KEY).released and set(holders(bench)) == names(ben) and not ada.holds_anything
        assert eve.try_claim(KEY).status is Status.HELD
        assert ben.release(KEY).released and bench.store.read(SCOPED) is None
        assert list(bench.store.scan()) == [] and eve.try_claim(KEY).claimed

    def test_whoever_wants_it_alone_is_told_of_all_who_share_it(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        claims = [share(ada), share(ben)]
        for refused in (eve.try_claim(KEY), eve.try_claim("red", also=[KEY])):
            assert (
                refused.status is Status.HELD and not refused.blocked_by_own and set(refused.in_the_way) == set(claims)
            )
        assert eve.try_claim("red", or_else=[KEY]).claimed and eve.try_claim(KEY, or_else=["blue"]).claimed

    def test_a_claim_alone_is_in_the_way_of_whoever_would_share(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        claim = granted(ada)
        refused = ben.try_claim(KEY, shared=True)
        assert (refused.status, refused.found, refused.blocked_by_own) == (Status.HELD, claim, False)
        ada.release(KEY)
        assert ben.try_claim(KEY, shared=True).status is Status.ACQUIRED

    @pytest.mark.rule("M2")
    def test_of_one_that_shares_and_one_that_has_it_alone_only_one_wins(self, bench: Bench) -> None:
        interrupting = Interrupting(bench.store)
        ada, ben = bench.session(interrupting), bench.session()
        interrupting.interrupt_with(lambda: granted(ben))
        assert ada.try_claim(KEY, shared=True).status is Status.HELD and interrupting.ran == 1
        ben.release(KEY)
        interrupting.interrupt_with(lambda: share(ben))
        assert ada.try_claim(KEY).status is Status.HELD and interrupting.ran == 2
        assert set(holders(bench)) == names(ben)

    @pytest.mark.rule("M2")
    def test_two_that_come_at_once_are_both_in(self, bench: Bench) -> None:
        interrupting = Interrupting(bench.store)
        ada, ben, eve = bench.session(interrupting), bench.session(), bench.session()
        interrupting.interrupt_with(lambda: share(ben), lambda: share(eve), lambda: eve.release(KEY))
        share(ada)
        assert interrupting.ran >= 2
        assert names(ada, ben) <= set(holders(bench))

    @pytest.mark.rule("M2")
    def test_one_that_goes_while_another_comes_leaves_it_in(self, bench: Bench) -> None:
        interrupting = Interrupting(bench.store)
        ada, ben = bench.session(interrupting), bench.session()
        share(ada)
        interrupting.interrupt_with(lambda: share(ben))
        assert ada.release(KEY).released and interrupting.ran == 1
        above = head(bench)
        assert set(holders(bench)) == names(ben) and above is not None and len(above.members) == 1

    def test_an_inspection_says_whether_a_call_of_the_same_kind_would_be_refused(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        first, second = share(ada), share(ben)
        seen = eve.inspect(KEY, generation=second.generation)
        assert (seen.in_force, seen.held_by_you, seen.claimed_by_other, seen.is_open) == (True, False, False, True)
        assert {seen.found, *seen.beside} == {first, second}
        seen = ada.inspect(KEY, generation=first.generation)
        assert (seen.in_force, seen.held_by_you, seen.found, seen.beside) == (True, True, first, (second,))
        ben.release(KEY)
        assert not eve.inspect(KEY, generation=second.generation).in_force

    def test_a_list_shows_each_member_and_no_head(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        claims = {share(ada, "red"), share(ben, "red"), slot(ada, key="green")}
        for namespace in (None, DEFAULT_NAMESPACE):
            assert {each.found for each in ada.list_claims(namespace).claims} == claims
        assert {each.found for each in ada.list_claims(mine=True).claims} == {
            each for each in claims if each.holder == ada.holder
        }
        pages, after = [], ""
        while True:
            page = ben.list_claims(after=after, limit=1)
            pages += [each.found for each in page.claims]
            if page.after is None:
                break
            after = page.after
        assert set(pages) == claims and len(pages) == 3
        shown = ben.read("red").claims
        assert {each.found for each in shown} == {each for each in claims if each.scoped.base == RED}
        assert all(each.state is ClaimState.HELD for each in shown)


class TestSlots:
    @pytest.mark.rule("M1")
    def test_as_many_as_there_are_slots_have_one_each(self, bench: Bench) -> None:
        ada, ben, eve, dan = (bench.session() for _ in range(4))
        assert [slot(each, 3).slot for each in (ada, ben, eve)] == [0, 1, 2]
        refused = dan.try_claim(KEY, slots=3)
        assert refused.status is Status.HELD and not refused.blocked_by_own and len(refused.in_the_way) == 3
        assert dan.inspect(KEY).claimed_by_other and not ada.inspect(KEY).claimed_by_other
        assert ben.release(KEY).released
        assert not dan.inspect(KEY).claimed_by_other
        freed = dan.try_claim(KEY, slots=3)
        assert freed.status is Status.ACQUIRED and isinstance(freed.found, Claim) and freed.found.slot == 1

    def test_asking_again_renews_the_slot(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        slot(ada)
        claim = slot(ben)
        bench.world.pass_time(20 * 60)
        again = ben.try_claim(KEY, slots=2)
        assert again.status is Status.RENEWED and isinstance(again.found, Claim)
        assert (again.found.slot, again.found.generation) == (1, claim.generation)
        assert set(holders(bench).values()) == {"0", "1"}

    @pytest.mark.rule("M2")
    def test_of_two_that_want_the_last_slot_one_gets_it(self, bench: Bench) -> None:
        interrupting = Interrupting(bench.store)
        ada, ben, eve = bench.session(), bench.session(), bench.session(interrupting)
        slot(ada)
        interrupting.interrupt_with(lambda: slot(ben))
        assert eve.try_claim(KEY, slots=2).status is Status.HELD and interrupting.ran == 1
        assert set(holders(bench)) == names(ada, ben)

    @pytest.mark.rule("M2")
    @pytest.mark.parametrize("last", [True, False], ids=["last slot", "first slot"])
    def test_one_that_comes_after_the_head_was_read_and_before_it_is_written_is_seen(
        self, bench: Bench, last: bool
    ) -> None:
        overtaken = Overtaken(bench.store)
        ada, ben, eve = bench.session(), bench.session(), bench.session(overtaken)
        if last:
            slot(ada)
        overtaken.rival = (lambda: slot(ben)) if last else (lambda: granted(ben))
        assert eve.try_claim(KEY, slots=2).status is Status.HELD and overtaken.ran == 1
        assert set(holders(bench)) == (names(ada, ben) if last else names(ben))

    @pytest.mark.rule("M5")
    def test_another_number_is_an_error_that_names_the_one_in_use(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        slot(ada, 2)
        for session in (ada, ben):
            with pytest.raises(InvalidInputError, match="slots must be 2 "):
                session.try_claim(KEY, slots=3)
        ada.release(KEY)
        assert slot(ben, 3).slot == 0

    @pytest.mark.rule("M5")
    def test_the_number_ends_with_the_last_holder_that_dies(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        slot(ada, 2)
        bench.world.kill(ada)
        assert slot(ben, 3).slots == 3

    @pytest.mark.rule("M5")
    def test_the_number_lives_while_a_ticket_does(self, queues: Bench) -> None:
        holder, ada, ben = (queues.session() for _ in range(3))
        granted(holder)
        wait(queues, ada, use=SLOT_USE)
        holder.release(KEY)
        with pytest.raises(InvalidInputError, match="slots must be 2 "):
            ben.try_claim(KEY, slots=3)
        ada.end_wait(SCOPED, keeps_place=False)
        assert slot(ben, 3).slots == 3

    @pytest.mark.rule("M5")
    def test_the_number_lives_while_a_reservation_does(self, queues: Bench) -> None:
        ada, ben = queues.session(), queues.session()
        assert attempt(ada, slots=2, reserve=True).status is Status.YOUR_TURN
        with pytest.raises(InvalidInputError, match="slots must be 2 "):
            ben.try_claim(KEY, slots=3)
        queues.world.pass_time(60)
        assert slot(ben, 3).slots == 3

    @pytest.mark.rule("M5")
    def test_each_other_way_of_holding_is_refused_and_says_whether_it_is_the_sessions_own(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        slot(ada)
        for session, own in ((ada, True), (ben, False)):
            for refused in (session.try_claim(KEY), session.try_claim(KEY, shared=True)):
                assert (refused.status, refused.blocked_by_own) == (Status.HELD, own)
        ada.release(KEY)
        share(ada)
        for session, own in ((ada, True), (ben, False)):
            refused = session.try_claim(KEY, slots=2)
            assert (refused.status, refused.blocked_by_own) == (Status.HELD, own)
        ada.release(KEY)
        granted(ada)
        for session, own in ((ada, True), (ben, False)):
            refused = session.try_claim(KEY, slots=2)
            assert (refused.status, refused.blocked_by_own) == (Status.HELD, own)

    def test_two_processes_of_a_named_session_have_one_slot(self, bench: Bench) -> None:
        ada, twin, ben, eve = named(bench), named(bench), bench.session(), bench.session()
        claim = slot(ada)
        again = twin.try_claim(KEY, slots=2)
        assert again.status is Status.RENEWED and isinstance(again.found, Claim)
        assert (again.found.slot, again.found.generation) == (0, claim.generation)
        assert slot(ben).slot == 1 and eve.try_claim(KEY, slots=2).status is Status.HELD
        assert twin.release(KEY).released and slot(eve).slot == 0
        assert not ada.release(KEY).released and set(holders(bench)) == names(ben, eve)

    def test_a_release_frees_the_slot_that_another_process_of_the_session_got_instead(self, bench: Bench) -> None:
        ada, twin, ben = named(bench), named(bench), bench.session()
        slot(ada)
        twin.release(KEY)
        slot(ben)
        assert slot(twin).slot == 1
        assert ada.release(KEY).released and set(holders(bench)) == names(ben)

    def test_one_that_lost_its_slot_and_got_another_releases_that(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        old = slot(ada, ttl_minutes=1)
        bench.world.pass_time(61)
        assert slot(ben).slot == 0
        again = ada.try_claim(KEY, slots=2)
        assert (again.status, again.lost) == (Status.ACQUIRED, old)
        assert isinstance(again.found, Claim) and again.found.slot == 1
        assert ada.take_losses() == [], "it has been reported"
        assert ada.release(KEY).released and set(holders(bench)) == names(ben) and not ada.holds_anything

    def test_the_longest_key_has_places_too(self, bench: Bench) -> None:
        key = "k" * 1_024
        sessions = [bench.session() for _ in range(3)]
        assert [slot(each, 1_000, key).slot for each in sessions] == [0, 1, 2]
        assert len(holders(bench, key)) == 3 and sessions[2].inspect(key).held_by_you
        for each in sessions:
            assert each.release(key).released
            share(each, f"file:/{'deep/' * 200}a.py")
        assert sessions[0].try_claim("file:/deep/").status is Status.HELD
        for each in sessions:
            each.close()
        assert list(bench.store.scan()) == []


class TestGroups:
    def test_all_keys_of_a_call_are_shared_or_none(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        green = granted(eve, "green")
        refused = attempt(ada, "red", "green", shared=True)
        assert (refused.status, refused.found) == (Status.HELD, green) and holders(bench, "red") == {}
        eve.release("green")
        for each in (ada, ben):
            assert attempt(each, "red", "green", shared=True).status is Status.ACQUIRED
        assert set(holders(bench, "red")) == set(holders(bench, "green")) == names(ada, ben)
        assert eve.try_claim("green").status is Status.HELD
        assert ada.release("green").released and set(holders(bench, "red")) == names(ben)
        ben.close()
        assert list(bench.store.scan()) == []

    def test_as_many_as_a_call_can_name_are_shared_and_released_at_once(self, bench: Bench) -> None:
        sessions = [bench.session(), bench.session()]
        keys = [f"key {number}" for number in range(32)]
        for each in sessions:
            assert attempt(each, *keys, shared=True).status is Status.ACQUIRED
            bench.world.pass_time(23 * 3600)
            assert share(each, *keys, ttl_minutes=1_440).group
        bench.world.kill(sessions[0])
        assert sessions[1].release(keys[7]).released
        sessions[1].prune()
        assert list(bench.store.scan()) == []

    def test_a_lost_member_is_named_and_nothing_is_taken_anew(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        share(ada, "red", "green")
        green = next(each.found for each in ben.read("green").claims)
        assert ben.revoke(green, "needed")
        bench.world.pass_time(20 * 60)
        for keys in (["red"], ["red", "green"]):
            result = attempt(ada, *keys, shared=True)
            assert (result.status, [each.base for each in result.missing]) == (Status.HELD, [GREEN])
        assert holders(bench, "green") == {} and ben.try_claim("green").claimed
        bench.world.pass_time(20 * 60)
        assert set(holders(bench, "red")) == names(ada), "the other is renewed all the same"
        assert ada.release("red").released and holders(bench, "red") == {}

    def test_a_keep_alive_goes_on_with_the_others_and_the_loss_is_told(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        grant = share(ada, "red", "green")
        assert ben.revoke(grant)
        kept = ada.renew(grant, TTL)
        assert kept is not None and kept.scoped.base == GREEN
        assert [lost.scoped.base for lost, _ in ada.take_losses()] == [RED]

    def test_a_session_does_not_give_way_to_one_that_waits_for_what_it_shares(self, queues: Bench) -> None:
        ada, ben = queues.session(), queues.session()
        share(ada, "red")
        wait(queues, ben, "red", "green", use=ALONE_USE)
        assert ada.try_claim("green", shared=True).claimed

    def test_a_turn_is_for_all_and_so_is_a_decline(self, queues: Bench) -> None:
        holder, ada, ben = (queues.session() for _ in range(3))
        granted(holder, "green")
        wait(queues, ada, "red", "green", use=SHARED)
        holder.release("green")
        assert attempt(ada, "red", "green", shared=True, reserve=True).status is Status.YOUR_TURN
        assert ben.try_claim("red").status is Status.HELD
        assert ben.try_claim("red", shared=True).claimed, "a turn to share is in nobody's way who shares"
        assert ada.release("red").declined
        assert set(holders(queues, "red")) == names(ben) and holders(queues, "green") == {}


class TestFiles:
    @pytest.mark.rule("M8")
    @pytest.mark.parametrize(("held", "wanted"), [("new/", "new/a.py"), ("new/a.py", "new/"), ("**/*.py", "new/a.py")])
    def test_keys_that_overlap_exclude_each_other_unless_both_are_shared(
        self, bench: Bench, tmp_path: Path, held: str, wanted: str
    ) -> None:
        ada, ben = bench.session(), bench.session()
        held, wanted = (f"file:{tmp_path.resolve()}/{each}" for each in (held, wanted))
        take: list[Callable[[Session, str], ClaimResult]] = [
            lambda session, key: session.try_claim(key),
            lambda session, key: session.try_claim(key, shared=True),
            lambda session, key: session.try_claim(key, slots=2),
        ]
        for first in take:
            for second in take:
                claim = first(ada, held).found
                result = second(ben, wanted)
                if first is second is take[1]:
                    assert result.claimed and ben.release(wanted).released
                else:
                    assert (result.status, result.found) == (Status.HELD, claim)
                assert ada.release(held).released
        assert list(bench.store.scan()) == []

    @pytest.mark.rule("M8")
    def test_a_claim_on_a_directory_looks_at_the_members_below_it(self, bench: Bench, tmp_path: Path) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        directory = f"file:{tmp_path.resolve()}/new"
        share(ada, f"{directory}/a.py")
        claim = share(ben, f"{directory}/a.py")
        bench.world.kill(ada)
        refused = eve.try_claim(f"{directory}/")
        assert (refused.status, refused.found) == (Status.HELD, claim), "a dead one is in nobody's way"
        bench.world.kill(ben)
        assert eve.try_claim(f"{directory}/").claimed

    @pytest.mark.rule("M8")
    def test_slots_of_one_file_are_beside_each_other(self, bench: Bench, tmp_path: Path) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        path = f"file:{tmp_path.resolve()}/new/a.py"
        assert [slot(each, key=path).slot for each in (ada, ben)] == [0, 1]
        assert eve.try_claim(path, slots=2).status is Status.HELD

    @pytest.mark.rule("M8")
    def test_the_only_one_that_shares_a_file_gets_it_alone_unless_another_shares_what_overlaps(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        ada, ben = bench.session(), bench.session()
        directory = f"file:{tmp_path.resolve()}/new"
        share(ada, f"{directory}/a.py")
        other = share(ben, f"{directory}/")
        refused = ada.try_claim(f"{directory}/a.py")
        assert (refused.status, refused.found, refused.blocked_by_own) == (Status.HELD, other, True)
        ben.release(f"{directory}/")
        assert ada.try_claim(f"{directory}/a.py").status is Status.RENEWED

    @pytest.mark.rule("M8")
    def test_a_member_that_expired_is_not_renewed_beside_what_overlaps(self, bench: Bench, tmp_path: Path) -> None:
        ada, ben = bench.session(), bench.session()
        directory = f"file:{tmp_path.resolve()}/new"
        claim = share(ada, f"{directory}/a.py", ttl_minutes=1)
        bench.world.pass_time(61)
        granted(ben, f"{directory}/")
        assert ada.renew(claim, TTL) is None
        assert ada.try_claim(f"{directory}/a.py", shared=True).status is Status.HELD


@pytest.mark.parametrize(("option", "value"), [("shared", True), ("slots", 2)])
def test_the_layout_of_agent_awareness_refuses_with_a_reason(tmp_path: Path, option: str, value: object) -> None:
    session = LayoutBench(tmp_path / "claims").session()
    with pytest.raises(InvalidInputError, match=f"{option} must be left out in this layout") as refusal:
        session.try_claim(KEY, **{option: value})  # type: ignore[arg-type]
    assert refusal.value.field == option
    with pytest.raises(InvalidInputError, match="layout"), session.claim(KEY, **{option: value}):  # type: ignore[arg-type]
        pytest.fail("it cannot be claimed")
