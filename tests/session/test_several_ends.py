"""What becomes of a claim beside others: passed on, undone, released with an outcome, or revoked."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_claims.errors import NotClaimedError, SessionEndedError
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Mode, Outcome
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import acquire
from mcp_claims.session.keepalive import KeepAlive
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from tests.session.bench import DAY, KEY, Bench, granted
from tests.session.faulty import Overtaken
from tests.session.sharing import (
    ALONE_USE,
    SCOPED,
    TTL,
    attempt,
    head,
    holders,
    named,
    names,
    share,
    slot,
    taken_over,
    wait,
)
from tests.support.interrupting import Interrupting


@pytest.fixture
def bench(bench_of_several: Bench) -> Bench:
    return bench_of_several


class TestPassingOn:
    @pytest.mark.rule("M5")
    def test_the_only_one_that_shares_gets_it_alone_and_shares_it_again(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        shared = share(ada, note="reading")
        alone = ada.try_claim(KEY)
        assert alone.status is Status.RENEWED and isinstance(alone.found, Claim)
        assert (alone.found.scoped, alone.found.mode, alone.found.note) == (SCOPED, Mode.ALONE, "reading")
        assert alone.found.generation == shared.generation
        assert ben.try_claim(KEY, shared=True).status is Status.HELD and holders(bench) == {ada.holder.name: "alone"}
        again = ada.try_claim(KEY, shared=True)
        assert again.status is Status.RENEWED and isinstance(again.found, Claim)
        assert again.found.generation == shared.generation and again.lost is None
        assert share(ben).generation > shared.generation
        assert ada.take_losses() == []
        assert ada.release(KEY).released and set(holders(bench)) == names(ben)

    @pytest.mark.rule("M5")
    def test_one_of_several_is_refused_at_once_and_does_not_wait(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        share(ada)
        share(ben)
        result = acquire(ada, ClaimRequest.parse(KEY, wait_seconds=300))
        assert (result.status, result.blocked_by_own) == (Status.HELD, True) and not result.keeps_place
        ben.release(KEY)
        assert ada.try_claim(KEY).status is Status.RENEWED

    @pytest.mark.rule("M5")
    def test_one_that_comes_meanwhile_prevents_it(self, bench: Bench) -> None:
        interrupting = Interrupting(bench.store)
        ada, ben = bench.session(interrupting), bench.session()
        share(ada)
        interrupting.interrupt_with(lambda: share(ben))
        refused = ada.try_claim(KEY)
        assert (refused.status, refused.blocked_by_own) == (Status.HELD, True) and interrupting.ran == 1
        assert set(holders(bench)) == names(ada, ben)

    @pytest.mark.rule("M5")
    def test_the_dead_do_not_prevent_it(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        share(ada)
        share(ben)
        bench.world.kill(ben)
        assert ada.try_claim(KEY).status is Status.RENEWED

    @pytest.mark.rule("M5")
    def test_a_key_of_a_group_is_not_passed_on(self, bench: Bench) -> None:
        ada = bench.session()
        share(ada, "red", "green")
        assert (ada.try_claim("red").status, ada.try_claim("red").blocked_by_own) == (Status.HELD, True)
        ada.release("red")
        attempt(ada, "red", "green")
        refused = ada.try_claim("red", shared=True)
        assert (refused.status, refused.blocked_by_own) == (Status.HELD, True)

    @pytest.mark.rule("M5", "W2")
    def test_it_overtakes_one_that_waits_to_have_it_alone(self, queues: Bench) -> None:
        ada, ben = queues.session(), queues.session()
        share(ada)
        wait(queues, ben, use=ALONE_USE)
        assert ada.try_claim(KEY).status is Status.RENEWED, "the key is never free in between"
        ada.release(KEY)
        assert attempt(ben, reserve=True).status is Status.YOUR_TURN

    @pytest.mark.rule("M4")
    def test_a_reader_never_finds_it_free_while_it_is_passed_on(self, bench: Bench) -> None:
        overtaken = Overtaken(bench.store)
        ada, ben = bench.session(), bench.session(overtaken)
        share(ada)
        overtaken.rival = lambda: ada.try_claim(KEY)
        assert ben.inspect(KEY).claimed_by_other and overtaken.ran == 1
        ada.try_claim(KEY, shared=True)
        overtaken.rival = lambda: ada.try_claim(KEY)
        assert [each.found for each in ben.read(KEY).claims] == [bench.store.read(SCOPED)] and overtaken.ran == 2
        ada.try_claim(KEY, shared=True)
        overtaken.rival = lambda: ada.try_claim(KEY)
        assert ben.try_claim(KEY, shared=True).status is Status.HELD and overtaken.ran == 3

    def test_a_file_that_expired_is_not_shared_beside_one_that_overlaps(self, bench: Bench, tmp_path: Path) -> None:
        ada, ben = bench.session(), bench.session()
        directory = f"file:{tmp_path.resolve()}/new"
        granted(ada, f"{directory}/", ttl_minutes=1)
        bench.world.pass_time(61)
        other = granted(ben, f"{directory}/a.py")
        refused = ada.try_claim(f"{directory}/", shared=True)
        assert (refused.status, refused.found) == (Status.HELD, other)

    def test_a_release_by_a_process_that_does_not_know_of_it_frees_the_key(self, bench: Bench) -> None:
        ada, twin = named(bench), named(bench)
        granted(ada)
        assert twin.try_claim(KEY, shared=True).status is Status.RENEWED
        assert ada.release(KEY).released and holders(bench) == {}
        share(ada)
        assert twin.try_claim(KEY).status is Status.RENEWED
        assert ada.release(KEY).released and holders(bench) == {}


class TestUndo:
    def test_a_cancelled_call_leaves_the_head_as_it_was(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        share(ada)
        before = head(bench)
        ben.undo(attempt(ben, shared=True))
        after = head(bench)
        assert before is not None and after == before._replace(generation=after.generation if after else 0)
        assert set(holders(bench)) == names(ada) and not ben.holds_anything
        ada.release(KEY)
        ada.undo(attempt(ada, slots=3))
        assert list(bench.store.scan()) == []

    @pytest.mark.rule("M6")
    @pytest.mark.parametrize("stays", [True, False], ids=["another stays", "nobody stays"])
    def test_a_cancelled_call_was_not_told_of_what_the_head_kept(self, bench: Bench, stays: bool) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        share(ada)
        if stays:
            share(eve)
        ada.release(KEY, outcome=Outcome.FAILED, note="red again")
        result = attempt(ben, shared=True)
        assert taken_over(result) == (ClaimState.FAILED, "red again")
        ben.undo(result)
        assert taken_over(attempt(ben, shared=True)) == (ClaimState.FAILED, "red again")

    @pytest.mark.parametrize("way", ["shared", "slots", "turn"])
    def test_a_cancelled_call_on_a_key_that_was_revoked_leaves_the_marker(self, bench: Bench, way: str) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        assert eve.revoke(granted(ada), "hangs")
        before = bench.store.read(SCOPED)
        slots = None if way == "shared" else 2
        result = attempt(ben, shared=slots is None, slots=slots, reserve=way == "turn")
        assert result.claimed or result.status is Status.YOUR_TURN
        ben.undo(result)
        assert bench.store.read(SCOPED) == before and list(bench.store.scan()) == [before]
        told = attempt(eve, shared=True).taken_over
        assert told is not None and told.found == before

    def test_what_a_cancelled_call_took_with_a_key_that_was_shared_before_is_given_back(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        share(ada, "red")
        ada.undo(attempt(ada, "red", "green", shared=True))
        assert set(holders(bench, "red")) == names(ada) and ben.try_claim("green").claimed
        assert ada.try_claim("red").status is Status.RENEWED, "it is no group any more"

    def test_the_end_of_a_session_in_the_middle_of_a_call_leaves_nothing(self, bench: Bench) -> None:
        interrupting = Interrupting(bench.store)
        ada, ben = bench.session(interrupting), bench.session()
        share(ben)
        interrupting.interrupt_with(ada.begin_close)
        with pytest.raises(SessionEndedError):
            attempt(ada, shared=True)
        assert set(holders(bench)) == names(ben) and not ada.holds_anything

    def test_the_end_of_a_session_frees_its_places(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        share(ada, "red", "green")
        slot(ada)
        slot(ben)
        assert ada.close() == 3 and not ada.holds_anything
        assert holders(bench, "red") == holders(bench, "green") == {} and set(holders(bench)) == names(ben)

    def test_a_block_holds_a_place_and_releases_it(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        with ada.claim(KEY, slots=2) as claim, ben.claim(KEY, slots=2) as other:
            assert (claim.slot, other.slot) == (0, 1)
            with pytest.raises(NotClaimedError, match="held by this session already"), ada.claim(KEY, slots=2):
                pytest.fail("the outer block holds it")
            assert set(holders(bench)) == names(ada, ben)
        with ada.claim(KEY, shared=True), pytest.raises(NotClaimedError), ada.claim(KEY):
            pytest.fail("the outer block holds it")
        assert list(bench.store.scan()) == []

    @pytest.mark.rule("M5")
    def test_a_block_and_a_keep_alive_go_on_with_what_the_claim_has_become(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        with ada.claim(KEY, shared=True) as grant:
            kept = KeepAlive(ada)
            kept.add(grant, TTL, 0)
            for number, shared in enumerate((False, True, False), 1):
                assert ada.try_claim(KEY, shared=shared).status is Status.RENEWED
                bench.world.pass_time(20 * 60)
                kept.renew_due(number * 1_000)
                kept.verify(grant.scoped)
                assert kept.get(grant.scoped) is not None
            bench.world.pass_time(20 * 60)
            assert ben.try_claim(KEY).status is Status.HELD
            assert ada.take_losses() == []
        assert list(bench.store.scan()) == [] and not ada.holds_anything


class TestOutcomes:
    @pytest.mark.rule("M6")
    @pytest.mark.parametrize("shared", [True, False], ids=["shared", "slots"])
    @pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.FAILED, Outcome.ABANDONED])
    def test_an_outcome_is_told_to_the_next_once_and_blocks_nobody(
        self, bench: Bench, shared: bool, outcome: Outcome
    ) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))

        def come(session: Session) -> ClaimResult:
            return attempt(session, shared=True) if shared else attempt(session, slots=2)

        come(ada)
        released = ada.release(KEY, outcome=outcome, note="see the log")
        assert released.released
        seen = ben.inspect(KEY)
        assert not seen.done and not seen.claimed_by_other and seen.marker is not None
        result = come(ben)
        assert result.status is Status.ACQUIRED and taken_over(result) == (ClaimState(outcome.value), "see the log")
        assert come(eve).taken_over is None

    @pytest.mark.rule("M6")
    def test_the_outcome_of_one_that_goes_before_others_is_kept_for_the_next(self, bench: Bench) -> None:
        ada, ben, eve, dan = (bench.session() for _ in range(4))
        for each in (ada, ben):
            share(each)
        ada.release(KEY, outcome=Outcome.FAILED, note="first")
        above = head(bench)
        assert above is not None and above.replaced is not None and above.replaced.note == "first"
        ben.release(KEY, outcome=Outcome.ABANDONED, note="second")
        assert taken_over(attempt(eve)) == (ClaimState.ABANDONED, "second")
        eve.release(KEY)
        assert attempt(dan, shared=True).taken_over is None

    @pytest.mark.rule("M6")
    def test_what_was_held_alone_and_is_done_blocks_every_kind_of_claim(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        granted(ada)
        ada.release(KEY, outcome=Outcome.DONE, note="merged")
        assert [attempt(ben, shared=True).status, attempt(ben, slots=2).status] == [Status.DONE] * 2
        result = attempt(ben, shared=True, redo=True)
        assert result.status is Status.ACQUIRED and taken_over(result) == (ClaimState.DONE, "merged")

    @pytest.mark.rule("M6")
    def test_what_the_head_keeps_ends_with_its_retention(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        share(ada)
        share(ben, ttl_minutes=600)
        ada.release(KEY, outcome=Outcome.FAILED, retention_hours=1)
        bench.world.pass_time(3600)
        ben.release(KEY)
        assert bench.store.read(SCOPED) is None and attempt(eve, shared=True).taken_over is None

    @pytest.mark.rule("M6")
    def test_one_that_has_it_alone_in_between_is_told_of_what_was_kept(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        for each in (ada, ben):
            share(each)
        ada.release(KEY, outcome=Outcome.FAILED, note="red again")
        alone = ben.try_claim(KEY)
        assert alone.status is Status.RENEWED and taken_over(alone) == (ClaimState.FAILED, "red again")

    def test_a_marker_that_a_place_has_left_is_forgotten(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        slot(ada)
        assert not ben.forget(KEY), "a claim stays"
        ada.release(KEY, outcome=Outcome.FAILED)
        assert ben.forget(KEY) and not ben.forget(KEY)
        assert attempt(ben, slots=2).taken_over is None


class TestRevocation:
    @pytest.mark.rule("M6")
    def test_it_takes_one_member_which_is_told_why(self, bench: Bench) -> None:
        ada, ben, eve = (bench.session() for _ in range(3))
        claim = share(ada)
        share(ben)
        assert eve.revoke(claim, "hangs")
        assert set(holders(bench)) == names(ben)
        assert not eve.inspect(KEY, generation=claim.generation).in_force
        if not bench.store.remote:  # It would take a request.
            ((lost, instead),) = ada.take_losses()
            assert lost == claim and isinstance(instead, Claim) and instead.ended is not None
            assert instead.ended.outcome is Outcome.REVOKED and "hangs" in (instead.note or "")
        assert ada.take_losses() == [] and not ada.release(KEY).released
        again = attempt(ada, shared=True)
        assert again.taken_over is not None and again.taken_over.state is ClaimState.REVOKED

    @pytest.mark.parametrize("call", ["inspect", "claim", "release"])
    def test_the_next_call_about_the_key_reports_the_loss_once(self, bench: Bench, call: str) -> None:
        ada, ben = bench.session(), bench.session()
        claim = slot(ada)
        assert ben.revoke(claim, "hangs")
        if call == "inspect":
            seen = ada.inspect(KEY)
            assert seen.lost == claim and not seen.held_by_you
        elif call == "claim":
            result = attempt(ada, slots=2)
            assert result.status is Status.ACQUIRED and result.lost == claim
        else:
            released = ada.release(KEY)
            assert not released.released and released.lost == claim
        assert ada.take_losses() == []

    def test_a_claim_that_was_renewed_meanwhile_is_revoked_too(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        claim = share(ada)
        bench.world.pass_time(60)
        share(ada, note="newer")
        assert ben.revoke(claim) and holders(bench) == {}
        assert not ben.revoke(claim)

    def test_a_renewal_does_not_bring_it_back(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        claim = slot(ada)
        assert ben.revoke(claim)
        assert ada.renew(claim, TTL) is None and holders(bench) == {}
        assert ben.try_claim(KEY).claimed

    def test_a_keep_alive_that_verifies_notices_it(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        share(ben)
        kept = KeepAlive(ada)
        claim = share(ada)
        kept.add(claim, TTL, 0)
        kept.verify(claim.scoped)
        assert kept.get(claim.scoped) == claim
        assert ben.revoke(claim)
        kept.verify(claim.scoped)
        assert kept.get(claim.scoped) is None

    def test_a_marker_in_a_place_ends_with_its_retention(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        assert ben.revoke(share(ada))
        assert ben.prune().markers == 1
        bench.world.pass_time(DAY)
        assert ben.prune().markers == 0 and list(bench.store.scan()) == []

    def test_a_turn_in_a_place_is_taken_back(self, bench: Bench) -> None:
        ada, ben = bench.session(), bench.session()
        turn = attempt(ada, slots=2, reserve=True).found
        assert isinstance(turn, Claim) and ben.revoke(turn)
        assert list(bench.store.scan()) == []
