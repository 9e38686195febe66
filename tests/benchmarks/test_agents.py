"""A small fleet of the simulation of many agents: it renews, grants and hands over as the real one does, and ends."""

from __future__ import annotations

import pytest

from benchmarks.agents import Fleet
from mcp_claims.stores.etcd.lease import TTL


@pytest.mark.rule("E2", "E14")
@pytest.mark.parametrize(("of_its_own", "processes"), [(True, 40), (False, 2)])
def test_a_small_fleet_shows_what_it_asks_of_the_cluster(of_its_own: bool, processes: int) -> None:
    fleet = Fleet(40, 2, of_its_own=of_its_own)
    fleet.run(1_200)  # It stops where two have a key, or a living process loses its lease.
    cluster = fleet.cluster
    assert cluster.asked["/lease/keepalive"] == pytest.approx(1_200 * processes * 3 / TTL, rel=0.01)
    assert fleet.calls["granted"] > 20 and not fleet.calls["gave up"]
    # A waiter hears of a release from its watch: none has to wait for its next attempt, ten seconds later.
    assert fleet.handed_over and max(fleet.handed_over) < 1 and cluster.events >= len(fleet.handed_over)
    assert {figure.subject for figure in fleet.figures()} == {"agents"}
