"""Processes that all read one key as free, or dead, and start at once: exactly one gets it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.processes.conftest import Child, Spawn

RACERS = 8


def run_round(racers: list[Child], start: int, key: str) -> str:
    """Let *racers* go for *key*; return the winner's name."""
    for racer in racers:
        racer.send(key=key)
    # Each has read the key by now and waits for the lock: each that judged it free is about to take it.
    assert [racer.receive() for racer in racers] == [{"ready": True}] * len(racers)
    os.write(start, b"!" * len(racers))
    answers = [racer.receive() for racer in racers]
    winners = [answer for answer in answers if answer["status"] == "acquired"]
    assert len(winners) == 1
    assert sum(answer["status"] == "held" for answer in answers) == len(racers) - 1
    assert {(answer["holder"], answer["generation"]) for answer in answers} == {
        (winners[0]["holder"], winners[0]["generation"])
    }
    return str(winners[0]["holder"])


@pytest.mark.parametrize("dead", [False, True], ids=["free", "dead"])
def test_of_eight_processes_that_saw_a_key_free_or_dead_one_gets_it_and_the_others_name_it(
    spawn: Spawn, tmp_path: Path, dead: bool
) -> None:
    rounds = 50 if dead else 100
    if dead:
        late = spawn("children.py", "run_commands", tmp_path / "claims")
        late.receive()
        for number in range(rounds):
            late.ask(call="try_claim", key=f"key {number}")
        late.kill()
    reader, start = os.pipe()
    try:
        racers = [spawn("children.py", "race", tmp_path / "claims", reader, pass_fds=(reader,)) for _ in range(RACERS)]
        names = [racer.receive()["name"] for racer in racers]
        winners = [run_round(racers, start, f"key {number}") for number in range(rounds)]
    finally:
        os.close(reader)
        os.close(start)
    assert set(winners) <= set(names)
    assert len(set(winners)) > 1, "the same process won each time: nobody raced"
