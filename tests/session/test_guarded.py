"""What hooks claim for a host's session, and what they do to claims that the session holds under another name."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from mcp_claims.liveness import Program
from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Maker
from mcp_claims.model.validation import ClaimRequest, scoped_key
from mcp_claims.session.host_session import HostSession
from mcp_claims.session.identity import guarded_session
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.memory import MemoryStore
from tests.support.machines import World

TTL = timedelta(seconds=120)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "claims")


def hook(world: World, store: Store, *, host: int | None, session: str = "s") -> Session:
    """Start a hook of the host's session *session*, whose process is *host*; return its session."""
    machine = world.process()
    us = (
        HostSession(session)
        if host is None
        else HostSession(session, None, frozenset({host}), (Program(host, "host"),))
    )
    return guarded_session(store, machine, session.encode() * 4, us)


def claimed(session: Session, path: str) -> Claim:
    """Claim the file at *path* as the guard does."""
    result = session.try_request(ClaimRequest(session.resolve(scoped_key(f"file:{path}")), TTL))
    assert result.claimed and isinstance(result.found, Claim)
    return result.found


@pytest.mark.rule("U2")
def test_the_death_of_the_host_orphans_what_its_hooks_have_claimed_and_that_of_the_hook_does_not(
    world: World, store: Store
) -> None:
    host, hook_of = world.process(), world.process()
    other = world.session(store)
    us = HostSession("s", None, frozenset({host.pid()}), (Program(host.pid(), "host"),))
    session = guarded_session(store, hook_of, b"s" * 16, us)
    claimed(session, "/p/a")
    world.alive.discard((world.boot, hook_of.pid()))
    assert not other.try_claim("file:/p/a").claimed
    world.alive.discard((world.boot, host.pid()))
    assert other.try_claim("file:/p/a").claimed


@pytest.mark.rule("U2")
def test_without_a_known_process_its_time_alone_ends_it(world: World, store: Store) -> None:
    session, other = hook(world, store, host=None), world.session(store)
    claimed(session, "/p/a")
    world.kill(session)
    world.pass_time(119)
    assert not other.try_claim("file:/p/a").claimed
    world.pass_time(2)
    assert other.try_claim("file:/p/a").claimed


@pytest.mark.rule("U2")
def test_a_tool_takes_over_what_the_guard_has_claimed_for_its_session_and_for_no_other(
    world: World, store: Store
) -> None:
    before = claimed(hook(world, store, host=None), "/p/a")
    server, other = world.session(store), world.session(store)
    server.act_in(HostSession("s"))
    other.act_in(HostSession("another"))
    server.maker = Maker.TOOL
    assert not other.try_claim("file:/p/a").claimed
    assert server.inspect("file:/p/a").held_by_you and not other.inspect("file:/p/a").held_by_you
    result = server.try_claim("file:/p/a", ttl_minutes=10, note="why")
    assert result.claimed and isinstance(result.found, Claim)
    assert (result.found.generation, result.found.maker, result.found.note) == (before.generation, "tool", "why")
    assert expiry.remaining(result.found.expires, server.now()) == timedelta(minutes=10)
    assert not other.try_claim("file:/p/a").claimed
    assert server.release("file:/p/a").released
    assert other.try_claim("file:/p/a").claimed


@pytest.mark.rule("U2")
def test_what_another_session_has_taken_since_is_not_taken_over(world: World, store: Store) -> None:
    claimed(hook(world, store, host=None), "/p/a")
    world.pass_time(121)
    other, server = world.session(store), world.session(store)
    server.act_in(HostSession("s"))
    assert other.try_claim("file:/p/a").claimed
    assert not server.try_claim("file:/p/a").claimed


@pytest.mark.rule("U2")
def test_a_hook_renews_what_a_tool_holds_to_its_own_ttl_and_never_shortens_it(world: World, store: Store) -> None:
    server, session = world.session(store), hook(world, store, host=None)
    found = server.try_claim("k", ttl_minutes=10).found
    assert isinstance(found, Claim) and found.ttl == 600
    assert not session.extend(found), "nothing has passed"
    world.pass_time(300)
    assert session.extend(found)
    (listed,) = session.read("k").claims
    assert isinstance(listed.found, Claim) and listed.found.holder == found.holder
    assert expiry.remaining(listed.found.expires, session.now()) == timedelta(minutes=10)
    assert server.release("k").released, "its session has lost nothing"


@pytest.mark.rule("U2")
def test_a_renewal_from_outside_is_refused_once_the_claim_has_expired_and_a_file_that_overlaps_is_claimed(
    world: World, store: Store
) -> None:
    session, other = hook(world, store, host=None), world.session(store)
    found = claimed(session, "/p/src/a")
    world.pass_time(121)
    assert other.try_claim("file:/p/src/").claimed
    assert session.amend(found, found._replace(expires=expiry.later(session.now(), TTL))) is None
    assert not session.extend(found)
    assert other.inspect("file:/p/src/").held_by_you
