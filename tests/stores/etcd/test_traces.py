"""The note of a claim whose lease has ended is kept for the next holder, at no cost for claims without one."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Outcome, ScopedKey
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.render.answers import claim_answer, inspect_answer
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.results import PruneResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import lease as leases
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.keys import Keyspace, trace_key
from mcp_claims.stores.etcd.store import EtcdStore
from tests.support.etcd import fresh_config
from tests.support.etcd_keys import lease_of, read_trace
from tests.support.machines import World

KEY = ScopedKey("default", "red")
NOTE = "half of it is pushed to ci/fix"
HOUR = 3_600.0
TTL = 30  # minutes


class Site(NamedTuple):
    """A process on a machine of its own."""

    world: World
    store: EtcdStore
    session: Session


def site(config: EtcdConfig, boot: str) -> Site:
    world = World()
    world.boot = boot
    machine = world.process()
    store = EtcdStore(config, machine)
    return Site(world, store, process_session(store, machine))


@pytest.fixture
def config() -> EtcdConfig:
    return fresh_config()


@pytest.fixture
def here(config: EtcdConfig) -> Site:
    return site(config, "boot-1")


@pytest.fixture
def there(config: EtcdConfig) -> Site:
    return site(config, "boot-2")


@pytest.fixture(params=["ends with its process", "outlives its process"])
def holder(request: pytest.FixtureRequest, here: Site) -> Session:
    if request.param == "ends with its process":
        return here.session
    return named_session(here.store, "ci", here.world.process())


def end_lease(store: EtcdStore, scoped: ScopedKey = KEY) -> None:
    """End the lease of the claim on *scoped*, as etcd does when nobody renews it."""
    leases.revoke_lease(Gateway(store.config), lease_of(store, scoped), deadline_in(5))


def granted(session: Session, note: str | None = NOTE, key: str = KEY.key) -> Claim:
    attempt = session.try_claim(key, ttl_minutes=TTL, note=note)
    assert attempt.status is Status.ACQUIRED and isinstance(attempt.found, Claim)
    return attempt.found


def trace_of(store: EtcdStore) -> bytes | None:
    found = read_trace(store, KEY)
    return None if found is None else found.value


@pytest.mark.rule("E13")
@pytest.mark.parametrize("looks", [False, True], ids=["at once", "after looks"])
def test_the_next_holder_learns_what_the_holder_of_a_claim_left_that_ended_with_its_lease(
    holder: Session, here: Site, there: Site, looks: bool
) -> None:
    claim = granted(holder)
    end_lease(here.store)
    if looks:
        for _ in range(2):
            inspection = there.session.inspect(KEY.key)
            assert (inspection.claimed_by_other, inspection.held_by_you) == (False, False)
            assert inspection.marker is not None and inspection.marker.note == NOTE
            lead = inspect_answer(KEY, inspection).lead
            assert lead.startswith("FREE: nobody holds") and NOTE in lead and "dead or cut off" in lead
            (listed,) = there.session.list_claims().claims
            assert (listed.state, listed.found) == (ClaimState.ORPHANED, inspection.marker)
            assert there.session.prune() == PruneResult(0, 0, 0, 0, (), (), markers=1)
    attempt = there.session.try_claim(KEY.key)
    assert attempt.status is Status.ACQUIRED
    previous = claim_answer(KEY, attempt).structured["previous"]
    assert (previous["state"], previous["holder"]) == ("orphaned", holder.holder.name)
    assert (previous["generation"], previous["note"]) == (claim.generation, NOTE)
    assert there.session.release(KEY.key).released
    assert (there.session.try_claim(KEY.key).taken_over, trace_of(here.store)) == (None, None)


@pytest.mark.rule("E13")
def test_a_claim_that_ended_with_its_lease_at_its_expiry_is_expired_and_told_for_a_day(
    holder: Session, here: Site, there: Site
) -> None:
    claim = granted(holder)
    end_lease(here.store)
    there.world.pass_time(TTL * 60)
    marker = there.session.inspect(KEY.key).marker
    assert marker is not None and marker.ended is not None
    assert (marker.ended.outcome, marker.ended.at.wall) == (Outcome.EXPIRED, claim.expires.wall)
    there.world.pass_time(24 * HOUR - 1)
    assert there.session.inspect(KEY.key).marker is not None
    there.world.pass_time(1)
    assert there.session.inspect(KEY.key).found is None
    assert list(there.store.scan()) == []
    assert there.session.try_claim(KEY.key).taken_over is None


@pytest.mark.rule("E13")
@pytest.mark.parametrize("outcome", [None, Outcome.DONE, Outcome.FAILED])
def test_what_its_holder_ends_leaves_no_trace_behind_it(
    holder: Session, here: Site, there: Site, outcome: Outcome | None
) -> None:
    granted(holder)
    assert trace_of(here.store) is not None
    assert holder.release(KEY.key, outcome=outcome).released
    assert trace_of(here.store) is None
    found = there.session.inspect(KEY.key).found
    assert found is None if outcome is None else isinstance(found, Claim)


@pytest.mark.rule("E13")
def test_a_renewal_keeps_the_trace_and_a_newer_note_replaces_it(holder: Session, here: Site, there: Site) -> None:
    claim = granted(holder, note=None)
    assert trace_of(here.store) is None
    for note, told in (("first", "first"), (None, "first"), ("second", "second")):
        assert holder.try_claim(KEY.key, note=note).status is Status.RENEWED
        assert told.encode() in (trace_of(here.store) or b"")
    end_lease(here.store)
    taken_over = there.session.try_claim(KEY.key).taken_over
    assert taken_over is not None and isinstance(taken_over.found, Claim)
    assert (taken_over.found.note, taken_over.found.generation) == ("second", claim.generation)


def test_a_grant_without_a_note_deletes_the_trace_of_the_claim_before(here: Site, there: Site) -> None:
    granted(here.session)
    end_lease(here.store)
    assert there.session.try_claim(KEY.key).claimed
    assert trace_of(here.store) is None
    end_lease(there.store)
    assert here.session.inspect(KEY.key).marker is None


@pytest.mark.rule("E13")
def test_a_claim_without_a_note_costs_no_further_request_and_one_with_a_note_a_lease_a_process(
    here: Site, there: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted(here.session, note=None, key="warm")
    calls: list[str] = []
    call = Gateway.call

    def note_the_call(self: Gateway, path: str, *rest: object, **options: object) -> object:
        calls.append(path)
        return call(self, path, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Gateway, "call", note_the_call)
    assert cost(calls, lambda: granted(here.session, note=None)) == ["/kv/txn"]
    assert cost(calls, lambda: here.session.release(KEY.key)) == ["/kv/txn"]
    assert cost(calls, lambda: granted(here.session)) == ["/lease/grant", "/kv/txn"]
    for number in range(3):
        assert cost(calls, lambda number=number: granted(here.session, key=f"key {number}")) == ["/kv/txn"]
    end_lease(here.store)
    there.session.try_claim("warm too")
    assert cost(calls, lambda: there.session.try_claim(KEY.key)) == ["/kv/txn"], "and is told of the trace"


def cost(calls: list[str], call: object) -> list[str]:
    calls.clear()
    assert callable(call)
    call()
    # The lease of a process is renewed at times of its own.
    return [path for path in calls if path != "/lease/keepalive"]


@pytest.mark.rule("E13")
def test_the_end_of_a_process_leaves_no_trace_of_what_ends_with_it_and_keeps_that_of_the_rest(
    here: Site, there: Site
) -> None:
    granted(here.session, key="ends")
    granted(named_session(here.store, "ci", here.world.process()), key="outlives")
    here.store.close(within=5)
    assert there.session.inspect("ends").found is None
    end_lease(there.store, ScopedKey("default", "outlives"))
    marker = there.session.inspect("outlives").marker
    assert marker is not None and marker.note == NOTE


@pytest.mark.rule("E13")
def test_a_claim_that_its_process_ended_at_its_expiry_keeps_its_note_when_the_process_is_gone(
    here: Site, there: Site
) -> None:
    claim = granted(here.session)
    here.world.pass_time(TTL * 60)
    here.store._expire(Keyspace(here.store.config.prefix).claim_key(KEY))
    here.store.close(within=5)
    marker = there.session.inspect(KEY.key).marker
    assert marker is not None and marker.ended is not None
    assert (marker.ended.outcome, marker.note) == (Outcome.EXPIRED, NOTE)
    assert (marker.generation, marker.ended.at.wall) == (claim.generation, claim.expires.wall)


def test_pages_list_a_claim_once_and_a_trace_only_where_the_claim_is_gone(here: Site, there: Site) -> None:
    for key in ("a", "b", "c"):
        granted(here.session, key=key)
    named = named_session(there.store, "ci", there.world.process())
    granted(named, key="b\N{SNOWMAN}")
    end_lease(there.store, ScopedKey("default", "b\N{SNOWMAN}"))
    for limit in (1, 2, 3, 50):
        seen, after = [], ""
        while True:
            page = there.session.list_claims(after=after, limit=limit)
            seen += [(each.found.scoped.key, each.state.value) for each in page.claims if isinstance(each.found, Claim)]
            if page.after is None:
                break
            after = page.after
        assert seen == [("a", "held"), ("b", "held"), ("b\N{SNOWMAN}", "orphaned"), ("c", "held")]


def test_forget_removes_the_trace_of_a_claim_that_is_gone_and_no_newer_one(here: Site, there: Site) -> None:
    granted(here.session)
    end_lease(here.store)
    trace = there.store.read(KEY)
    assert isinstance(trace, Claim)
    granted(here.session, "another note")
    assert not there.store.discard(trace)
    assert trace_of(here.store) is not None
    end_lease(here.store)
    assert there.session.forget(KEY.key)
    assert (there.session.inspect(KEY.key).found, trace_of(here.store)) == (None, None)
    assert not there.session.forget(KEY.key)


@pytest.mark.rule("E13")
@pytest.mark.parametrize("taken", [True, False], ids=["taken", "declined"])
def test_a_reservation_keeps_the_trace_that_it_replaced(here: Site, there: Site, taken: bool) -> None:
    granted(here.session)
    end_lease(here.store)
    assert there.session.try_request(ClaimRequest.parse(KEY.key), reserve=True).status is Status.YOUR_TURN
    if not taken:
        there.session.release(KEY.key)
        marker = here.session.inspect(KEY.key).marker
        assert marker is not None and marker.note == NOTE
    taken_over = there.session.try_claim(KEY.key).taken_over
    assert taken_over is not None and isinstance(taken_over.found, Claim)
    assert (taken_over.state, taken_over.found.note) == (ClaimState.ORPHANED, NOTE)


def test_a_trace_that_was_read_can_be_swapped_for_a_grant(here: Site, there: Site) -> None:
    granted(here.session)
    end_lease(here.store)
    trace = there.store.read(KEY)
    assert isinstance(trace, Claim)
    now = there.session.now()
    new = trace._replace(holder=there.session.holder, ended=None, generation=0, claimed=now, note=None)
    swap = there.store.swap(KEY, trace, new)
    assert swap.won and swap.trace is None
    assert not here.store.swap(KEY, trace, new).won
    assert trace_of(here.store) is None


def test_a_trace_that_cannot_be_read_blocks_nothing(here: Site, there: Site) -> None:
    key = trace_key(Keyspace(here.store.config.prefix).claim_key(KEY))
    Gateway(here.store.config).call("/kv/put", messages.put_request(key, b"{"), deadline_in(5))
    assert (there.session.inspect(KEY.key).found, list(there.store.scan())) == (None, [])
    attempt = there.session.try_claim(KEY.key)
    assert (attempt.status, attempt.taken_over) == (Status.ACQUIRED, None)


@pytest.mark.rule("C7")
def test_a_holder_that_was_cut_off_learns_that_it_was_taken_for_dead(here: Site) -> None:
    claim = granted(here.session)
    end_lease(here.store)
    inspection = here.session.inspect(KEY.key)
    assert inspection.lost == claim
    (lost,) = inspect_answer(KEY, inspection).structured["lost"]
    assert lost["reason"] == "its process was taken for dead"


@pytest.mark.rule("E13")
def test_a_lost_lease_of_traces_is_replaced_and_costs_no_claim(holder: Session, here: Site) -> None:
    first = granted(holder, key="first")
    trace = read_trace(here.store, ScopedKey("default", "first"))
    assert trace is not None
    leases.revoke_lease(Gateway(here.store.config), trace.lease, deadline_in(5))
    granted(holder)
    assert trace_of(here.store) is not None
    assert here.store.read(ScopedKey("default", "first")) == first
    assert here.store.is_trusted(first)


def test_a_lost_lease_of_the_process_is_replaced_although_the_claim_has_a_trace(here: Site) -> None:
    granted(here.session)
    end_lease(here.store)
    assert here.session.try_claim(KEY.key, note=NOTE).status is Status.ACQUIRED
    assert here.store.read(KEY) == here.session.inspect(KEY.key).found


def test_traces_are_put_under_a_new_lease_after_some_hours(here: Site) -> None:
    granted(here.session)
    first = read_trace(here.store, KEY)
    here.world.pass_time(7 * HOUR)
    here.session.try_claim(KEY.key)
    second = read_trace(here.store, KEY)
    assert first is not None and second is not None and first.lease != second.lease
    left = Gateway(here.store.config).call("/lease/timetolive", {"ID": str(second.lease)}, deadline_in(5))
    assert int(left["TTL"]) > 53 * HOUR, "a day after the longest claim that is put beside it in the next 6 hours"
