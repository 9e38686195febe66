"""A process that is stopped where it hurts most hangs nobody for long and destroys nothing when it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import pytest

from mcp_claims.errors import StoreBusyError
from mcp_claims.model.records import ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.files.store import FileStore
from tests.processes.children import Hooked
from tests.processes.conftest import Child, Spawn

BOUND = 0.3

CHANGES: dict[str, Callable[[Session], object]] = {
    "try_claim": lambda session: session.try_claim("free", lock_timeout=BOUND),
    "renewal": lambda session: session.try_claim("mine", lock_timeout=BOUND),
    "release": lambda session: session.release("mine", lock_timeout=BOUND),
}


def stopped(spawn: Spawn, directory: Path, place: str, **order: object) -> Child:
    """Start a process that is stopped before system call *place* of what *order* asks it to do."""
    child = spawn("children.py", "stop", directory, place)
    child.receive()
    child.send(**order)
    child.await_stop()
    return child


# With the new record written but not at its place yet; and with the old one not removed yet.
@pytest.mark.parametrize("place", ["read", "write", "replace"])
def test_a_change_in_a_namespace_whose_lock_is_stuck_is_an_error_in_time(
    spawn: Spawn, tmp_path: Path, place: str
) -> None:
    directory = tmp_path / "claims"
    session = process_session(FileStore(directory))
    mine = session.try_claim("mine").found
    child = stopped(spawn, directory, place, call="try_claim", key="theirs")
    for name, change in CHANGES.items():
        began = time.monotonic()
        with pytest.raises(StoreBusyError) as error:
            change(session)
        assert BOUND <= time.monotonic() - began < BOUND + 2, name
        assert (error.value.where, error.value.waited) == (str(directory / "default" / ".lock"), BOUND)

    # Inspecting takes no lock, and other namespaces have their own.
    assert session.inspect("mine").held_by_you
    assert process_session(FileStore(directory)).try_claim("mine").status is Status.HELD
    assert session.try_claim("mine", "another").status is Status.ACQUIRED

    child.go_on()
    assert child.receive()["status"] == "acquired"
    assert session.try_claim("theirs").status is Status.HELD
    assert FileStore(directory).read(ScopedKey("default", "mine")) == mine
    assert session.try_claim("free").status is Status.ACQUIRED


def test_prune_reports_what_it_could_not_remove_from_a_stuck_namespace_and_goes_on(
    spawn: Spawn, tmp_path: Path
) -> None:
    directory = tmp_path / "claims"
    late = spawn("children.py", "run_commands", directory)
    late.receive()
    for namespace in ("another", "default"):
        late.ask(call="try_claim", key="dead", namespace=namespace)
    late.kill()
    child = stopped(spawn, directory, "replace", call="try_claim", key="theirs")
    pruned = process_session(FileStore(directory)).prune(lock_timeout=BOUND)
    assert (pruned.orphaned, [type(error) for error in pruned.failed]) == (1, [StoreBusyError])
    child.go_on()
    assert child.receive()["status"] == "acquired"
    assert process_session(FileStore(directory)).prune().orphaned == 1


def test_a_killed_process_frees_the_lock_that_it_was_stopped_with(spawn: Spawn, tmp_path: Path) -> None:
    child = stopped(spawn, tmp_path / "claims", "replace", call="try_claim", key="theirs")
    session = process_session(FileStore(tmp_path / "claims"))
    with pytest.raises(StoreBusyError):
        session.try_claim("theirs", lock_timeout=0)
    child.kill()
    assert session.try_claim("theirs", lock_timeout=0).status is Status.ACQUIRED


@pytest.mark.rule("S3")
@pytest.mark.parametrize("call", ["try_claim", "prune"])
def test_a_process_stopped_after_it_judged_a_claim_dead_does_not_destroy_the_claim_of_its_successor(
    spawn: Spawn, tmp_path: Path, call: str
) -> None:
    directory = tmp_path / "claims"
    late = spawn("children.py", "run_commands", directory)
    late.receive()
    late.ask(call="try_claim", key="red")
    late.kill()
    order = {"call": call, "key": "red"} if call == "try_claim" else {"call": call}
    child = stopped(spawn, directory, "try_lock", **order)
    session = process_session(FileStore(directory))
    mine = session.try_claim("red")
    assert mine.status is Status.ACQUIRED
    child.go_on()
    answer = child.receive()
    if call == "try_claim":
        assert (answer["status"], answer["holder"]) == ("held", session.holder.name)
    else:
        assert answer["orphaned"] == 0
    assert FileStore(directory).read(ScopedKey("default", "red")) == mine.found


def test_a_waiter_whose_lock_file_was_removed_does_not_enter_beside_the_owner_of_the_new_one(
    spawn: Spawn, tmp_path: Path
) -> None:
    directory = tmp_path / "claims"
    first = stopped(spawn, directory, "replace", call="try_claim", key="other")
    waiting, further = threading.Event(), threading.Event()

    def watch(call: str) -> None:
        if call == "try_lock":
            waiting.set()
        elif call == "open" and waiting.is_set():
            # Either it has entered, or it opens the new lock file.
            further.set()

    waiter = process_session(FileStore(directory, fs=Hooked(watch)))
    attempts: list[ClaimResult] = []
    thread = threading.Thread(target=lambda: attempts.append(waiter.try_claim("red", lock_timeout=60)))
    thread.start()
    assert waiting.wait(30)
    rmtree(directory / "default")
    owner = stopped(spawn, directory, "read", call="try_claim", key="red")
    first.kill()
    assert further.wait(30)
    # Were it inside, it would be through by then; it is not, and waits for the owner.
    thread.join(0.1)
    owner.go_on()
    answer = owner.receive()
    thread.join(30)
    assert answer["status"] == "acquired"
    assert [attempt.status for attempt in attempts] == [Status.HELD]
