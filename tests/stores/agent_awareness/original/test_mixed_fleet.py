"""Sessions of the original and of mcp-claims contend for the same keys: ours are never a second holder.

MCP_CLAIMS_LONG=1 makes the runs 20 s long instead of 3 s.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import history
from tests.processes.history import History, Period
from tests.stores.agent_awareness.original.conftest import HERE, SessionProcess, StartSession
from tests.stores.agent_awareness.original.mcp_claims_process import UNREADABLE
from tests.support.programs import installed

LONG = "MCP_CLAIMS_LONG" in os.environ
SECONDS = 20.0 if LONG else 3.0
ROUNDS = 100 if LONG else 20
MOST_RUNS = 4
MILLISECOND = 1_000_000


@pytest.mark.rule("A13")
@pytest.mark.parametrize("repaired", [True, False])
def test_of_four_and_four_processes_one_gets_each_key_unless_the_original_logs_a_fault(
    start_original: StartSession, start_ours: StartSession, repaired: bool
) -> None:
    theirs, mine = [start_original(*["--repaired"] * repaired) for _ in range(4)], [start_ours() for _ in range(4)]
    winners: Counter[bool] = Counter()
    faults_logged = second = 0
    for number in range(ROUNDS):
        answers, faults = race(theirs, mine, f"round {number}")
        won = [name for name, (claimed, _) in answers.items() if claimed]
        assert won
        assert len(won) == 1 or faults, answers
        assert not repaired or not faults
        if len(won) == 1 and not faults:
            assert {holder for _, holder in answers.values()} - {UNREADABLE} == set(won)
        faults_logged += len(faults)
        second += len(won) - 1
        winners.update(map(is_ours, won))
    print(f"{ROUNDS} rounds, repaired: {repaired}, ours won {winners}, {faults_logged} faults, {second} second holders")
    assert len(winners) == 2 or not LONG, "one kind always won, so there was no race"


def race(
    theirs: list[SessionProcess], mine: list[SessionProcess], key: str
) -> tuple[dict[str, tuple[bool, str]], list[str]]:
    """Let all try *key* at once; return, for each, whether it got the key and whom it named as holder, and the logged faults."""
    for pair in zip(theirs, mine, strict=True):
        pair[0].send(call="tryClaim", plugin="ci", key=key, report=True)
        pair[1].send(call="try_claim", plugin="ci", key=key)
    answers, faults = {}, []
    for process in theirs:
        received = process.receive()
        # Its call fails if another original takes its lock, new and still empty, for a stale one.
        answer = received.get("answer", {"claimed": False, "holder": ""})
        answers[process.name] = (answer["claimed"], process.name if answer["claimed"] else answer["holder"])
        faults += received.get("faults", ["failed"])
    for process in mine:
        answer = process.receive()["answer"]
        answers[process.name] = (answer["status"] == "acquired", answer["holder"])
    return answers, faults


@dataclass
class Run:
    kills: int
    seen: History
    faults: list[dict[str, Any]]


def contests(
    processes: list[SessionProcess], directory: Path, name: str, keys: int, *, nodes: int, ours: int, mode: str
) -> Iterator[Run]:
    """Yield runs, each twice as long as the last, until both kinds have won and lost: on a loaded machine that takes time."""
    for number in range(MOST_RUNS):
        logs, seconds = directory / f"logs {number}", SECONDS * 2**number
        run = contend(processes, directory / f"claims {number}", logs, seconds, keys, nodes=nodes, ours=ours, mode=mode)
        report(f"{name}, {keys} keys", run)
        mine = History([tried for tried in run.seen.tries if is_ours(tried.holder)])
        assert history.repeated_generations(mine) == []
        yield run
        # With many keys, few tries meet.
        if keys > 1 or is_contest(run, *[True] * bool(ours), *[False] * bool(nodes)):
            return
    pytest.fail("no run was long enough for a contest")


def contend(
    processes: list[SessionProcess],
    claims: Path,
    logs: Path,
    seconds: float,
    keys: int,
    *,
    nodes: int,
    ours: int,
    mode: str,
) -> Run:
    logs.mkdir()
    installed("node", "nodejs")
    fleet = SessionProcess(sys.executable, HERE / "fleet.py", claims, logs, seconds, keys, "seed", nodes, ours, mode)
    processes.append(fleet)
    kills = fleet.receive()["kills"]
    lines = [json.loads(line) for log in logs.iterdir() for line in log.read_text().rpartition("\n")[0].splitlines()]
    return Run(kills, history.read(logs.iterdir()), [line for line in lines if line["event"] == "fault"])


def is_ours(holder: str) -> bool:
    """Return whether *holder* is a session of mcp-claims (`host:pid:nonce`), not of the original (`host:pid`)."""
    return holder.count(":") == 2


def unexplained(run: Run) -> list[tuple[Period, Period]]:
    """Return the pairs of simultaneous holders that no logged fault of the original explains.

    The original logs each lock that it breaks and each record that it prunes, before it does so.  That explains a second
    holder on that key soon afterwards.  If one of the two is ours, only two faults do: a prune, and a record that the
    original wrote or removed after it had lost its lock.
    """
    return [pair for pair in history.overlaps(run.seen) if not any(_explains(fault, *pair) for fault in run.faults)]


def _explains(fault: dict[str, Any], first: Period, second: Period) -> bool:
    kinds, before = {"pruned", "lock lost"}, 50 * MILLISECOND
    if not (is_ours(first.holder) or is_ours(second.holder)):
        kinds, before = kinds | {"gone", "forced", "dead", "aged", "old"}, 1_000 * MILLISECOND
    since, until = first.start - before, second.start + 10 * MILLISECOND
    return fault["key"] == first.key and fault["why"] in kinds and since <= fault["at"] <= until


def report(name: str, run: Run) -> None:
    overlaps = history.overlaps(run.seen)
    kinds = Counter(tuple(sorted("ours" if is_ours(each.holder) else "theirs" for each in pair)) for pair in overlaps)
    statuses = Counter(("ours" if is_ours(tried.holder) else "theirs", tried.status) for tried in run.seen.tries)
    print(
        f"{name}: {run.kills} kills, tries {dict(statuses)}, contested {history.contested(run.seen)}, "
        f"faults {dict(Counter(fault['why'] for fault in run.faults))}, double holders {dict(kinds)}"
    )


def is_contest(run: Run, *kinds: bool) -> bool:
    """Return whether each of *kinds* (ours or not) has won and lost some tries, and some processes were killed."""
    tries = Counter((is_ours(tried.holder), tried.status) for tried in run.seen.tries)
    return run.kills >= 3 and all(tries[kind, status] > 5 for kind in kinds for status in ("acquired", "held"))


@pytest.mark.rule("A13")
@pytest.mark.parametrize("keys", [1, 100])
def test_with_a_repaired_original_no_key_has_two_holders(
    processes: list[SessionProcess], tmp_path: Path, keys: int
) -> None:
    for run in contests(processes, tmp_path, "repaired", keys, nodes=4, ours=4, mode="repaired"):
        assert history.overlaps(run.seen) == []
        assert run.faults == []


@pytest.mark.rule("A13")
@pytest.mark.parametrize("keys", [1, 100])
def test_without_the_original_no_key_has_two_holders(
    processes: list[SessionProcess], tmp_path: Path, keys: int
) -> None:
    for run in contests(processes, tmp_path, "ours alone", keys, nodes=0, ours=8, mode="none"):
        assert history.overlaps(run.seen) == []
        assert history.generations_going_back(run.seen) == []


@pytest.mark.rule("A13")
@pytest.mark.parametrize("mode", ["original", "impatient"])
@pytest.mark.parametrize("keys", [1, 100])
def test_with_the_original_a_logged_fault_explains_each_second_holder(
    processes: list[SessionProcess], tmp_path: Path, keys: int, mode: str
) -> None:
    for run in contests(processes, tmp_path, mode, keys, nodes=4, ours=4, mode=mode):
        assert unexplained(run) == []


def test_only_a_fault_on_that_key_at_that_time_explains_a_second_holder() -> None:
    first = Period("k", "rig:1", 0, 10 * MILLISECOND, 30 * MILLISECOND)
    second = Period("k", "rig:2:0123456789ab", 1, 20 * MILLISECOND, 40 * MILLISECOND)

    def explained(**fault: Any) -> bool:
        return not unexplained(Run(0, History([], [first, second]), [fault] if fault else []))

    assert explained(key="k", why="lock lost", at=15 * MILLISECOND)
    assert not explained()
    assert not explained(key="k", why="forced", at=15 * MILLISECOND), (
        "a broken lock alone does not explain that we are a second holder"
    )
    assert not explained(key="other", why="lock lost", at=15 * MILLISECOND)
    assert not explained(key="k", why="pruned", at=31 * MILLISECOND)
    assert not explained(key="k", why="pruned", at=-41 * MILLISECOND)
    second = second._replace(holder="rig:2")
    assert explained(key="k", why="forced", at=15 * MILLISECOND)
