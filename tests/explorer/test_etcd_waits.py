"""On etcd, whoever waits is served in time and ends in time, whatever the network loses and whoever dies; no key gets two holders.

A part of `MCP_CLAIMS_ETCD_SCHEDULES` is the number of runs of each mode; CI asks for more by night.
"""

from __future__ import annotations

import os

import pytest

from tests.explorer.etcd_modes import MODES
from tests.explorer.etcd_waits import explore

RUNS = max(2, int(os.environ.get("MCP_CLAIMS_ETCD_SCHEDULES", "150")) // 500)


@pytest.mark.rule("E14", "E1", "W2", "W6")
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("mode", MODES)
def test_no_key_has_two_holders_or_lies_idle_beside_a_waiter_and_no_wait_lasts_longer_than_asked(mode: str) -> None:
    explore(mode, RUNS)
