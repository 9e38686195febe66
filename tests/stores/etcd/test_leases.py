"""Leases: whose clock ends a claim, and how its holder comes to know."""

from __future__ import annotations

import os
from threading import Event
from typing import Any, NamedTuple

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Outcome, ScopedKey, Unreadable
from mcp_claims.render import text
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.identity import handle_session, named_session, process_session, session_for_process
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import lease as leases
from mcp_claims.stores.etcd.gateway import ANSWER_WITHIN, Transport
from mcp_claims.stores.etcd.lease import grant_lease, revoke_lease
from mcp_claims.stores.etcd.store import EtcdStore
from tests.support.etcd import fresh_address, fresh_store
from tests.support.etcd_keys import lease_of, read_raw, write_raw
from tests.support.machines import World

KEY = ScopedKey("default", "red")
SOON = 20.0
DAY = 24 * 60 * 60


class Place(NamedTuple):
    """A machine with a session on it."""

    world: World
    store: EtcdStore
    session: Session


@pytest.fixture
def places() -> tuple[Place, Place]:
    """Two machines on one cluster, each with a boot and clocks of its own."""
    address = fresh_address()
    made = []
    for name in ("boot-1", "boot-2"):
        world = World()
        world.boot = name
        machine = world.process()
        store = EtcdStore(address, machine)
        made.append(Place(world, store, process_session(store, machine)))
    return made[0], made[1]


def revoke(store: EtcdStore, lease: int) -> None:
    """End *lease* as etcd does when it has not heard of its owner."""
    revoke_lease(Transport(store.address), lease, deadline_in(5))


def seconds_left(store: EtcdStore, lease: int) -> int:
    answer = Transport(store.address).ask("/lease/timetolive", {"ID": str(lease)}, deadline_in(5))
    return int(answer.get("TTL", -1))


def granted(session: Session, *, ttl_minutes: float = 30) -> Claim:
    found = session.try_claim(KEY.key, ttl_minutes=ttl_minutes).found
    assert isinstance(found, Claim)
    return found


@pytest.mark.rule("E1")
@pytest.mark.parametrize("step", [DAY, -DAY], ids=["ahead", "behind"])
def test_no_other_machine_s_clock_ends_a_claim(places: tuple[Place, Place], step: float) -> None:
    here, there = places
    held = granted(here.session)
    there.world.set_wall_clock(step)
    attempt = there.session.try_claim(KEY.key)
    assert (attempt.status, attempt.found) == (Status.HELD, held)
    look = there.session.inspect(KEY.key)
    assert look.claimed_by_other
    assert there.session.prune().live == 1
    assert there.session.listing().page[0].state is ClaimState.HELD
    said = text.attempt_lead(KEY, attempt)
    assert ("until the store ends it" in said) is (step > 0), said
    assert here.store.read(KEY) == held


@pytest.mark.rule("E1")
def test_on_the_holder_s_own_machine_its_time_and_its_death_count_at_once(places: tuple[Place, Place]) -> None:
    here, there = places
    neighbour = process_session(here.store, here.world.process())
    # Nobody takes it away when its time is up, as would the process of a session that is bound to it.
    granted(named_session(here.store, "ci", here.world.process()), ttl_minutes=1)
    here.world.pass_time(61)
    there.world.pass_time(61)
    assert there.session.try_claim(KEY.key).status is Status.HELD
    taken = neighbour.try_claim(KEY.key)
    assert taken.taken_over is not None and taken.taken_over.why is ClaimState.EXPIRED
    here.world.kill(neighbour)
    taken = here.session.try_claim(KEY.key)
    assert taken.taken_over is not None and taken.taken_over.why is ClaimState.ORPHANED


@pytest.mark.rule("E2")
def test_what_a_machine_held_is_free_when_it_is_no_longer_heard_of_and_it_is_told_if_it_comes_back(
    places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = places
    monkeypatch.setattr(leases, "TTL", 2)
    # The clock of its world stands still, so it never finds that a renewal is due.
    held = granted(here.session)
    assert not there.session.try_claim(KEY.key).claimed
    freed = Event()
    with there.store.watch(KEY, freed.set):
        assert freed.wait(SOON)
    taken = there.session.try_claim(KEY.key)
    assert (taken.status, taken.taken_over) == (Status.ACQUIRED, None)
    assert isinstance(taken.found, Claim) and taken.found.generation > held.generation
    # What was to be kept alive is not taken again, and the next call tells.
    assert here.session.renew(held, 30) is None
    told = here.session.try_claim(KEY.key)
    assert (told.status, told.found, told.lost) == (Status.HELD, taken.found, held)


@pytest.mark.rule("E2")
def test_a_lease_is_renewed_while_its_process_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "TTL", 3)
    monkeypatch.setattr("mcp_claims.stores.etcd.keepalive.TTL", 3)
    store = fresh_store()
    session = process_session(store)
    held = granted(session)
    assert not Event().wait(5), "longer than the lease would be there by itself"
    assert store.read(KEY) == held
    assert store.trusted(held)


@pytest.mark.rule("E3")
def test_a_session_whose_lease_has_gone_is_told_by_its_next_call_and_claims_anew_under_another() -> None:
    store = fresh_store()
    session = process_session(store)
    held = granted(session)
    before = lease_of(store, KEY)
    revoke(store, before)
    attempt = session.try_claim(KEY.key)
    assert (attempt.status, attempt.lost) == (Status.ACQUIRED, held)
    assert isinstance(attempt.found, Claim) and attempt.found.generation > held.generation
    assert lease_of(store, KEY) != before
    assert not store.trusted(held)
    assert store.trusted(attempt.found)


@pytest.mark.rule("E4")
def test_a_claim_that_is_shorter_than_the_lease_is_taken_away_by_its_holder_s_process() -> None:
    store = fresh_store()
    elsewhere = World()
    read_only = process_session(EtcdStore(store.address, elsewhere.process()), elsewhere.process())
    session = process_session(store)
    session.try_claim("long")
    granted(session, ttl_minutes=1 / 60)
    assert read_only.try_claim(KEY.key).status is Status.HELD
    freed = Event()
    with store.watch(KEY, freed.set):
        assert freed.wait(SOON)
    assert read_only.try_claim(KEY.key).status is Status.ACQUIRED
    assert not read_only.try_claim("long").claimed


@pytest.mark.rule("E5")
def test_what_ends_with_its_process_is_under_one_lease_and_what_outlives_it_under_its_own() -> None:
    store, machine = fresh_store(), local_machine()
    first, second = process_session(store), handle_session(store, machine, 7, b"n" * 16, bound=True)
    outliving = [
        named_session(store, "ci"),
        handle_session(store, machine, 7, b"m" * 16, bound=False),
        session_for_process(store, os.getppid()),
    ]
    shared = {claim_lease(store, each, str(number)) for number, each in enumerate((first, second))}
    own = [claim_lease(store, each, f"own {number}") for number, each in enumerate(outliving)]
    assert len(shared) == 1
    assert len({*own, *shared}) == 4
    assert all(590 < seconds_left(store, lease) <= 610 for lease in own)
    outliving[0].try_claim("own 0", ttl_minutes=60)
    assert 3_590 < seconds_left(store, lease_of(store, ScopedKey("default", "own 0"))) <= 3_610
    store.close(within=5)
    left = {found.scoped.key for found in store.scan() if isinstance(found, Claim)}
    assert left == {"own 0", "own 1", "own 2"}


def claim_lease(store: EtcdStore, session: Session, key: str) -> int:
    assert session.try_claim(key, ttl_minutes=10).claimed
    return lease_of(store, ScopedKey("default", key))


@pytest.mark.rule("E5")
def test_the_marker_of_what_is_done_outlives_its_process_for_its_retention() -> None:
    store = fresh_store()
    session = process_session(store)
    granted(session)
    session.release(KEY.key, outcome=Outcome.DONE, retention_hours=2)
    store.close(within=5)
    assert 7_190 < seconds_left(store, lease_of(store, KEY)) <= 7_210
    assert process_session(fresh_store_at(store)).try_claim(KEY.key).status is Status.DONE


def fresh_store_at(store: EtcdStore) -> EtcdStore:
    return EtcdStore(store.address, local_machine())


@pytest.mark.rule("E2")
def test_a_process_that_ends_in_order_frees_all_that_is_bound_to_it_at_once_however_much_that_is() -> None:
    store = fresh_store()
    session = process_session(store)
    for number in range(200):
        assert session.try_claim(f"key {number}").claimed
    SessionRegistry(store, own=session).end(dying=True)
    assert list(fresh_store_at(store).scan()) == []


@pytest.mark.rule("E10")
def test_what_is_under_no_lease_is_held_until_a_person_frees_it() -> None:
    store = fresh_store()
    session = process_session(store)
    granted(session)
    write_raw(store, KEY, read_raw(store, KEY))
    attempt = process_session(store).try_claim(KEY.key)
    assert attempt.status is Status.HELD
    assert isinstance(attempt.found, Unreadable)
    assert "under no lease" in attempt.found.problem
    assert session.revoke(attempt.found)
    assert store.read(KEY) is None


@pytest.mark.rule("E5")
def test_who_is_refused_leaves_no_lease_behind_however_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fresh_store()
    session, other = named_session(store, "ci"), process_session(EtcdStore(store.address, local_machine()))
    other.try_claim("warm")
    before = all_leases(store)
    assert other.try_claim(KEY.key).claimed
    assert session.try_claim(KEY.key).status is Status.HELD
    assert all_leases(store) <= before, "those of other tests may end meanwhile"
    other.release(KEY.key)
    grant = grant_lease

    def then_the_other_is_faster(*arguments: Any) -> int:
        made = grant(*arguments)
        monkeypatch.undo()
        assert other.try_claim(KEY.key).claimed
        return made

    monkeypatch.setattr(leases, "grant_lease", then_the_other_is_faster)
    assert session.try_claim(KEY.key).status is Status.HELD
    assert all_leases(store) <= before, "those of other tests may end meanwhile"


@pytest.mark.rule("E8")
def test_all_questions_of_one_change_have_one_time_together(monkeypatch: pytest.MonkeyPatch) -> None:
    session, wanted = named_session(fresh_store(), "ci"), list[float]()
    grant = grant_lease

    def note_the_time(*arguments: Any) -> int:
        wanted.append(deadline_in(1_000.0))
        return grant(*arguments)

    monkeypatch.setattr(leases, "grant_lease", note_the_time)
    assert session.try_claim(KEY.key).claimed
    assert wanted[0] <= deadline_in(ANSWER_WITHIN)


def all_leases(store: EtcdStore) -> set[str]:
    return {each["ID"] for each in Transport(store.address).ask("/lease/leases", {}, deadline_in(5)).get("leases", [])}
