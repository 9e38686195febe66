"""Many processes hold keys beside each other, and are killed: nobody holds what excludes another, nobody waits for ever.

`MCP_CLAIMS_STRESS_SECONDS` is how long each run takes (3 unless given): `-s` shows what was counted.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import pytest

from tests.processes import crowd_history as history
from tests.processes.conftest import Spawn
from tests.processes.crowd_history import SLOTS, History
from tests.processes.crowds import WAITED_FOR, WORKERS
from tests.processes.test_stress import SECONDS
from tests.support.etcd import fresh_config

# A grant on etcd takes several requests, and each run lasts until there are enough of them.
ON_BOTH = pytest.mark.parametrize("where", ["files", pytest.param("etcd", marks=pytest.mark.nightly)])


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


def run(spawn: Spawn, tmp_path: Path, logs: Path, where: str, plan: str) -> History:
    """Let *plan* run; check what holds for all of them."""
    claims = tmp_path / "claims" if where == "files" else fresh_config()
    counted = spawn("crowds.py", claims, logs, SECONDS, plan, f"seed of {plan}").receive()
    seen = history.read(logs.iterdir())
    met = sum(1 for _ in history.beside(seen))
    print(f"{plan} on {where}, {SECONDS:g} s:", counted, dict(seen.events), f"{met} pairs at once", file=sys.stderr)
    assert history.overlaps(seen) == []
    assert history.repeated_generations(seen) == []
    assert seen.lost == []
    assert counted["stuck"] == [] and counted["left"] == []
    assert met > 0, "or nothing was shown"
    return seen


@pytest.mark.rule("M8", "K11", "C15")
@pytest.mark.timeout(600 + 3 * SECONDS)
@ON_BOTH
def test_no_two_of_8_processes_write_what_overlaps(spawn: Spawn, tmp_path: Path, logs: Path, where: str) -> None:
    run(spawn, tmp_path, logs, where, "files")


@pytest.mark.rule("M1", "M2", "M4")
@pytest.mark.timeout(600 + 3 * SECONDS)
@ON_BOTH
def test_no_more_than_3_of_32_processes_are_in_3_slots(spawn: Spawn, tmp_path: Path, logs: Path, where: str) -> None:
    seen = run(spawn, tmp_path, logs, where, "slots")
    assert history.most_at_once(seen) <= SLOTS
    assert {period.slot for period in seen.periods} == set(range(SLOTS))


@pytest.mark.rule("M7")
@pytest.mark.timeout(600 + 3 * SECONDS)
@ON_BOTH
def test_one_that_waits_for_what_20_share_is_served_in_its_turn(
    spawn: Spawn, tmp_path: Path, logs: Path, where: str
) -> None:
    seen = run(spawn, tmp_path, logs, where, "comers")
    waits = [(wait.period.start - wait.joined) / 1e9 for wait in seen.waits]
    joins = [len(history.joins_before(seen, wait)) for wait in seen.waits]
    print(
        f"{len(waits)} waits of {statistics.median(waits):.2f} s at the median and {max(waits):.2f} s at most; "
        f"{statistics.median(joins)} others served meanwhile at the median and {max(joins)} at most",
        file=sys.stderr,
    )
    assert len(waits) >= len(WAITED_FOR)
    assert history.overtaken(seen) == []


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("plan", "fault"),
    [("files", "all go together"), ("files", "no lock"), ("slots", "no lock"), ("comers", "no queue")],
)
def test_the_same_run_with_a_planted_fault_is_found_out(spawn: Spawn, tmp_path: Path, plan: str, fault: str) -> None:
    # How soon it shows depends on the machine; some may stumble over what it leaves, which ends a run early.
    for attempt in range(20):
        logs = tmp_path / f"logs {attempt}"
        logs.mkdir()
        spawn("crowds.py", tmp_path / f"claims {attempt}", logs, 3, plan, f"seed {attempt}", fault).hear_all()
        seen = history.read(logs.iterdir())
        if history.overlaps(seen) or seen.lost or history.overtaken(seen) or history.most_at_once(seen) > WORKERS[plan]:
            return
    pytest.fail(f"{fault} was not noticed")


def log(
    directory: Path, name: str, keys: list[str], *times: int, shared: bool = False, slot: int | None = None
) -> None:
    """Write a log of a holder of *keys*: when it entered, and when it was still there."""
    entered = {"event": "enter", "keys": keys, "shared": shared, "slot": slot, "asked": 0, "generations": [[name, 1]]}
    lines = [{**(entered if at == times[0] else {"event": "stay"}), "holder": name, "at": at} for at in times]
    (directory / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_checker_is_content_with_those_who_share_and_with_files_side_by_side(logs: Path) -> None:
    log(logs, "reader", ["a/"], 1, 9, shared=True)
    log(logs, "other reader", ["a/x.py"], 2, 8, shared=True)
    log(logs, "writer", ["b/?.py"], 3, 7)
    log(logs, "next writer", ["a/*.py"], 10, 11)
    log(logs, "in a slot", ["gpu"], 1, 9, slot=0)
    log(logs, "in another", ["gpu"], 1, 9, slot=1)
    seen = history.read(logs.iterdir())
    assert history.overlaps(seen) == [] and history.most_at_once(seen) == 5


@pytest.mark.parametrize(
    ("mine", "other"),
    [(["a/"], ["a/x.py"]), (["a/*.py"], ["b/z.md", "*/x.py"]), ([""], ["**/*.md"]), (["gpu"], ["gpu"])],
)
@pytest.mark.parametrize("at", [1, 5, 9])
def test_the_checker_sees_a_writer_beside_a_reader(logs: Path, mine: list[str], other: list[str], at: int) -> None:
    log(logs, "reader", mine, 1, 5, 9, shared=True)
    log(logs, "writer", other, at)
    assert len(history.overlaps(history.read(logs.iterdir()))) == 1


def test_the_checker_sees_two_in_one_slot(logs: Path) -> None:
    log(logs, "a", ["gpu"], 1, 9, slot=2)
    log(logs, "b", ["gpu"], 5, slot=2)
    assert len(history.overlaps(history.read(logs.iterdir()))) == 1


def test_the_checker_sees_who_is_overtaken(logs: Path) -> None:
    late = 2 * history.OVERTAKEN
    log(logs, "early", ["src/1"], 5, 9, shared=True)
    log(logs, "waiter", ["src/"], late + 9)
    (logs / "waiter").write_text('{"event": "joined", "at": 3}\n' + (logs / "waiter").read_text())
    seen = history.read(logs.iterdir())
    assert len(seen.waits) == 1 and len(history.joins_before(seen, seen.waits[0])) == 1
    assert history.overtaken(seen) == []
    log(logs, "late", ["src/2"], late + 5, shared=True)
    (logs / "late").write_text((logs / "late").read_text().replace('"asked": 0', f'"asked": {late}'))
    assert [each.holder for _, each in history.overtaken(history.read(logs.iterdir()))] == ["late"]
