"""Leases: whose clock ends a claim, and how its holder learns of that."""

from __future__ import annotations

import os
from threading import Event
from typing import Any, NamedTuple

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Outcome, ScopedKey
from mcp_claims.model.validation import DEFAULT_TTL
from mcp_claims.render.answers import claim_answer
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.identity import handle_session, named_session, process_session, session_for_process
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import lease as leases
from mcp_claims.stores.etcd.gateway import CALL_TIMEOUT, Gateway
from mcp_claims.stores.etcd.store import EtcdStore
from tests.support.etcd import fresh_config, fresh_store
from tests.support.etcd_keys import lease_of
from tests.support.machines import World

KEY = ScopedKey("default", "red")
SOON = 30.0
DAY = 24 * 60 * 60


class Site(NamedTuple):
    """A machine with a session on it."""

    world: World
    store: EtcdStore
    session: Session


@pytest.fixture
def sites() -> tuple[Site, Site]:
    """Two machines on one cluster, each with a boot and clocks of its own."""
    config = fresh_config()
    made: list[Site] = []
    for name in ("boot-1", "boot-2"):
        world = World()
        world.boot = name
        machine = world.process()
        store = EtcdStore(config, machine)
        made.append(Site(world, store, process_session(store, machine)))
    return made[0], made[1]


def revoke(store: EtcdStore, lease: int) -> None:
    """End *lease*, as etcd does when nobody renews it."""
    leases.revoke_lease(Gateway(store.config), lease, deadline_in(5))


def seconds_left(store: EtcdStore, lease: int) -> int:
    response = Gateway(store.config).call("/lease/timetolive", {"ID": str(lease)}, deadline_in(5))
    return int(response.get("TTL", -1))


def granted(session: Session, *, ttl_minutes: float = 30) -> Claim:
    found = session.try_claim(KEY.key, ttl_minutes=ttl_minutes).found
    assert isinstance(found, Claim)
    return found


@pytest.mark.rule("E1")
@pytest.mark.parametrize("step", [DAY, -DAY], ids=["ahead", "behind"])
def test_the_clock_of_another_machine_ends_no_claim(sites: tuple[Site, Site], step: float) -> None:
    here, there = sites
    held = granted(here.session)
    there.world.set_wall_clock(step)
    attempt = there.session.try_claim(KEY.key)
    assert (attempt.status, attempt.found) == (Status.HELD, held)
    inspection = there.session.inspect(KEY.key)
    assert inspection.claimed_by_other
    assert there.session.prune().live == 1
    assert there.session.list_claims().claims[0].state is ClaimState.HELD
    output = claim_answer(KEY, attempt).text
    assert ("until the store ends it" in output) is (step > 0), output
    assert here.store.read(KEY) == held


@pytest.mark.rule("E1")
def test_on_the_holder_s_machine_its_expiry_and_its_death_count_at_once(sites: tuple[Site, Site]) -> None:
    here, there = sites
    neighbour = process_session(here.store, here.world.process())
    # A named session: nobody removes its claims at their expiry, as a process does with its own.
    granted(named_session(here.store, "ci", here.world.process()), ttl_minutes=1)
    here.world.pass_time(61)
    there.world.pass_time(61)
    assert there.session.try_claim(KEY.key).status is Status.HELD
    taken = neighbour.try_claim(KEY.key)
    assert taken.taken_over is not None and taken.taken_over.state is ClaimState.EXPIRED
    here.world.kill(neighbour)
    taken = here.session.try_claim(KEY.key)
    assert taken.taken_over is not None and taken.taken_over.state is ClaimState.ORPHANED


@pytest.mark.rule("E2")
def test_the_claims_of_a_silent_machine_become_free_and_it_learns_of_that_when_it_is_back(
    sites: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = sites
    monkeypatch.setattr(leases, "TTL", 4)
    # The clock of its world stands still, so its renewal never comes due.
    held = granted(here.session)
    assert not there.session.try_claim(KEY.key).claimed
    freed = Event()
    with there.store.watch(KEY, freed.set):
        assert freed.wait(SOON)
    taken = there.session.try_claim(KEY.key)
    assert (taken.status, taken.taken_over) == (Status.ACQUIRED, None)
    assert isinstance(taken.found, Claim) and taken.found.generation > held.generation
    # A keep-alive does not claim it again, and the next call reports the loss.
    assert here.session.renew(held, DEFAULT_TTL) is None
    attempt = here.session.try_claim(KEY.key)
    assert (attempt.status, attempt.found, attempt.lost) == (Status.HELD, taken.found, held)


@pytest.mark.rule("E2")
def test_a_lease_is_renewed_while_its_process_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "TTL", 5)
    monkeypatch.setattr("mcp_claims.stores.etcd.keepalive.TTL", 3)
    store = fresh_store()
    session = process_session(store)
    held = granted(session)
    assert not Event().wait(7), "longer than the lease lives without renewal"
    assert store.read(KEY) == held
    assert store.is_trusted(held)


@pytest.mark.rule("E3")
def test_the_next_call_after_a_lost_lease_reports_the_loss_and_claims_under_a_new_one() -> None:
    store = fresh_store()
    session = process_session(store)
    held = granted(session)
    before = lease_of(store, KEY)
    revoke(store, before)
    attempt = session.try_claim(KEY.key)
    assert (attempt.status, attempt.lost) == (Status.ACQUIRED, held)
    assert isinstance(attempt.found, Claim) and attempt.found.generation > held.generation
    assert lease_of(store, KEY) != before
    assert not store.is_trusted(held)
    assert store.is_trusted(attempt.found)


@pytest.mark.rule("E4")
def test_a_claim_shorter_than_the_lease_is_removed_by_its_holder_s_process() -> None:
    store = fresh_store()
    elsewhere = World()
    read_only = process_session(EtcdStore(store.config, elsewhere.process()), elsewhere.process())
    session = process_session(store)
    session.try_claim("long")
    granted(session, ttl_minutes=3 / 60)
    assert read_only.try_claim(KEY.key).status is Status.HELD
    freed = Event()
    with store.watch(KEY, freed.set):
        assert freed.wait(SOON)
    assert read_only.try_claim(KEY.key).status is Status.ACQUIRED
    assert not read_only.try_claim("long").claimed


@pytest.mark.rule("E5")
def test_sessions_that_end_with_the_process_share_its_lease_and_others_have_a_lease_per_claim() -> None:
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
def test_the_marker_of_done_work_outlives_its_process_until_its_retention_ends() -> None:
    store = fresh_store()
    session = process_session(store)
    granted(session)
    session.release(KEY.key, outcome=Outcome.DONE, retention_hours=2)
    store.close(within=5)
    assert 7_190 < seconds_left(store, lease_of(store, KEY)) <= 7_210
    assert process_session(reopened(store)).try_claim(KEY.key).status is Status.DONE


def reopened(store: EtcdStore) -> EtcdStore:
    """Return another store on the same prefix."""
    return EtcdStore(store.config, local_machine())


@pytest.mark.rule("E2")
def test_closing_the_store_frees_all_claims_of_the_process_at_once() -> None:
    store = fresh_store()
    session = process_session(store)
    for number in range(200):
        assert session.try_claim(f"key {number}").claimed
    SessionRegistry(store, own=session).close(dying=True)
    assert list(reopened(store).scan()) == []


@pytest.mark.rule("E5")
def test_an_attempt_that_loses_a_close_race_leaves_no_lease_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fresh_store()
    session, other = named_session(store, "ci"), process_session(EtcdStore(store.config, local_machine()))
    other.try_claim("warm")  # Grants the lease of the process.
    before = all_leases(store)
    assert other.try_claim(KEY.key).claimed
    assert session.try_claim(KEY.key).status is Status.HELD
    assert all_leases(store) <= before, "leases of other tests may end meanwhile"
    other.release(KEY.key)
    grant_lease = leases.grant_lease

    def then_the_other_is_faster(*arguments: Any) -> int:
        lease = grant_lease(*arguments)
        monkeypatch.undo()
        assert other.try_claim(KEY.key).claimed
        return lease

    monkeypatch.setattr(leases, "grant_lease", then_the_other_is_faster)
    assert session.try_claim(KEY.key).status is Status.HELD
    assert all_leases(store) <= before, "leases of other tests may end meanwhile"


@pytest.mark.rule("E8")
def test_all_requests_of_one_swap_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    session, deadlines = named_session(fresh_store(), "ci"), list[float]()
    grant_lease = leases.grant_lease

    def note_the_deadline(*arguments: Any) -> int:
        deadlines.append(deadline_in(1_000.0))
        return grant_lease(*arguments)

    monkeypatch.setattr(leases, "grant_lease", note_the_deadline)
    assert session.try_claim(KEY.key).claimed
    assert deadlines[0] <= deadline_in(CALL_TIMEOUT)


def all_leases(store: EtcdStore) -> set[str]:
    response = Gateway(store.config).call("/lease/leases", {}, deadline_in(5))
    return {each["ID"] for each in response.get("leases", [])}
