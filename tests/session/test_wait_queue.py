"""Places among those who wait, and turns as reservations, on the stores of one machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.errors import SessionEndedError, StoreUnavailableError
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.names import named_holder
from mcp_claims.model.records import Claim, Mode, Outcome, ScopedKey, Ticket
from mcp_claims.model.validation import DEFAULT_NAMESPACE, ClaimRequest
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT, TicketChange
from tests.session.bench import KEY, Bench, FileBench, LayoutBench, MemoryBench, granted
from tests.session.faulty import Overtaken
from tests.support.interrupting import DelegatingStore, Interrupting

SCOPED = ScopedKey(DEFAULT_NAMESPACE, KEY)


@pytest.fixture(params=[MemoryBench, FileBench])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Return a bench whose store keeps tickets."""
    return MemoryBench() if request.param is MemoryBench else FileBench(tmp_path / "claims")


def attempt(session: Session, *, reserve: bool = True, redo: bool = False) -> ClaimResult:
    """Make an attempt as a call does that has waited."""
    return session.try_request(ClaimRequest(SCOPED, redo=redo), reserve=reserve)


def wait(bench: Bench, *sessions: Session, seconds: float = 50) -> None:
    """Let *sessions* take tickets, one after the other, and grow older than a stranger may overtake."""
    for session in sessions:
        assert session.queue.join(SCOPED, seconds) is not None
    bench.world.pass_time(2)


def waiting(bench: Bench) -> list[str]:
    return [ticket.holder.name for ticket in bench.store.tickets(DEFAULT_NAMESPACE) if not ticket.lapsed]


def reserved_for(bench: Bench, session: Session) -> bool:
    found = bench.store.read(SCOPED)
    return isinstance(found, Claim) and found.mode is Mode.RESERVED and found.holder == session.holder


def turn(bench: Bench, outcome: Outcome | None = None) -> tuple[Session, Session]:
    """Return a session for which the key is reserved, and another that waits behind it."""
    holder, ada, ben = bench.session(), bench.session(), bench.session()
    granted(holder)
    wait(bench, ada, ben)
    holder.release(KEY, outcome=outcome)
    assert attempt(ada).status is Status.YOUR_TURN
    return ada, ben


class TestPlaces:
    @pytest.mark.rule("W2")
    def test_the_first_that_waited_is_served_whoever_asks(self, bench: Bench) -> None:
        holder, ada, ben, stranger = (bench.session() for _ in range(4))
        granted(holder)
        wait(bench, ada, ben)
        with bench.store.alarm(bench.store.tickets(DEFAULT_NAMESPACE)[0], lambda: None):
            holder.release(KEY)
        assert bench.store.read(SCOPED) is None, "the first has been woken"
        for other in (stranger, ben):
            assert attempt(other, reserve=False).status is Status.HELD and reserved_for(bench, ada)
        assert attempt(ada, reserve=False).status is Status.ACQUIRED
        assert waiting(bench) == [ben.holder.name]

    def test_a_stranger_whose_write_was_delayed_overtakes_nobody_who_has_grown_older_meanwhile(
        self, bench: Bench
    ) -> None:
        interrupting = Interrupting(bench.store)
        holder, ada, stranger = bench.session(), bench.session(), bench.session(interrupting)
        granted(holder)
        ticket = ada.queue.join(SCOPED, 50)
        assert ticket is not None
        interrupting.interrupt_with(lambda: bench.world.pass_time(2))  # As for a process that waits for the lock.
        with bench.store.alarm(ticket, lambda: None):
            holder.release(KEY)
            assert attempt(stranger, reserve=False).status is Status.HELD and interrupting.ran == 1
        assert reserved_for(bench, ada)

    @pytest.mark.rule("W2")
    def test_a_stranger_overtakes_one_that_came_in_the_same_second(self, bench: Bench) -> None:
        holder, ada, stranger = (bench.session() for _ in range(3))
        granted(holder)
        ticket = ada.queue.join(SCOPED, 50)
        assert ticket is not None
        bench.world.pass_time(0.9)
        with bench.store.alarm(ticket, lambda: None):
            holder.release(KEY)
            assert attempt(stranger, reserve=False).status is Status.ACQUIRED

    @pytest.mark.rule("W2")
    def test_the_ticket_of_a_dead_process_blocks_nobody(self, bench: Bench) -> None:
        holder, ada, stranger = (bench.session() for _ in range(3))
        granted(holder)
        wait(bench, ada)
        bench.world.kill(ada)
        holder.release(KEY)
        assert attempt(stranger, reserve=False).status is Status.ACQUIRED

    @pytest.mark.rule("W2")
    def test_nothing_is_reserved_for_a_dead_process(self, bench: Bench) -> None:
        holder, ada = bench.session(), bench.session()
        granted(holder)
        wait(bench, ada)
        bench.world.kill(ada)
        holder.release(KEY)
        assert bench.store.read(SCOPED) is None

    @pytest.mark.rule("W8")
    def test_a_wait_that_ends_keeps_its_place_for_half_a_minute_if_it_may_go_on(self, bench: Bench) -> None:
        holder, ada, ben = (bench.session() for _ in range(3))
        granted(holder)
        wait(bench, ada, ben, seconds=10)
        ada.end_wait(SCOPED, keeps_place=True)
        ben.end_wait(SCOPED, keeps_place=False)
        assert waiting(bench) == [ada.holder.name]
        wait(bench, ben, ada)
        assert waiting(bench) == [ada.holder.name, ben.holder.name]
        bench.world.pass_time(81)
        wait(bench, holder)
        assert waiting(bench) == [holder.holder.name]

    def test_a_place_is_kept_while_another_call_of_the_session_waits(self, bench: Bench) -> None:
        holder, ada = bench.session(), bench.session()
        granted(holder)
        wait(bench, ada, ada)
        ada.end_wait(SCOPED, keeps_place=False)
        assert waiting(bench) == [ada.holder.name]
        ada.end_wait(SCOPED, keeps_place=False)
        assert waiting(bench) == []

    def test_what_was_lost_is_taken_again(self, bench: Bench) -> None:
        holder, ada, ben = (bench.session() for _ in range(3))
        granted(holder)
        wait(bench, ada, ben)
        bench.store.change_tickets(DEFAULT_NAMESPACE, lambda _: ())
        assert not ada.queue.place(SCOPED).has_ticket
        assert ada.queue.rejoin(SCOPED, 10) is not None
        place = ada.queue.place(SCOPED)
        assert place.has_ticket and place.before is None
        ada.end_wait(SCOPED, keeps_place=False)
        assert waiting(bench) == []

    def test_the_end_of_a_session_gives_up_its_places(self, bench: Bench) -> None:
        holder, ada, ben = (bench.session() for _ in range(3))
        granted(holder)
        wait(bench, ada, ben)
        ada.close()
        assert waiting(bench) == [ben.holder.name]


class TestReservations:
    @pytest.mark.rule("W3")
    def test_it_is_taken_as_a_new_claim_whatever_the_arguments(self, bench: Bench) -> None:
        ada, _ = turn(bench)
        found = bench.store.read(SCOPED)
        taken = ada.try_claim(KEY, ttl_minutes=5, note="mine", redo=True)
        assert taken.status is Status.ACQUIRED and isinstance(taken.found, Claim) and isinstance(found, Claim)
        assert (taken.found.mode, taken.found.generation, taken.found.note) == (Mode.ALONE, found.generation, "mine")
        assert taken.lost is None and ada.release(KEY).released

    @pytest.mark.rule("W3")
    def test_it_is_nobodys_claim(self, bench: Bench) -> None:
        ada, ben = turn(bench)
        found = bench.store.read(SCOPED)
        assert isinstance(found, Claim)
        for session in (ada, ben):
            seen = session.inspect(KEY, generation=found.generation)
            assert (seen.held_by_you, seen.in_force, seen.your_turn) == (False, False, session is ada)
        assert not ada.holds_anything and ada.renew(found, ClaimRequest(SCOPED).ttl) is None
        assert ben.prune().live == 1 and not ben.release(KEY).released
        assert bench.store.read(SCOPED) == found, "and nothing has changed it"

    @pytest.mark.rule("W3")
    def test_a_call_that_goes_on_waiting_does_not_renew_it(self, bench: Bench) -> None:
        ada, _ = turn(bench)
        found = bench.store.read(SCOPED)
        bench.world.pass_time(30)
        assert attempt(ada).found == found and bench.store.read(SCOPED) == found

    @pytest.mark.rule("W5")
    @pytest.mark.parametrize(
        "end",
        [
            lambda session: session.release(KEY),
            lambda session: session.close(),
            lambda session: session.end_wait(SCOPED, keeps_place=False),
            lambda session: session.release_grant(session.read(KEY).claims[0].found),
        ],
        ids=["declined", "session ends", "wait is given up", "answer of a cancelled call"],
    )
    def test_it_ends_at_once_for_one_that_does_not_want_it(
        self, bench: Bench, end: Callable[[Session], object]
    ) -> None:
        ada, ben = turn(bench, Outcome.FAILED)
        if end.__code__.co_names[0] == "release_grant":
            ada.end_wait(SCOPED, keeps_place=True)
        end(ada)
        assert waiting(bench) == [ben.holder.name]
        result = attempt(ben, reserve=False)
        assert result.status is Status.ACQUIRED
        assert result.taken_over and result.taken_over.state is ClaimState.FAILED

    @pytest.mark.rule("W5")
    def test_one_that_leaves_between_the_look_at_its_ticket_and_the_reservation_gets_none(self, bench: Bench) -> None:
        holder, ada = bench.session(), bench.session()
        interrupting = Interrupting(bench.store)
        stranger = bench.session(interrupting)
        granted(holder)
        wait(bench, ada)
        with bench.store.alarm(bench.store.tickets(DEFAULT_NAMESPACE)[0], lambda: None):
            holder.release(KEY)
            # The first change finds out that others wait, the second is the reservation.
            interrupting.interrupt_with(lambda: None, lambda: ada.end_wait(SCOPED, keeps_place=False))
            assert attempt(stranger, reserve=False).status is Status.ACQUIRED and interrupting.ran == 2

    @pytest.mark.rule("W5")
    def test_one_that_leaves_while_a_release_reserves_the_key_for_it_gets_none(self, bench: Bench) -> None:
        interrupting = Interrupting(bench.store)
        holder, ada, stranger = bench.session(interrupting), bench.session(), bench.session()
        granted(holder)
        wait(bench, ada)
        ada.end_wait(SCOPED, keeps_place=True)
        interrupting.interrupt_with(lambda: None, lambda: ada.queue.leave(SCOPED))
        assert holder.release(KEY).released and interrupting.ran == 2
        assert attempt(stranger, reserve=False).status is Status.ACQUIRED

    @pytest.mark.rule("W2", "W5")
    def test_one_that_was_served_since_its_ticket_was_read_does_not_get_the_key_again_before_the_others(
        self, bench: Bench
    ) -> None:
        interrupting = Interrupting(bench.store)
        holder, ada, ben, stranger = bench.session(), bench.session(), bench.session(), bench.session(interrupting)
        granted(holder)
        wait(bench, ada, ben)
        with bench.store.alarm(bench.store.tickets(DEFAULT_NAMESPACE)[0], lambda: None):
            holder.release(KEY)

        def serve_ada() -> None:
            assert attempt(ada, reserve=False).status is Status.ACQUIRED
            with bench.store.alarm(bench.store.tickets(DEFAULT_NAMESPACE)[0], lambda: None):
                ada.release(KEY)

        # The first write finds that ada waits.  Before the second one, which would reserve the key for her, she is served,
        # and before the third one she is back.
        back: list[Status] = []
        interrupting.interrupt_with(lambda: None, serve_ada, lambda: back.append(attempt(ada, reserve=False).status))
        assert attempt(stranger, reserve=False).status is Status.HELD
        assert back == [Status.HELD] and reserved_for(bench, ben)

    @pytest.mark.rule("W5")
    def test_one_whose_session_ends_between_the_reservation_and_its_answer_frees_it(self, bench: Bench) -> None:
        holder = bench.session()
        overtaken = Overtaken(bench.store)
        ada = bench.session(overtaken)
        granted(holder)
        wait(bench, ada)
        holder.release(KEY)
        overtaken.rival = ada.close
        with pytest.raises(SessionEndedError):
            attempt(ada)
        assert bench.store.read(SCOPED) is None and waiting(bench) == []

    @pytest.mark.rule("W5")
    def test_it_is_taken_in_another_process_of_the_session_and_the_place_goes_with_it(self, bench: Bench) -> None:
        holder, ada, twin, stranger = (bench.session() for _ in range(4))
        for each in (ada, twin):
            each.holder = each.holder._replace(name=named_holder("rig", "", "ada"))
        granted(holder)
        wait(bench, ada)
        holder.release(KEY)
        assert attempt(ada).status is Status.YOUR_TURN
        assert attempt(twin, reserve=False).status is Status.ACQUIRED
        assert twin.release(KEY).released and waiting(bench) == []
        assert attempt(stranger, reserve=False).status is Status.ACQUIRED

    @pytest.mark.rule("W4")
    @pytest.mark.parametrize("outcome", [None, Outcome.DONE, Outcome.FAILED])
    @pytest.mark.parametrize("meet", ["try", "inspect", "prune", "revoke"])
    def test_one_that_lapses_leaves_what_it_replaced_and_the_next_is_served(
        self, bench: Bench, outcome: Outcome | None, meet: str
    ) -> None:
        holder, ada, ben = (bench.session() for _ in range(3))
        granted(holder)
        wait(bench, ada, ben, seconds=300)
        holder.release(KEY, outcome=outcome, note=outcome and "see the log")
        assert attempt(ada, redo=True).status is Status.YOUR_TURN
        found = bench.store.read(SCOPED)
        assert isinstance(found, Claim)
        if meet != "revoke":
            bench.world.pass_time(60)
        if meet == "inspect":
            assert not ben.inspect(KEY).your_turn
        elif meet == "prune":
            pruned = ben.prune()
            assert (pruned.expired, pruned.orphaned) == (0, 0), "it was no claim"
        elif meet == "revoke":
            assert ben.revoke(found)
        result = attempt(ben, reserve=False)
        assert result.status is (Status.DONE if outcome is Outcome.DONE else Status.ACQUIRED)
        left = result.found if outcome is Outcome.DONE else result.taken_over and result.taken_over.found
        assert (left.note if isinstance(left, Claim) else None) == (outcome and "see the log")

    @pytest.mark.rule("W4")
    def test_one_of_a_dead_process_is_free_at_once(self, bench: Bench) -> None:
        ada, ben = turn(bench)
        bench.world.kill(ada)
        assert attempt(ben, reserve=False).status is Status.ACQUIRED

    @pytest.mark.rule("W4")
    def test_one_whose_lapse_cannot_be_noted_is_not_replaced(self, bench: Bench) -> None:
        ada, ben = turn(bench)
        bench.world.pass_time(60)
        store = TicketsFail(bench.store)
        with pytest.raises(StoreUnavailableError):
            attempt(bench.session(store), reserve=False)
        assert reserved_for(bench, ada)
        assert attempt(ben, reserve=False).status is Status.ACQUIRED

    @pytest.mark.rule("W4")
    def test_work_that_is_done_is_not_kept_for_one_that_would_not_redo_it(self, bench: Bench) -> None:
        holder, ada, stranger = (bench.session() for _ in range(3))
        granted(holder)
        wait(bench, ada)
        holder.release(KEY, outcome=Outcome.DONE)
        assert attempt(stranger, reserve=False, redo=True).status is Status.ACQUIRED
        stranger.release(KEY, outcome=Outcome.DONE)
        assert attempt(ada).status is Status.DONE

    @pytest.mark.rule("W3")
    def test_its_generation_is_given_to_nobody_else(self, bench: Bench) -> None:
        ada, ben = turn(bench, Outcome.FAILED)
        found = bench.store.read(SCOPED)
        ada.release(KEY)
        taken = attempt(ben, reserve=False).found
        assert isinstance(found, Claim) and isinstance(taken, Claim) and taken.generation > found.generation

    @pytest.mark.rule("W3")
    def test_the_next_holder_learns_the_note_of_a_dead_one(self, bench: Bench) -> None:
        holder, ada, ben = (bench.session() for _ in range(3))
        granted(holder, note="pushed half of it")
        wait(bench, ada)
        bench.world.kill(holder)
        assert attempt(ben, reserve=False).status is Status.HELD and reserved_for(bench, ada)
        taken_over = attempt(ada, reserve=False).taken_over
        assert taken_over and taken_over.state is ClaimState.ORPHANED
        assert isinstance(taken_over.found, Claim) and taken_over.found.note == "pushed half of it"


@pytest.mark.rule("W3")
@pytest.mark.parametrize("end", ["taken", "declined", "lapsed"])
def test_a_turn_is_a_reservation_on_a_store_without_tickets_too(new_bench: Callable[[], Bench], end: str) -> None:
    bench = new_bench()
    ada, ben = bench.session(), bench.session()
    granted(ben)
    ben.release(KEY, outcome=Outcome.DONE)
    assert attempt(ada, redo=True).status is Status.YOUR_TURN
    assert attempt(ben, reserve=False, redo=True).status is Status.HELD
    if end == "taken":
        assert attempt(ada, reserve=False).status is Status.ACQUIRED
        assert attempt(ben, reserve=False, redo=True).status is Status.HELD
    elif end == "declined":
        assert ada.release(KEY).released
    else:
        bench.world.pass_time(60)
    if end != "taken":
        assert attempt(ben, reserve=False).status is Status.DONE


class TicketsFail(DelegatingStore):
    def change_tickets(
        self, target: ScopedKey | str, change: TicketChange, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> tuple[Ticket, ...]:
        raise StoreUnavailableError("tickets", OSError(28, "No space left on device"))


@pytest.mark.rule("W3")
def test_where_two_keys_share_a_record_a_turn_is_for_its_own_key_alone(tmp_path: Path) -> None:
    session = LayoutBench(tmp_path / "claims").session()
    slash, underscore = ClaimRequest(ScopedKey("ci", "a/b")), ClaimRequest(ScopedKey("ci", "a_b"))
    assert session.try_request(slash, reserve=True).status is Status.YOUR_TURN
    assert session.try_request(underscore).status is Status.HELD
    assert not session.inspect("a_b", "ci").your_turn and not session.release("a_b", "ci").released
    assert session.inspect("a/b", "ci").your_turn
    assert session.try_request(slash).status is Status.ACQUIRED
