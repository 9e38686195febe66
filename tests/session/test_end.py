"""The end of a session: its claims are free, nobody else's is touched, and it never takes long."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mcp_claims.errors import SessionEndedError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.session.turns import CLOSE_TIMEOUT
from mcp_claims.stores.base import LOCK_TIMEOUT, Store, Swap
from tests.session.bench import HALF_AN_HOUR, KEY, Bench, granted
from tests.session.faulty import Busy, Failing, Sluggish
from tests.support.interrupting import DelegatingStore, Interrupting


def holders(bench: Bench) -> list[str]:
    return [found.holder.name for found in bench.store.scan() if isinstance(found, Claim)]


@pytest.mark.rule("C8")
def test_the_end_releases_every_own_claim_in_every_namespace_and_only_those(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    for key, namespace in (("a", "one"), ("b", "one"), ("a", "two")):
        granted(session, key, namespace)
    granted(other, "c", "one")
    granted(other, "b", "two")
    assert session.close() == 3
    assert holders(bench) == [other.holder.name] * 2


def test_the_end_counts_what_it_released_and_not_what_was_released_before(bench: Bench) -> None:
    session = bench.session()
    granted(session, "a")
    granted(session, "b")
    session.release("a")
    assert session.close() == 1


def test_the_end_of_a_session_without_claims_creates_nothing(bench: Bench) -> None:
    before = bench.contents()
    assert bench.session().close() == 0
    assert bench.contents() == before


def test_the_end_releases_an_own_claim_that_has_expired(bench: Bench) -> None:
    session = bench.session()
    granted(session)
    bench.world.pass_time(HALF_AN_HOUR)
    session.close()
    assert holders(bench) == []


def test_the_end_spares_a_claim_that_was_lost_to_another(bench: Bench) -> None:
    session, taker = bench.session(), bench.session()
    granted(session)
    bench.world.pass_time(HALF_AN_HOUR)
    granted(taker)
    assert session.close() == 0
    assert taker.inspect(KEY).held_by_you


def test_the_end_spares_a_claim_that_is_lost_to_another_at_that_very_moment(bench: Bench) -> None:
    store = Interrupting(bench.store)
    session, taker = bench.session(store), bench.session()
    granted(session)
    bench.world.pass_time(HALF_AN_HOUR)
    store.interrupt_with(lambda: granted(taker))
    assert session.close() == 0
    assert store.ran == 1
    assert taker.inspect(KEY).held_by_you


def test_the_end_goes_on_when_a_claim_cannot_be_released(bench: Bench) -> None:
    failing = Failing(bench.store, set())
    session = bench.session(failing)
    for key in ("a", "b", "c"):
        granted(session, key)
    failing.keys.update({"a", "b"})
    assert session.close() == 1
    assert len(holders(bench)) == 2
    # What was left behind is free as soon as the process is gone.
    bench.world.kill(session)
    assert bench.session().try_claim("a").status is Status.ACQUIRED


@pytest.mark.rule("C8")
def test_the_end_takes_no_longer_than_it_may_however_many_claims_are_busy(bench: Bench) -> None:
    busy = Busy(bench.store)
    busy.idle = True
    session = bench.session(busy)
    for number in range(20):
        granted(session, f"key {number}", f"namespace {number % 4}")
    busy.idle = False
    assert session.close() == 0
    # Each claim was tried, the first for all of the time and the others without any to spare.
    assert len(busy.waits) == 20
    assert sum(busy.waits) <= CLOSE_TIMEOUT


@pytest.mark.rule("C8")
def test_the_end_of_a_dying_process_stops_when_its_time_is_up_and_any_other_goes_on(bench: Bench) -> None:
    for dying, released in ((True, 1), (False, 3)):
        slow = Sluggish(bench.store)
        session = bench.session(slow)
        for key in ("a", "b", "c"):
            granted(session, key)
        slow.each_takes = CLOSE_TIMEOUT
        assert session.close(dying=dying) == released
        assert len(holders(bench)) == 3 - released
        bench.world.kill(session)
        bench.session().prune()


def test_a_second_end_does_nothing(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    granted(session)
    assert session.close() == 1
    granted(other)
    assert session.close() == 0
    assert holders(bench) == [other.holder.name]


CALLS: dict[str, Callable[[Session], object]] = {
    "try_claim": lambda session: session.try_claim(KEY),
    "inspect": lambda session: session.inspect(KEY),
    "release": lambda session: session.release(KEY),
    "prune": lambda session: session.prune(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_ended_session_answers_nothing_more_and_changes_nothing(
    bench: Bench, call: Callable[[Session], object]
) -> None:
    session, other = bench.session(), bench.session()
    granted(session)
    session.close()
    granted(other)
    bench.world.pass_time(HALF_AN_HOUR)
    before = bench.contents()
    with pytest.raises(SessionEndedError):
        call(session)
    assert bench.contents() == before


def test_leaving_the_context_ends_the_session(bench: Bench) -> None:
    with bench.session() as session:
        granted(session)
    assert holders(bench) == []
    with pytest.raises(SessionEndedError):
        session.try_claim(KEY)


def test_leaving_the_context_by_an_error_ends_the_session_and_passes_the_error_on(bench: Bench) -> None:
    def fail_with(session: Session) -> None:
        with session:
            granted(session)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with(bench.session())
    assert holders(bench) == []


@pytest.mark.rule("P5")
def test_a_forked_child_that_leaves_the_context_does_not_release_its_parents_claims(bench: Bench) -> None:
    session = process_session(bench.store)
    granted(session)
    if not (child := os.fork()):
        # Whatever happens, the child must not go on as a second pytest.
        ended: int | None = None
        try:
            ended = session.close()
        finally:
            os._exit(99 if ended is None else ended)
    released = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert released != 1, "the child has released the parent's claim"
    assert session.inspect(KEY).held_by_you


class Gated(DelegatingStore):
    """Stops the next change right before or right after it is made: `there` says so, `go` lets it go on."""

    def __init__(self, store: Store, *, after: bool) -> None:
        super().__init__(store)
        self._after = after
        self.there, self.go = threading.Event(), threading.Event()

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        if not self._after:
            self._stop()
        swap = super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)
        if self._after:
            self._stop()
        return swap

    def _stop(self) -> None:
        if not self.there.is_set():
            self.there.set()
            assert self.go.wait(30)


@pytest.mark.rule("C8")
@pytest.mark.parametrize("after", [False, True], ids=["before it is stored", "before it is recorded"])
@pytest.mark.parametrize("renews", [False, True], ids=["new claim", "renewal"])
def test_a_session_that_ends_while_another_thread_claims_leaves_nothing_behind(
    bench: Bench, after: bool, renews: bool
) -> None:
    gate = Gated(bench.store, after=after)
    session = bench.session(gate)
    if renews:
        gate.there.set()
        granted(session)
        gate.there.clear()
    answers: list[object] = []

    def claim() -> None:
        try:
            answers.append(session.try_claim(KEY))
        except SessionEndedError as error:
            answers.append(error)

    thread = threading.Thread(target=claim)
    thread.start()
    assert gate.there.wait(30)
    session.close()
    gate.go.set()
    thread.join(30)
    assert [type(answer) for answer in answers] == [SessionEndedError]
    assert list(bench.store.scan()) == []
