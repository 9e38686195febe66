"""Many processes, few keys, short lives: whatever happened, nobody acted while another did, and nothing was lost.

32 processes try, act, renew, release and hang; one prunes without end; some are killed, others stopped for longer than
anybody waits.  `MCP_CLAIMS_STRESS_SECONDS` is how long (3 unless given; an hour by hand): `-s` shows what was counted.  How much
goes on meanwhile depends on the machine; the run ends when all of that has happened, however long it takes.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.processes import history
from tests.processes.conftest import Spawn
from tests.processes.history import History
from tests.support.etcd import fresh_config

SECONDS = float(os.environ.get("MCP_CLAIMS_STRESS_SECONDS", "3"))


@pytest.mark.timeout(600 + 3 * SECONDS)
@pytest.mark.parametrize("where", ["files", "etcd"])
@pytest.mark.parametrize("keys", [1, 100])
def test_32_processes_with_deaths_stalls_and_expiries_never_hold_one_key_at_once_nor_lose_one(
    spawn: Spawn, tmp_path: Path, keys: int, where: str
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    claims = tmp_path / "claims" if where == "files" else fresh_config()
    counted = spawn("contenders.py", claims, logs, SECONDS, keys, f"seed {keys}").receive()
    seen = history.read(logs.iterdir())

    assert history.overlaps(seen) == []
    assert history.repeated_generations(seen) == []
    assert history.generations_going_back(seen) == []
    assert seen.lost == []
    assert counted["stuck"] == []
    assert counted["held by the dead"] == 0

    statuses, causes = Counter(tried.status for tried in seen.tries), Counter(tried.why for tried in seen.tries)
    contested, hand_overs = history.contested(seen), history.hand_overs(seen)
    print(f"{keys} keys, {SECONDS:g} s:", counted, dict(statuses), dict(causes), file=sys.stderr)
    print(f"{seen.busy} busy, {contested} contested, {hand_overs} hand-overs", file=sys.stderr)


@pytest.mark.parametrize("fault", ["no lock", "release by path"])
def test_the_same_run_with_a_planted_fault_is_found_out(spawn: Spawn, tmp_path: Path, fault: str) -> None:
    # How soon it shows depends on the machine; some may stumble over what it leaves, which ends a run early.
    for attempt in range(20):
        logs = tmp_path / f"logs {attempt}"
        logs.mkdir()
        spawn("contenders.py", tmp_path / f"claims {attempt}", logs, 3, 1, f"seed {attempt}", fault).hear_all()
        seen = history.read(logs.iterdir())
        if history.overlaps(seen) or seen.lost:
            return
    pytest.fail(f"{fault} was not noticed")


def log(directory: Path, name: str, *events: tuple[str, int, int]) -> None:
    """Write a log of a holder of one key: each event with its generation and its time."""
    lines = [
        {"event": event, "key": "k", "holder": name, "at": at, "done": at, "asked": at, "generation": generation}
        | {"status": "acquired", "why": None}
        for event, generation, at in events
    ]
    (directory / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def seen_in(directory: Path) -> History:
    return history.read(sorted(directory.iterdir()))


def test_the_checker_is_content_with_holders_one_after_the_other(tmp_path: Path) -> None:
    log(tmp_path, "a", ("tried", 1, 0), ("enter", 1, 1), ("stay", 1, 5), ("tried", 3, 10), ("enter", 3, 11))
    log(tmp_path, "b", ("tried", 2, 4), ("enter", 2, 6), ("stay", 2, 9))
    seen = seen_in(tmp_path)
    assert [*history.overlaps(seen), *history.repeated_generations(seen), *history.generations_going_back(seen)] == []
    assert (history.hand_overs(seen), history.contested(seen)) == (2, 0)


@pytest.mark.parametrize("at", [1, 3, 9], ids=["at the first moment", "within", "at the last moment"])
def test_the_checker_sees_a_second_holder_within_anothers_time(tmp_path: Path, at: int) -> None:
    log(tmp_path, "a", ("tried", 1, 0), ("enter", 1, 1), ("stay", 1, 2), ("stay", 1, 9))
    log(tmp_path, "b", ("tried", 2, 0), ("enter", 2, at))
    assert len(history.overlaps(seen_in(tmp_path))) == 1
    assert history.contested(seen_in(tmp_path)) == 1


def test_the_checker_sees_an_overlap_behind_a_short_period_within_a_long_one(tmp_path: Path) -> None:
    log(tmp_path, "a", ("tried", 1, 0), ("enter", 1, 1), ("stay", 1, 9))
    log(tmp_path, "b", ("tried", 2, 0), ("enter", 2, 2), ("stay", 2, 3))
    log(tmp_path, "c", ("tried", 3, 0), ("enter", 3, 5))
    assert len(history.overlaps(seen_in(tmp_path))) == 2


def test_the_checker_sees_generations_that_repeat_or_go_back(tmp_path: Path) -> None:
    log(tmp_path, "a", ("tried", 2, 0), ("enter", 2, 1))
    log(tmp_path, "b", ("tried", 2, 2), ("enter", 2, 3))
    log(tmp_path, "c", ("tried", 1, 4), ("enter", 1, 5))
    assert [tried.holder for tried in history.repeated_generations(seen_in(tmp_path))] == ["b"]
    assert [later.holder for _, later in history.generations_going_back(seen_in(tmp_path))] == ["b", "c"]
