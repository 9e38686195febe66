"""Ten agents share out forty pieces of work, while two of them are killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.processes.conftest import Spawn
from tests.support.etcd import fresh_config

AGENTS, PIECES, KILLS = 10, 40, 2


@pytest.mark.rule("C16")
@pytest.mark.parametrize("where", ["files", "etcd"])
def test_each_piece_of_a_list_is_done_exactly_once(spawn: Spawn, tmp_path: Path, where: str) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    claims = tmp_path / "claims" if where == "files" else str(fresh_config())
    counted = spawn("sharers.py", claims, logs, AGENTS, PIECES, KILLS, "seed").receive()
    assert counted["ended"] == [0] * (AGENTS - KILLS)
    done = Counter(piece for log in logs.iterdir() for piece in log.read_text().split())
    assert done == Counter(f"issue-{number}" for number in range(PIECES))
