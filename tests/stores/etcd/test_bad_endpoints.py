"""One of three endpoints is bad, and asked first: calls go on, and no living holder loses its claims.

`MCP_CLAIMS_ENDPOINT_SECONDS` is the time for each fault (4 by default; take 60 by hand).  `-s` prints how long calls took.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from threading import Event
from typing import Any

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim
from mcp_claims.session.identity import process_session
from mcp_claims.stores.etcd.config import Endpoint, EtcdConfig
from mcp_claims.stores.etcd.store import EtcdStore
from tests.support.endpoints import black_hole, dripping, endpoint
from tests.support.etcd import Cluster

SECONDS = float(os.environ.get("MCP_CLAIMS_ENDPOINT_SECONDS", "4"))
NAME = "one.of.three.test"

Fault = Callable[[Cluster, ExitStack, pytest.MonkeyPatch], Endpoint]
"""Makes the first endpoint bad, and returns where it is then."""


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    with closing(Cluster(3)) as cluster:
        yield cluster


def drips(_: Cluster, stack: ExitStack, __: pytest.MonkeyPatch) -> Endpoint:
    return stack.enter_context(endpoint(dripping))


def is_cut_off(_: Cluster, stack: ExitStack, __: pytest.MonkeyPatch) -> Endpoint:
    return stack.enter_context(black_hole())


def has_a_name_that_nobody_resolves(_: Cluster, stack: ExitStack, patch: pytest.MonkeyPatch) -> Endpoint:
    ended, real = Event(), socket.getaddrinfo
    stack.callback(ended.set)

    def look_up(host: str, port: int, **more: Any) -> Any:
        if host == NAME and not more["flags"] & socket.AI_NUMERICHOST:
            ended.wait()
        return real(host, port, **more)

    patch.setattr(socket, "getaddrinfo", look_up)
    return NAME, 2379


def is_frozen(cluster: Cluster, stack: ExitStack, _: pytest.MonkeyPatch) -> Endpoint:
    leader = cluster.leader()
    cluster.freeze(leader)

    def thaw() -> None:
        cluster.thaw(leader)
        cluster.await_health(range(3))

    stack.callback(thaw)
    return cluster.endpoints[leader]


@pytest.mark.rule("E8")
@pytest.mark.timeout(240 + 4 * SECONDS)
@pytest.mark.parametrize("fault", [drips, is_cut_off, has_a_name_that_nobody_resolves, is_frozen])
def test_with_one_bad_endpoint_of_three_calls_go_on_and_no_claim_is_lost(
    shared_cluster: Cluster, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"/{fault.__name__}"

    def cycle(store: EtcdStore, seconds: float) -> tuple[list[float], int]:
        """Claim and release for some time; return how long the calls took, and how many failed."""
        took, failed, until = list[float](), 0, time.monotonic() + seconds
        with process_session(store) as session:
            while time.monotonic() < until:
                for call in (session.try_claim, session.release):
                    began = time.monotonic()
                    try:
                        call("red")
                    except StoreUnavailableError:
                        failed += 1
                    took.append(time.monotonic() - began)
        return took, failed

    before, _ = cycle(EtcdStore(EtcdConfig(shared_cluster.endpoints, prefix), local_machine()), SECONDS / 4)
    with ExitStack() as stack:
        bad = fault(shared_cluster, stack, monkeypatch)
        healthy = [each for each in shared_cluster.endpoints if each != bad][:2]
        store = EtcdStore(EtcdConfig((bad, *healthy), prefix), local_machine())
        store._connection().gateway._preferred = 0
        holder = process_session(store)
        held, first, deadline = None, list[float](), time.monotonic() + 60
        while held is None:
            began = time.monotonic()
            # The leader may be the one that is frozen: an election takes a second or two.
            with suppress(StoreUnavailableError):
                held = holder.try_claim("held").found
            first.append(time.monotonic() - began)
            assert held is not None or time.monotonic() < deadline
        assert isinstance(held, Claim)
        took, failed = cycle(store, SECONDS)
        took += first
        print(
            f"{fault.__name__}: p50 {statistics.median(took) * 1e3:.1f} ms, without {statistics.median(before) * 1e3:.1f} ms, "
            f"longest {max(took):.2f} s, {len(took)} calls, {failed} failed",
            file=sys.stderr,
        )
        assert max(took) < 30, "each ends by its deadline, on a quiet machine within 5 s"
        assert failed < len(took) / 2
        assert store.is_trusted(held)
        assert holder.inspect("held", generation=held.generation).in_force
