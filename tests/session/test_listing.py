"""`list_claims`: what is stored and its state, a page at a time; listing changes nothing."""

from __future__ import annotations

import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Outcome, Unreadable
from mcp_claims.session.results import ClaimPage, ListedClaim
from mcp_claims.session.session import Session
from tests.session.bench import HALF_AN_HOUR, Bench, granted


def keys(session: Session, namespace: str | None = None, *, mine: bool = False, limit: int = 50) -> list[str]:
    """Read all pages; return the keys in their order."""
    seen, after = [], ""
    while True:
        page = session.list_claims(namespace, mine=mine, after=after, limit=limit)
        seen += [listed.found.scoped.key for listed in page.claims if isinstance(listed.found, Claim)]
        if page.after is None:
            return seen
        assert len(page.claims) == limit
        after = page.after


@pytest.mark.rule("C12")
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
def test_all_pages_together_have_each_claim_once_in_the_order_of_the_store(bench: Bench, limit: int) -> None:
    for namespace in ("a", "a-b", "a.b", "default"):
        for number in range(4):
            granted(bench.session(), f"key {number}", namespace)
    reader = bench.session()
    everything = keys(reader)
    assert len(everything) == 16
    assert keys(reader, limit=limit) == everything
    assert keys(reader, "a-b", limit=limit) == [f"key {number}" for number in range(4)]


def test_a_claim_that_goes_between_two_pages_hides_no_other(bench: Bench) -> None:
    holders = [bench.session() for _ in range(5)]
    for number, holder in enumerate(holders):
        granted(holder, f"key {number}")
    reader = bench.session()
    first = reader.list_claims(limit=2)
    assert first.after is not None
    holders[1].release("key 1")
    rest = reader.list_claims(after=first.after).claims
    assert [listed.found.scoped.key for listed in rest if isinstance(listed.found, Claim)] == [
        "key 2",
        "key 3",
        "key 4",
    ]


@pytest.mark.rule("C12")
def test_each_thing_is_listed_as_it_stands_and_stays(bench: Bench) -> None:
    dead, live, done, late = (bench.session() for _ in range(4))
    granted(dead, "b")
    granted(late, "c", ttl_minutes=1)
    granted(done, "d")
    done.release("d", outcome=Outcome.DONE)
    bench.damage("e")
    bench.world.pass_time(60)
    bench.world.kill(dead)
    granted(live, "a")
    before = bench.contents()
    listed = live.list_claims().claims
    assert [each.state for each in listed] == [
        ClaimState.HELD,
        ClaimState.ORPHANED,
        ClaimState.EXPIRED,
        ClaimState.DONE,
        ClaimState.HELD,
    ]
    assert isinstance(listed[-1].found, Unreadable)
    assert bench.contents() == before


def test_mine_is_what_the_session_holds_or_finished(bench: Bench) -> None:
    session, other = bench.session(), bench.session()
    for holder, key in ((session, "a"), (other, "b"), (session, "c")):
        granted(holder, key)
    session.release("c", outcome=Outcome.DONE)
    assert keys(session, mine=True) == ["a", "c"]
    assert keys(other, mine=True) == ["b"]


def test_a_bad_namespace_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidInputError):
        bench.session().list_claims("")


def test_what_is_read_about_a_key_has_its_state_and_changes_nothing(bench: Bench) -> None:
    session = bench.session()
    assert session.read("red") == ClaimPage((), session.now(), None)
    claim = granted(bench.session(), "red")
    assert session.read("red") == ClaimPage((ListedClaim(claim, ClaimState.HELD),), session.now(), None)
    bench.world.pass_time(HALF_AN_HOUR)
    for _ in range(2):
        assert session.read("red") == ClaimPage((ListedClaim(claim, ClaimState.EXPIRED),), session.now(), None)
