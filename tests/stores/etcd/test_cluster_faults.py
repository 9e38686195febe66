"""Three nodes, and what befalls them while many processes contend.

`MCP_CLAIMS_ETCD_FAULT_SECONDS` is how long (12 unless given; 60 by hand): `-s` shows what was counted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.stores.etcd.config import Address
from mcp_claims.stores.etcd.store import EtcdStore
from tests.processes import history
from tests.processes.conftest import Child
from tests.support.etcd import fresh_address
from tests.support.partition import PartitionableCluster

SECONDS = float(os.environ.get("MCP_CLAIMS_ETCD_FAULT_SECONDS", "12"))
PROCESSES = 16
KEY = ScopedKey("default", "red")


@pytest.fixture(scope="module")
def cluster() -> Iterator[PartitionableCluster]:
    made = PartitionableCluster()
    yield made
    made.close()


@pytest.fixture
def mended(cluster: PartitionableCluster) -> Iterator[PartitionableCluster]:
    """A cluster that is whole, and made so again."""
    yield cluster
    cluster.mend()
    for number in range(3):
        cluster.thaw(number)
        if cluster.processes[number].poll() is not None:
            cluster.restart(number)
    cluster.await_health(range(3))


def kill(cluster: PartitionableCluster, number: int) -> Callable[[], None]:
    cluster.kill(number)
    return lambda: cluster.restart(number)


def freeze(cluster: PartitionableCluster, number: int) -> Callable[[], None]:
    cluster.freeze(number)
    return lambda: cluster.thaw(number)


def cut_off(cluster: PartitionableCluster, number: int) -> Callable[[], None]:
    cluster.cut_off(number)
    return cluster.mend


@pytest.mark.rule("E8")
@pytest.mark.timeout(120 + 3 * SECONDS)
def test_no_key_has_two_holders_and_no_claim_is_lost_while_leaders_are_killed_frozen_and_cut_off(
    mended: PartitionableCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_CLAIMS_CONTENDERS", str(PROCESSES))
    logs = tmp_path / "logs"
    logs.mkdir()
    child = Child("contenders.py", fresh_address(mended), logs, SECONDS, 8, "faults")
    try:
        began = time.monotonic()
        done = []
        pause = min(2.5, SECONDS / 8)
        while time.monotonic() - began < SECONDS - 2 * pause:
            for fault in (kill, freeze, cut_off):
                time.sleep(pause)
                mend = fault(mended, mended.leader())
                done.append(fault.__name__)
                time.sleep(pause * 0.6)
                mend()
                mended.await_health(range(3))
                if time.monotonic() - began > SECONDS - pause:
                    break
        counted = child.hear()
    finally:
        child.close()
    seen = history.read(logs.iterdir())
    grants = sorted(tried.done for tried in seen.tries if tried.status == "acquired")
    stall = max(later - earlier for earlier, later in pairwise(grants)) / 1e9
    print(f"{SECONDS:g} s: {done}, {counted}, {len(grants)} grants, {seen.busy} calls not answered", file=sys.stderr)
    print(f"{history.hand_overs(seen)} hand-overs, longest stall {stall:.2f} s", file=sys.stderr)

    assert history.overlaps(seen) == []
    assert history.repeated_generations(seen) == []
    assert history.generations_going_back(seen) == []
    assert seen.lost == []
    assert counted["stuck"] == []
    assert {"kill", "freeze", "cut_off"} <= set(done)
    assert counted["kills"] >= 3
    assert history.hand_overs(seen) > 20


def at(cluster: PartitionableCluster, number: int, prefix: str) -> EtcdStore:
    """Return a store that reaches one node alone."""
    return EtcdStore(Address((cluster.endpoints[number],), prefix), local_machine())


@pytest.mark.rule("E8")
def test_a_minority_grants_nothing_says_so_in_time_and_recovers(mended: PartitionableCluster) -> None:
    prefix = fresh_address(mended).prefix
    minority = mended.leader()
    inside, outside = at(mended, minority, prefix), at(mended, (minority + 1) % 3, prefix)
    holder, rival = process_session(inside), process_session(outside)
    held = holder.try_claim("held").found
    assert isinstance(held, Claim)
    mended.cut_off(minority)
    for ask in (
        lambda: holder.try_claim(KEY.key),
        lambda: holder.inspect("held", generation=held.generation),
    ):
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="no endpoint of etcd has answered in time"):
            ask()
        assert time.monotonic() - began < 10, "4 s, on a machine that is not busy with other things"
    # The majority goes on, with a leader of its own.
    assert rival.try_claim(KEY.key).claimed
    assert not rival.try_claim("held").claimed
    mended.mend()
    mended.await_health(range(3))
    assert not holder.try_claim(KEY.key).claimed
    assert holder.try_claim("held").claimed
    assert inside.trusted(inside_claim(inside, ScopedKey("default", "held")))


def inside_claim(store: EtcdStore, scoped: ScopedKey) -> Claim:
    found = store.read(scoped)
    assert isinstance(found, Claim)
    return found


@pytest.mark.rule("E8")
def test_acknowledged_claims_are_there_when_all_nodes_were_killed_and_are_back(mended: PartitionableCluster) -> None:
    address = fresh_address(mended)
    session = process_session(EtcdStore(address, local_machine()))
    granted = {session.try_claim(f"key {number}").found for number in range(20)}
    for number in range(3):
        mended.kill(number)
    with pytest.raises(StoreUnavailableError):
        session.try_claim("another")
    for number in range(3):
        mended.restart(number)
    mended.await_health(range(3))
    assert set(EtcdStore(address, local_machine()).scan()) == granted
    assert session.try_claim("another").claimed
