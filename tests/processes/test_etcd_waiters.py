"""Fifty processes wait for one key on etcd, while holders and waiters are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.conftest import Spawn
from tests.processes.test_waiters import WAITERS, check_hand_overs
from tests.support.etcd import fresh_config

RELEASES = 200


@pytest.mark.rule("E14", "V9")
def test_each_release_on_etcd_is_served_to_one_in_the_order_of_the_tickets(spawn: Spawn, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    counted = spawn("waiters.py", fresh_config(), logs, WAITERS, RELEASES, 10, "seed").receive()
    assert counted["kills"] > 0
    check_hand_overs(counted, logs, RELEASES)
