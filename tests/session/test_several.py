"""Keys that several sessions hold at once: shared by any number, or in N slots; the rules M1 to M8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mcp_claims.errors import InvalidInputError, NotClaimedError, SessionEndedError
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import PLACES
from mcp_claims.model.names import named_holder
from mcp_claims.model.records import SHARED, Claim, Holder, Mode, Outcome, ScopedKey, Unreadable, Use
from mcp_claims.model.validation import DEFAULT_NAMESPACE, ClaimRequest
from mcp_claims.session.acquire import acquire
from mcp_claims.session.keepalive import KeepAlive
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from tests.session.bench import (
    DAY,
    HALF_AN_HOUR,
    KEY,
    Bench,
    EtcdBench,
    FileBench,
    FreedWhileWaiting,
    LayoutBench,
    MemoryBench,
    granted,
)
from tests.session.faulty import Overtaken
from tests.support.interrupting import Interrupting

SCOPED = ScopedKey(DEFAULT_NAMESPACE, KEY)
RED, GREEN = ScopedKey(DEFAULT_NAMESPACE, "red"), ScopedKey(DEFAULT_NAMESPACE, "green")
TTL = timedelta(minutes=30)


@pytest.fixture(params=["memory", "files", "etcd"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Return a bench whose store takes several keys at once; in the end each claim in a place is one that its head lists."""
    match request.param:
        case "memory":
            made: Bench = MemoryBench()
        case "files":
            made = FileBench(tmp_path / "claims")
        case _:
            made = EtcdBench()
    yield made
    for found in made.store.scan():
        if isinstance(found, Claim) and found.scoped.member and found.ended is None:
            above = made.store.read(found.scoped.base)
            assert isinstance(above, Unreadable) or (isinstance(above, Claim) and found.scoped in above.places)


@pytest.fixture(params=["memory", "files"])
def queues(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Return a bench whose store lets a test take tickets and wake nobody."""
    return MemoryBench() if request.param == "memory" else FileBench(tmp_path / "claims")


def attempt(
    session: Session,
    *keys: str,
    slots: int | None = None,
    shared: bool = False,
    reserve: bool = False,
    redo: bool = False,
) -> ClaimResult:
    """Make an attempt; with *reserve* as a call does that has waited."""
    key, *also = keys or (KEY,)
    request = ClaimRequest.parse(key, also=also, slots=slots, shared=shared, redo=redo)
    return session.try_request(session.resolved(request), reserve=reserve)


def share(session: Session, *keys: str, ttl_minutes: float = 30, note: str | None = None) -> Claim:
    """Share keys, which has to be possible; return the claim on the first."""
    key, *also = keys or (KEY,)
    result = session.try_claim(key, also=also, shared=True, ttl_minutes=ttl_minutes, note=note)
    assert result.claimed and isinstance(result.found, Claim), result
    return result.found


def slot(
    session: Session, slots: int = 2, key: str = KEY, *, ttl_minutes: float = 30, note: str | None = None
) -> Claim:
    """Take a slot, which has to be possible."""
    result = session.try_claim(key, slots=slots, ttl_minutes=ttl_minutes, note=note)
    assert result.claimed and isinstance(result.found, Claim), result
    return result.found


def holders(bench: Bench, key: str = KEY) -> dict[str, str]:
    """Return who holds *key*, by what `read` shows: how, or in which slot."""
    return {
        each.found.holder.name: each.found.mode.value if each.found.slot is None else str(each.found.slot)
        for each in bench.session().read(key).claims
        if isinstance(each.found, Claim) and each.state in (ClaimState.HELD, ClaimState.RESERVED)
    }


def named(bench: Bench) -> Session:
    """Open, in a process of its own, a session that has the same name in all of them."""
    machine = bench.world.process()
    return Session(bench.store, Holder(named_holder("rig", "", "ada"), machine.pid(), machine.proof()), machine)


def head(bench: Bench, scoped: ScopedKey = SCOPED) -> Claim | None:
    """Return the head at *scoped*, if there is one."""
    found = bench.store.read(scoped)
    return found if isinstance(found, Claim) and found.members else None


def wait(bench: Bench, session: Session, *keys: str, use: Use) -> None:
    """Let *session* take a ticket, and grow older than a stranger may overtake."""
    scoped = [ScopedKey(DEFAULT_NAMESPACE, key) for key in keys or (KEY,)]
    assert session.queue.join(scoped[0], 300, tuple(scoped[1:]), use=use) is not None
    bench.world.pass_time(2)


def names(*sessions: Session) -> set[str]:
    return {session.holder.name for session in sessions}


def taken_over(result: ClaimResult) -> tuple[ClaimState, str | None] | None:
    """Return the state and the note of what *result* says was there before."""
    if result.taken_over is None or not isinstance(result.taken_over.found, Claim):
        return None
    return result.taken_over.state, result.taken_over.found.note


ALONE_USE, SLOT_USE = Use(), Use(Mode.SLOT, 2)


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
        holder.release(KEY)
        for each in (eve, ben, ada):
            share(each)
        assert names(ada, ben, eve) == set(holders(queues))

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


def test_near_keys_of_which_several_have_one_are_named_with_a_holder(queues: Bench) -> None:
    ada, ben = queues.session(), queues.session()
    claim = share(ada, "acme/web#12")
    assert ben.near_claims(ScopedKey(DEFAULT_NAMESPACE, "acme-web#12")) in ((), (claim,))
    near = ben.near_claims(ScopedKey(DEFAULT_NAMESPACE, "Acme/web#12"))
    assert near == (claim,)
