"""Sessions that wait for each other in a circle, on the stores of one machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.model.records import Found, ScopedKey
from mcp_claims.model.validation import DEFAULT_NAMESPACE
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from tests.session.bench import Bench, FileBench, MemoryBench, granted
from tests.session.faulty import Overtaken
from tests.support.interrupting import DelegatingStore


@pytest.fixture(params=[MemoryBench, FileBench])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Return a bench whose store keeps tickets."""
    return MemoryBench() if request.param is MemoryBench else FileBench(tmp_path / "claims")


class TestCycles:
    def request(self, key: str) -> ScopedKey:
        return ScopedKey(DEFAULT_NAMESPACE, key)

    def ring(self, bench: Bench, size: int) -> list[Session]:
        """Return sessions each of which holds a key, and all but the last wait for that of the next."""
        sessions = [bench.session() for _ in range(size)]
        for number, session in enumerate(sessions):
            granted(session, f"key {number}")
        for number, session in enumerate(sessions[:-1]):
            bench.world.pass_time(1)
            session.queue.join(self.request(f"key {number + 1}"), 50)
            assert session.queue.find_cycle(self.request(f"key {number + 1}")) == ()
        bench.world.pass_time(1)
        return sessions

    @pytest.mark.rule("W6")
    @pytest.mark.parametrize("size", [2, 3, 5])
    def test_the_wait_that_closes_it_is_refused_and_no_other(self, bench: Bench, size: int) -> None:
        sessions = self.ring(bench, size)
        closing = self.request("key 0")
        sessions[-1].queue.join(closing, 50)
        cycle = sessions[-1].queue.find_cycle(closing)
        assert [claim.scoped.key for claim in cycle] == [f"key {number}" for number in range(size)]
        for number, session in enumerate(sessions[:-1]):
            assert session.queue.find_cycle(self.request(f"key {number + 1}")) == ()

    @pytest.mark.rule("W6")
    def test_a_row_that_ends_is_none(self, bench: Bench) -> None:
        sessions = self.ring(bench, 3)
        free = self.request("key 3")
        sessions[-1].queue.join(free, 50)
        assert sessions[-1].queue.find_cycle(free) == ()

    @pytest.mark.rule("W6")
    @pytest.mark.parametrize("breaks", ["dead", "released", "expired", "gave up"])
    def test_one_that_is_broken_is_none(self, bench: Bench, breaks: str) -> None:
        sessions = self.ring(bench, 3)
        closing = self.request("key 0")
        sessions[-1].queue.join(closing, 50)
        if breaks == "dead":
            bench.world.kill(sessions[1])
        elif breaks == "released":
            sessions[1].release("key 1")
        elif breaks == "expired":
            bench.world.pass_time(30 * 60)
        else:
            sessions[0].end_wait(self.request("key 1"), keeps_place=False)
        assert sessions[-1].queue.find_cycle(closing) == ()

    @pytest.mark.rule("W6")
    @pytest.mark.parametrize(
        "ends",
        [
            lambda _, session, key: session.end_wait(key, keeps_place=False),
            lambda bench, session, _: bench.world.kill(session),
        ],
        ids=["wait", "process"],
    )
    def test_a_wait_that_ends_while_it_is_read_makes_none(
        self, bench: Bench, ends: Callable[[Bench, Session, ScopedKey], object]
    ) -> None:
        sessions = self.ring(bench, 2)
        closing = self.request("key 0")
        overtaken = Overtaken(bench.store)
        last = sessions[-1]
        twin = Session(overtaken, last.holder, bench.world.process())
        twin.queue.join(closing, 50)
        overtaken.rival = lambda: ends(bench, sessions[0], self.request("key 1"))
        assert twin.queue.find_cycle(closing) == () and overtaken.ran == 1

    @pytest.mark.rule("W2", "W6")
    @pytest.mark.parametrize("closes", ["who waits behind it", "who holds the further key"])
    @pytest.mark.parametrize(
        "keys", [("a", "b", "c"), ("file:/w/a", "file:/w/b", "file:/w/")], ids=["a set", "a directory"]
    )
    def test_one_through_a_wait_for_more_keys_that_goes_before(
        self, bench: Bench, keys: tuple[str, str, str], closes: str
    ) -> None:
        first, holder, behind = (bench.session() for _ in range(3))
        free, further, whole = (first.resolve(self.request(key)) for key in keys)
        granted(holder, keys[1])
        granted(behind, "mine")
        also = (further,) if whole.key == "c" else ()
        first.queue.join(free if also else whole, 50, also)
        waits = [(holder, self.request("mine")), (behind, free)]
        waits = waits if closes == "who waits behind it" else waits[::-1]
        for session, key in waits:
            bench.world.pass_time(2)
            session.queue.join(key, 50)
        (other, other_key), (last, last_key) = waits
        assert behind.try_claim(keys[0]).status is Status.HELD, "it gives way to the first, which waits for the holder"
        assert other.queue.find_cycle(other_key) == first.queue.find_cycle(free if also else whole) == ()
        in_cycle = [further, self.request("mine")]
        cycle = last.queue.find_cycle(last_key)
        assert [claim.scoped for claim in cycle] == (in_cycle if last is behind else in_cycle[::-1])
        first.end_wait(free if also else whole, keeps_place=False)
        assert last.queue.find_cycle(last_key) == ()

    @pytest.mark.rule("W2", "W6")
    def test_behind_one_that_waits_for_what_a_session_holds_itself_there_is_none(self, bench: Bench) -> None:
        first, holder, behind = (bench.session() for _ in range(3))
        granted(holder, "b")
        granted(behind, "c")
        first.queue.join(self.request("a"), 50, (self.request("b"), self.request("c")))
        bench.world.pass_time(2)
        holder.queue.join(self.request("c"), 50)
        bench.world.pass_time(2)
        behind.queue.join(self.request("a"), 50)
        assert behind.queue.find_cycle(self.request("a")) == ()
        assert behind.try_claim("a").claimed

    @pytest.mark.rule("W6")
    def test_many_waits_of_few_sessions_are_read_once_each(self, bench: Bench) -> None:
        counting = CountsReads(bench.store)
        sessions = [bench.session() for _ in range(7)]
        for number, session in enumerate(sessions):
            granted(session, f"key {number}")
        for session in sessions:
            for number in range(len(sessions)):
                session.queue.join(self.request(f"key {number}"), 50)
        bench.world.pass_time(1)
        free_holder, stranger = bench.session(), bench.session(counting)
        granted(free_holder, "key x")
        stranger.queue.join(self.request("key 0"), 50)
        assert stranger.queue.find_cycle(self.request("key 0")) == ()
        assert counting.reads <= len(sessions)


class CountsReads(DelegatingStore):
    reads = 0

    def read(self, scoped: ScopedKey) -> Found:
        self.reads += 1
        return super().read(scoped)
