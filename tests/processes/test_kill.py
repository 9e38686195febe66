"""`kill -9`: the claims of the dead are free at once, and no moment of death makes a key unclaimable."""

from __future__ import annotations

import os
import signal
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import Status
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.history import Limits
from tests.processes.conftest import Spawn

KEY = "vercel/next.js#4521:checks_failed"


@pytest.mark.parametrize("reaped", [False, True], ids=["a zombie", "reaped"])
def test_the_claim_of_a_killed_process_is_taken_over_by_the_next_try_of_anybody(
    spawn: Spawn, tmp_path: Path, reaped: bool
) -> None:
    holder, other = (spawn("children.py", "run_commands", tmp_path / "claims") for _ in range(2))
    name = holder.receive()["name"]
    other.receive()
    mine = process_session(FileStore(tmp_path / "claims"))
    keys = ("for a child", "for the parent")
    for key in keys:
        assert holder.ask(call="try_claim", key=key)["status"] == "acquired"
        assert other.ask(call="try_claim", key=key)["holder"] == name
    holder.kill()
    if reaped:
        holder.process.wait()
    taken = other.ask(call="try_claim", key=keys[0])
    assert (taken["status"], taken["from"], taken["why"]) == ("acquired", name, "orphaned")
    assert mine.try_claim(keys[1]).status is Status.ACQUIRED


def test_a_stopped_process_is_not_dead(spawn: Spawn, tmp_path: Path) -> None:
    holder = spawn("children.py", "run_commands", tmp_path / "claims")
    holder.receive()
    holder.ask(call="try_claim", key=KEY)
    os.kill(holder.pid, signal.SIGSTOP)
    holder.await_stop()
    assert process_session(FileStore(tmp_path / "claims")).try_claim(KEY).status is Status.HELD


@pytest.mark.rule("P1")
def test_a_process_that_got_the_pid_of_a_dead_one_neither_keeps_nor_owns_its_claim(
    spawn: Spawn, tmp_path: Path
) -> None:
    alive = spawn("children.py", "run_commands", tmp_path / "claims")
    alive.receive()
    alive.ask(call="try_claim", key=KEY)
    store = FileStore(tmp_path / "claims", history=Limits(days=0))  # What is forged here is no history.
    claim = store.read(ScopedKey("default", KEY))
    assert isinstance(claim, Claim)
    start = claim.holder.proof.start
    assert start
    # As if the claim were from an earlier process with the PID that our child has now.
    earlier = claim.holder._replace(name="earlier", proof=claim.holder.proof._replace(start=start - 1))
    assert store.swap(claim.scoped, claim, claim._replace(holder=earlier)).won
    assert not alive.ask(call="release", key=KEY)["released"]
    attempt = process_session(store).try_claim(KEY)
    assert attempt.taken_over
    assert attempt.taken_over.state is ClaimState.ORPHANED


def claim_after_death(directory: Path, after: int) -> int:
    """Claim and release the key as the next process would; return the generation, which has to be above *after*."""
    session = process_session(FileStore(directory))
    attempt = session.try_claim(KEY, lock_timeout=0.5)
    assert attempt.status is Status.ACQUIRED
    assert isinstance(attempt.found, Claim)
    assert attempt.found.generation > after
    assert session.release(KEY).released
    assert sorted(path.name for path in directory.glob("[!.]*/*")) == [".lock"], "nothing of the dead is left"
    return attempt.found.generation


def test_whenever_a_process_is_killed_the_next_one_can_claim_and_no_generation_comes_twice(
    spawn: Spawn, tmp_path: Path
) -> None:
    generations: list[int] = []
    output: list[dict[str, Any]] = []
    # Fifty deaths, and more if need be until they have been spread over a whole cycle of claim and release.
    for calls in count(1):
        if calls > 50 and len(output) >= 2:
            break
        child = spawn("children.py", "die", tmp_path / "claims", KEY, calls)
        child.await_death()
        output = child.hear_all()
        assert child.process.wait() == -signal.SIGKILL
        assert all(answer["status"] == "acquired" for answer in output)
        generations += [answer["generation"] for answer in output]
        generations.append(claim_after_death(tmp_path / "claims", after=max(generations, default=0)))
    assert all(earlier < later for earlier, later in pairwise(generations))


def test_whenever_the_very_first_process_is_killed_the_next_one_can_claim(spawn: Spawn, tmp_path: Path) -> None:
    # The directories and the lock file are not there yet, or half made.  Up to the second claim of the first process.
    output: list[dict[str, Any]] = []
    for calls in count(1):
        if len(output) == 2:
            break
        directory = tmp_path / f"claims {calls}"
        child = spawn("children.py", "die", directory, KEY, calls)
        child.await_death()
        output = child.hear_all()
        claim_after_death(directory, after=max((answer["generation"] for answer in output), default=0))
