"""Fifty processes wait for one key on etcd, while holders and waiters are killed."""

from __future__ import annotations

import statistics
import sys
from bisect import bisect
from pathlib import Path

import pytest

from tests.processes import history
from tests.processes.conftest import Spawn
from tests.processes.test_waiters import releases
from tests.support.etcd import fresh_config

WAITERS = 50
RELEASES = 200


@pytest.mark.rule("E14", "V9")
def test_each_release_on_etcd_is_served_to_one_in_the_order_of_the_tickets(spawn: Spawn, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    counted = spawn("waiters.py", fresh_config(), logs, WAITERS, RELEASES, 10, "seed").receive()
    seen = history.read(logs.iterdir())

    assert counted["kills"] > 0
    assert history.overlaps(seen) == []
    assert history.repeated_generations(seen) == []
    assert history.generations_going_back(seen) == []
    assert len(seen.tries) >= RELEASES and all(tried.status == "acquired" for tried in seen.tries)

    granted = sorted(tried.done for tried in seen.tries)
    passed = [bisect(granted, tried.done) - bisect(granted, tried.asked) - 1 for tried in seen.tries]
    released = sorted(each for log in logs.iterdir() for each in releases(log))
    delays = [(granted[bisect(granted, at)] - at) / 1e6 for at in released if at < granted[-1]]
    cpu = counted["cpu"] / counted["granted"] * 1_000
    print(
        f"{counted}: passed over {statistics.median(passed)} times at the median and {max(passed)} at most; released to "
        f"granted {statistics.median(delays):.1f} ms at the median; {cpu:.1f} ms of CPU a grant",
        file=sys.stderr,
    )
    # Everybody before it in a queue of 50, and those who took their tickets in the same moment.
    assert statistics.median(passed) <= WAITERS + 10
