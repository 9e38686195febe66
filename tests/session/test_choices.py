"""The first of several keys that is free and not done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.records import Claim, Mode, Outcome, ScopedKey
from mcp_claims.model.validation import DEFAULT_NAMESPACE, ClaimRequest
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from tests.session.bench import Bench, FileBench, MemoryBench, granted
from tests.session.faulty import Failing

LIST = ("issue-1", "issue-2", "issue-3")


def choose(session: Session, *keys: str, reserve: bool = False) -> ClaimResult:
    keys = keys or LIST
    return session.try_request(ClaimRequest.parse(keys[0], or_else=keys[1:]), reserve=reserve)


def chosen(result: ClaimResult) -> str:
    assert isinstance(result.found, Claim)
    return result.found.scoped.key


@pytest.mark.rule("C16")
def test_each_session_gets_the_next_one_and_is_told_how_many_are_left(bench: Bench) -> None:
    for number, left in ((1, 2), (2, 1), (3, 0)):
        result = choose(bench.session())
        assert (result.status, chosen(result), result.left) == (Status.ACQUIRED, f"issue-{number}", left)
    refused = choose(bench.session())
    assert (refused.status, chosen(refused), refused.left) == (Status.HELD, "issue-1", 0)


@pytest.mark.rule("C16")
def test_a_session_that_holds_one_gets_that_one_until_it_releases_it(bench: Bench) -> None:
    session = bench.session()
    assert chosen(choose(session)) == "issue-1"
    again = choose(session, "issue-3", "issue-2", "issue-1")
    assert (again.status, chosen(again)) == (Status.RENEWED, "issue-1")
    session.release("issue-1", outcome=Outcome.DONE)
    assert chosen(choose(session)) == "issue-2"


@pytest.mark.rule("C16")
def test_what_is_done_is_passed_over_and_all_done_is_done(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    for key in LIST[:2]:
        granted(session, key)
        session.release(key, outcome=Outcome.DONE)
    held = granted(other, LIST[2])
    refused = choose(session)
    assert (refused.status, refused.found) == (Status.HELD, held), "held goes before done"
    other.release(LIST[2], outcome=Outcome.DONE)
    assert choose(session).status is Status.DONE
    redone = session.try_claim(LIST[0], or_else=LIST[1:], redo=True)
    assert (redone.status, chosen(redone)) == (Status.ACQUIRED, "issue-1")


def test_the_dead_are_taken_over_in_their_order(bench: Bench) -> None:
    dead, session = bench.session(), bench.session()
    granted(dead, LIST[0], note="half done")
    bench.world.kill(dead)
    result = choose(session)
    assert chosen(result) == "issue-1" and result.taken_over is not None
    assert isinstance(result.taken_over.found, Claim) and result.taken_over.found.note == "half done"


class TestWaits:
    @pytest.fixture(params=[MemoryBench, FileBench])
    def bench(self, request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
        """Return a bench whose store keeps tickets."""
        return MemoryBench() if request.param is MemoryBench else FileBench(tmp_path / "claims")

    @pytest.fixture
    def holders(self, bench: Bench) -> list[Session]:
        """A session for each key of the list, which holds it."""
        sessions = [bench.session() for _ in LIST]
        for session, key in zip(sessions, LIST, strict=True):
            granted(session, key)
        return sessions

    @pytest.fixture
    def wait(self, bench: Bench) -> Callable[[Session], None]:
        def wait(session: Session) -> None:
            first, *others = (ScopedKey(DEFAULT_NAMESPACE, key) for key in LIST)
            assert session.queue.join(first, 300, tuple(others), any_of_them=True) is not None
            bench.world.pass_time(2)

        return wait

    @pytest.mark.rule("C16", "W5")
    def test_who_declines_one_keeps_no_other(self, bench: Bench, wait: Callable[[Session], None]) -> None:
        holder, ada, stranger = (bench.session() for _ in range(3))
        assert holder.try_claim(LIST[0], also=LIST[1:]).claimed
        wait(ada)
        ada.end_wait(ScopedKey(DEFAULT_NAMESPACE, LIST[0]), keeps_place=True)
        holder.release(LIST[0])
        assert ada.inspect(LIST[0]).your_turn and ada.inspect(LIST[1]).your_turn
        assert ada.release(LIST[1]).declined
        assert stranger.try_claim(LIST[0], also=LIST[1:]).claimed

    @pytest.mark.rule("C16", "W5")
    def test_whichever_is_free_first_is_for_the_one_that_waited_longest(
        self, bench: Bench, holders: list[Session], wait: Callable[[Session], None]
    ) -> None:
        ada, ben, stranger = (bench.session() for _ in range(3))
        wait(ada)
        wait(ben)
        holders[1].release(LIST[1])
        kept = stranger.try_claim(LIST[1]).found
        assert isinstance(kept, Claim) and kept.mode is Mode.RESERVED and kept.holder == ada.holder
        result = choose(ada, reserve=True)
        assert (result.status, chosen(result)) == (Status.YOUR_TURN, "issue-2")
        assert chosen(choose(ada)) == "issue-2"
        holders[2].release(LIST[2])
        assert chosen(choose(ben)) == "issue-3"
        assert not bench.store.tickets(DEFAULT_NAMESPACE)

    @pytest.mark.rule("C16", "W5")
    def test_two_that_were_kept_for_one_session_are_one_too_many(
        self, bench: Bench, holders: list[Session], wait: Callable[[Session], None]
    ) -> None:
        ada, stranger = bench.session(), bench.session()
        wait(ada)
        for number in (0, 1):
            holders[number].release(LIST[number])
            assert stranger.try_claim(LIST[number]).status is Status.HELD
        assert chosen(choose(ada)) == "issue-1"
        assert stranger.try_claim(LIST[1]).claimed

    @pytest.mark.rule("C16")
    def test_a_grant_is_reported_although_another_turn_cannot_be_given_back(
        self, bench: Bench, holders: list[Session], wait: Callable[[Session], None]
    ) -> None:
        failing = Failing(bench.store, set())
        ada, stranger = bench.session(failing), bench.session()
        wait(ada)
        for number in (0, 1):
            holders[number].release(LIST[number])
            assert stranger.try_claim(LIST[number]).status is Status.HELD
        failing.keys = {LIST[1]}
        assert chosen(choose(ada)) == "issue-1"
        assert stranger.try_claim(LIST[1]).status is Status.HELD
        bench.world.pass_time(61)
        assert stranger.try_claim(LIST[1]).claimed

    @pytest.mark.rule("C16", "W5")
    def test_the_end_of_the_wait_and_of_the_session_keeps_nothing(
        self, bench: Bench, holders: list[Session], wait: Callable[[Session], None]
    ) -> None:
        ada, ben, stranger = (bench.session() for _ in range(3))
        for session in (ada, ben):
            wait(session)
        holders[1].release(LIST[1])
        assert stranger.try_claim(LIST[1]).status is Status.HELD
        ada.end_wait(ScopedKey(DEFAULT_NAMESPACE, LIST[0]), keeps_place=False)
        assert stranger.try_claim(LIST[1]).status is Status.HELD, "now it is kept for ben"
        ben.close()
        assert stranger.try_claim(LIST[1]).claimed


@pytest.mark.parametrize(
    ("given", "rule"),
    [({"or_else": ["x"] * 256}, "at most 255 keys"), ({"or_else": ["x"], "also": ["y"]}, "does not go with also")],
)
def test_what_cannot_be_a_list_is_refused_with_the_rule(bench: Bench, given: Any, rule: str) -> None:
    with pytest.raises(InvalidInputError, match=rule):
        bench.session().try_claim("red", **given)
