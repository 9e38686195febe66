"""A grant names claims in force on keys that look like its own: perhaps they mean the same event."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.records import ScopedKey
from mcp_claims.render.answers import claim_answer
from mcp_claims.session.session import Session
from tests.session.bench import Bench, FileBench, MemoryBench
from tests.support.interrupting import DelegatingStore


@pytest.fixture(params=["memory", "files"])
def bench(request: pytest.FixtureRequest, claims_dir: Path) -> Bench:
    """Not in the shared layout: several keys share a file name there, so each record would have to be read."""
    return MemoryBench() if request.param == "memory" else FileBench(claims_dir)


def near(session: Session, key: str) -> list[str]:
    assert session.try_claim(key).claimed
    return [claim.scoped.key for claim in session.near_claims(ScopedKey("default", key))]


@pytest.mark.rule("C13")
@pytest.mark.parametrize(("one", "other"), [("Deploy", "deploy"), ("#12:Red", "#12:red"), ("caf\u00e9", "cafe\u0301")])
def test_whoever_comes_second_is_told_of_the_first(bench: Bench, one: str, other: str) -> None:
    for first, second in ((one, other), (other, one)):
        holder, session = bench.session(), bench.session()
        assert near(holder, first) == []
        result = session.try_claim(second)
        claims = session.near_claims(ScopedKey("default", second))
        assert [claim.scoped.key for claim in claims] == [first]
        answer = claim_answer(ScopedKey("default", second), result, near=claims)
        for half in (answer.text, answer.structured["advice"]):
            assert f'A key that looks alike is held: "{first}" by {holder.holder.name}.' in half
            assert "If that is the same event, release yours and do not act." in half
        assert holder.close() + session.close() == 2


def test_only_claims_of_others_in_force_in_the_same_namespace_are_named(bench: Bench) -> None:
    session, other, dead = bench.session(), bench.session(), bench.session()
    session.try_claim("Deploy")
    other.try_claim("DEPLOY", "elsewhere")
    other.try_claim("deploy now")
    other.try_claim("dePloy", ttl_minutes=1)
    bench.world.pass_time(120)
    dead.try_claim("deploY")
    bench.world.kill(dead)
    other.try_claim("dEploy")
    other.release("dEploy", outcome="done")
    assert near(session, "deploy") == []


def test_three_are_named_at_most(bench: Bench) -> None:
    for key in ("Deploy", "dEploy", "deploY", "DEPLOY"):
        bench.session().try_claim(key)
    assert len(near(bench.session(), "deploy")) == 3


def test_where_the_names_cannot_be_listed_the_grant_stands(bench: Bench) -> None:
    class Unlisted(DelegatingStore):
        def names(self, namespace: str, limit: int) -> list[str]:
            raise StoreUnavailableError("/claims", OSError(5, "Input/output error"))

    session: Session = bench.session(Unlisted(bench.store))
    assert near(session, "deploy") == []
    assert session.inspect("deploy").held_by_you
