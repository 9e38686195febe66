"""Waiting for a key: what ends the wait, and what the caller holds then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcp_claims.errors import StoreBusyError
from mcp_claims.model.records import Claim, Mode, ScopedKey, Ticket
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import Wakeup, acquire
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT, TicketChange
from mcp_claims.stores.memory import MemoryStore
from tests.session.bench import KEY, Bench, MemoryBench, granted, reserved_for


class StoppedWhileWaiting(Wakeup):
    """Is stopped during the first wait; *meanwhile* happens just after that."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    def wait(self, seconds: float, *others: object) -> bool:
        if not self.stopped:
            self.stop()
            self._meanwhile()
        return True


@pytest.mark.rule("V8")
def test_a_wait_that_was_stopped_does_not_take_a_key_that_becomes_free(bench: Bench) -> None:
    holder, waiter = bench.session(), bench.session()
    granted(holder)
    result = acquire(
        waiter,
        ClaimRequest.parse(KEY, wait_seconds=60),
        wakeup=StoppedWhileWaiting(lambda: holder.release(KEY)),
    )
    assert result.status is Status.HELD
    assert list(bench.store.scan()) == []


def keeps_place(waiter: Session) -> None:
    """Let *waiter* wait for a moment, as a tool does."""
    assert acquire(waiter, ClaimRequest.parse(KEY, wait_seconds=0.2), reserve=True).keeps_place


@pytest.mark.rule("V8")
def test_a_turn_whose_answer_reached_nobody_is_the_next_ones() -> None:
    bench = MemoryBench()
    holder, waiter, stranger = bench.session(), bench.session(), bench.session()
    granted(holder)
    reservation = reserved_for(waiter, holder).found
    assert isinstance(reservation, Claim)
    assert stranger.try_claim(KEY).status is Status.HELD
    waiter.release_grant(reservation)
    assert stranger.try_claim(KEY).status is Status.ACQUIRED


@pytest.mark.rule("V8")
def test_a_key_is_reserved_at_its_release_for_a_session_that_keeps_its_place() -> None:
    bench = MemoryBench()
    holder, waiter, stranger = bench.session(), bench.session(), bench.session()
    granted(holder)
    keeps_place(waiter)
    holder.release(KEY)
    (found,) = bench.store.scan()
    assert isinstance(found, Claim) and found.mode is Mode.RESERVED
    bench.world.pass_time(61)
    assert stranger.try_claim(KEY).status is Status.ACQUIRED


def test_what_is_done_is_done_again_without_a_place_before_it() -> None:
    bench = MemoryBench()
    holder, waiter, stranger = bench.session(), bench.session(), bench.session()
    granted(holder)
    keeps_place(waiter)
    holder.release(KEY, outcome="done")
    assert waiter.try_claim(KEY).status is Status.DONE
    assert stranger.try_claim(KEY, redo=True).status is Status.ACQUIRED


def test_a_person_takes_a_turn_back() -> None:
    bench = MemoryBench()
    holder, waiter, stranger = bench.session(), bench.session(), bench.session()
    granted(holder)
    reservation = reserved_for(waiter, holder).found
    assert stranger.revoke(reservation)
    assert stranger.try_claim(KEY).status is Status.ACQUIRED


class BusyTickets(MemoryStore):
    """A store whose list of tickets is locked while `busy`."""

    busy = False

    def change_tickets(
        self, target: ScopedKey | str, change: TicketChange, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> tuple[Ticket, ...]:
        if self.busy:
            raise StoreBusyError("memory", 0.0)
        return super().change_tickets(target, change, lock_timeout=lock_timeout)


def test_a_turn_is_not_declined_while_its_place_cannot_be_given_up() -> None:
    """Else the key would be reserved for the same session again."""
    bench, store = MemoryBench(), BusyTickets()
    holder, waiter, stranger = (bench.session(store) for _ in range(3))
    granted(holder)
    reserved_for(waiter, holder)
    store.busy = True
    with pytest.raises(StoreBusyError):
        waiter.release(KEY)
    store.busy = False
    assert waiter.release(KEY).declined
    assert stranger.try_claim(KEY).status is Status.ACQUIRED
