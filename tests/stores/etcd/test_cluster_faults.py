"""Three nodes, and processes that contend while nodes are killed, frozen and cut off.

`MCP_CLAIMS_CLUSTER_SECONDS` is the length of one round (12 by default; take 60 by hand).  `-s` prints the counts.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.stores.etcd.store import EtcdStore
from tests.processes import history
from tests.processes.conftest import Child
from tests.support.etcd import config_at, fresh_config
from tests.support.partition import PartitionableCluster
from tests.support.promises import _histories_are_clean  # noqa: F401 (a fixture)

SECONDS = float(os.environ.get("MCP_CLAIMS_CLUSTER_SECONDS", "12"))
PROCESSES = 16
KEY = ScopedKey("default", "red")
HELD = ScopedKey("default", "held")


class Fault(Protocol):
    """Does something to a node; returns what repairs that."""

    __name__: str

    def __call__(self, cluster: PartitionableCluster, number: int) -> Callable[[], None]: ...


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[PartitionableCluster]:
    cluster = PartitionableCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared_cluster: PartitionableCluster) -> Iterator[PartitionableCluster]:
    """A healthy cluster, repaired after the test."""
    yield shared_cluster
    shared_cluster.mend()
    for number in range(3):
        shared_cluster.thaw(number)
        if shared_cluster.processes[number].poll() is not None:
            shared_cluster.restart(number)
    shared_cluster.await_health(range(3))


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
@pytest.mark.timeout(300 + 5 * SECONDS)
def test_no_key_has_two_holders_and_no_claim_is_lost_while_leaders_are_killed_frozen_and_cut_off(
    cluster: PartitionableCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_CLAIMS_CONTENDERS", str(PROCESSES))
    faults: Iterator[Fault] = itertools.cycle((kill, freeze, cut_off))
    done, kills, hand_overs = set[str](), 0, 0
    # On a busy machine one round shows little: add rounds until something was at stake in each way.
    for round_ in itertools.count():
        logs = tmp_path / f"logs {round_}"
        logs.mkdir()
        child = Child("contenders.py", fresh_config(cluster), logs, SECONDS, 8, f"faults {round_}")
        try:
            done |= inject_faults(cluster, faults, until=time.monotonic() + SECONDS)
            counted = child.receive()
        finally:
            child.close()
        seen = history.read(logs.iterdir())
        grants = sorted(tried.done for tried in seen.tries if tried.status == "acquired")
        stall = max((later - earlier for earlier, later in pairwise(grants)), default=0) / 1e9
        hand_overs += history.hand_overs(seen)
        kills += counted["kills"]
        print(
            f"{SECONDS:g} s: {sorted(done)}, {counted}, {len(grants)} grants, {hand_overs} hand-overs, "
            f"{seen.busy} calls without an answer, longest time without a grant {stall:.2f} s",
            file=sys.stderr,
        )
        assert history.overlaps(seen) == []
        assert history.repeated_generations(seen) == []
        assert history.generations_going_back(seen) == []
        assert seen.lost == []
        assert counted["stuck"] == []
        if done >= {"kill", "freeze", "cut_off"} and kills >= 3 and hand_overs > 20:
            return


def inject_faults(cluster: PartitionableCluster, faults: Iterator[Fault], until: float) -> set[str]:
    """Do one of *faults* after the other to the leader of the moment, until shortly before *until*; return their names."""
    done: set[str] = set()
    pause = min(2.5, SECONDS / 8)
    while until - time.monotonic() >= 2 * pause:
        fault = next(faults)
        time.sleep(pause)
        repair = fault(cluster, cluster.leader())
        done.add(fault.__name__)
        time.sleep(pause * 0.6)
        repair()
        cluster.await_health(range(3))
    return done


def store_at(cluster: PartitionableCluster, number: int, prefix: str) -> EtcdStore:
    """Return a store that reaches this node alone."""
    return EtcdStore(config_at(cluster.clients[number], prefix), local_machine())


@pytest.mark.rule("E8")
def test_a_minority_grants_nothing_fails_in_time_and_recovers(cluster: PartitionableCluster) -> None:
    prefix = fresh_config(cluster).prefix
    isolated = cluster.leader()
    minority, majority = store_at(cluster, isolated, prefix), store_at(cluster, (isolated + 1) % 3, prefix)
    holder, rival = process_session(minority), process_session(majority)
    held = holder.try_claim(HELD.key).found
    assert isinstance(held, Claim)
    cluster.cut_off(isolated)
    for call in (
        lambda: holder.try_claim(KEY.key),
        lambda: holder.inspect(HELD.key, generation=held.generation),
    ):
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="no endpoint of etcd answered in time"):
            call()
        assert time.monotonic() - began < 10, "it takes 4 s on a quiet machine"
    # The majority continues with a leader of its own.
    assert rival.try_claim(KEY.key).claimed
    assert not rival.try_claim(HELD.key).claimed
    cluster.mend()
    cluster.await_health(range(3))
    assert not holder.try_claim(KEY.key).claimed
    assert holder.try_claim(HELD.key).claimed
    found = minority.read(HELD)
    assert isinstance(found, Claim) and minority.is_trusted(found)


@pytest.mark.rule("E8")
def test_acknowledged_claims_survive_the_crash_of_all_nodes(cluster: PartitionableCluster) -> None:
    config = fresh_config(cluster)
    session = process_session(EtcdStore(config, local_machine()))
    granted = {session.try_claim(f"key {number}").found for number in range(20)}
    for number in range(3):
        cluster.kill(number)
    with pytest.raises(StoreUnavailableError):
        session.try_claim("another")
    for number in range(3):
        cluster.restart(number)
    cluster.await_health(range(3))
    assert set(EtcdStore(config, local_machine()).scan()) == granted
    assert session.try_claim("another").claimed
