"""Many processes, few keys, short lives: whatever happened, nobody acted while another did."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.processes import history
from tests.processes.conftest import Spawn
from tests.processes.history import History

SECONDS = 3.0


@pytest.mark.parametrize("keys", [1, 20])
def test_sixteen_processes_with_deaths_and_expiries_never_hold_one_key_at_once(
    spawn: Spawn, tmp_path: Path, keys: int
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    kills = spawn("contenders.py", tmp_path / "claims", logs, SECONDS, keys, f"seed {keys}").hear()["kills"]
    seen = history.read(logs.iterdir())

    assert history.overlaps(seen) == []
    assert history.repeated_generations(seen) == []
    assert history.generations_going_back(seen) == []

    # And it was a contest: processes tried at the same time, were refused, took over from the dead and the late.
    # A quiet machine shows some hundred times these numbers; one that is busy with other things must pass as well.
    statuses, causes = Counter(tried.status for tried in seen.tries), Counter(tried.why for tried in seen.tries)
    contested, hand_overs = history.contested(seen), history.hand_overs(seen)
    assert kills >= 5
    assert statuses["held"] > 100
    assert contested > 50
    assert hand_overs > 20
    assert causes["orphaned"] > 0
    assert causes["expired"] > 0


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
