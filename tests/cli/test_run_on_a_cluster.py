"""`mcp-claims run` where the store is asked over a network, by threads, and may be slow to answer."""

from __future__ import annotations

import signal
import subprocess
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from mcp_claims.cli.run import _hold_until_ended
from mcp_claims.liveness import local_machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Moment, ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ClaimPage, ListedClaim
from tests.cli.commands import COMMAND, TIMEOUT, eventually
from tests.stores.samples import claim
from tests.support.etcd import fresh_store
from tests.support.servers import PYTHON_ENVIRONMENT


@pytest.mark.rule("E9")
def test_no_thread_takes_the_signals_that_are_the_command_s() -> None:
    store, red = fresh_store(), ScopedKey("default", "red")
    holder = process_session(store)
    held = holder.try_claim(red.key).found
    command = [*COMMAND, "run", red.key, "--wait", "60", "--store", str(store.config), "--", "sleep", "60"]
    with subprocess.Popen(command, env=PYTHON_ENVIRONMENT) as running:
        try:
            threads = Path(f"/proc/{running.pid}/task")
            # A wait has a thread that gets notices of changes.
            eventually(lambda: others_of(threads))
            holder.release(red.key)
            eventually(lambda: isinstance(found := store.read(red), Claim) and found != held)
            # That thread goes on for some seconds more, the keep-alive has one from now on, and one awaits the signals.
            eventually(lambda: blocks_signals(threads / threads.parent.name))
            eventually(lambda: [*map(blocks_signals, others_of(threads))].count(False) == 1)
        finally:
            running.terminate()
    assert running.returncode == 128 + signal.SIGTERM, "the command got it, and ended by it"


def others_of(threads: Path) -> list[Path]:
    """Return all of *threads* but the first."""
    return [each for each in threads.iterdir() if each.name != threads.parent.name]


def blocks_signals(thread: Path) -> bool:
    """Return whether *thread* cannot be given a signal, or has ended."""
    try:
        status = (thread / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
    return bool(blocked & 1 << signal.SIGTERM - 1)


@pytest.mark.rule("E9", "L4")
def test_a_command_is_stopped_before_its_time_is_up_though_the_store_has_not_answered_yet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine, stopped = local_machine(), Event()
    granted = claim()._replace(expires=expiry.later(machine.now(), timedelta(seconds=6)))
    asked_to_end: list[tuple[float, float]] = []

    class Session:
        remote = True

        def now(self) -> Moment:
            return machine.now()

        def read(self, *_: object) -> ClaimPage:
            return ClaimPage((ListedClaim(granted, ClaimState.HELD),), machine.now(), None)

        def renew(self, *_: object) -> Claim:
            assert stopped.wait(TIMEOUT), "the command goes on as long as the store does not answer"
            return granted

    class Child:
        out_of_time = guardian_died = False
        stop_at = granted.expires.ticks - 2  # As `start` got it.

        def keep_until(self, stop_at: float, kill_at: float) -> None:
            self.stop_at = stop_at

        def wait(self, seconds: float) -> bool:
            Event().wait(seconds)
            self.out_of_time = machine.now().ticks >= self.stop_at  # As the guardian reports it.
            return stopped.is_set()

        def stop(self, kill_at: float) -> None:
            asked_to_end.append((machine.now().ticks, kill_at))
            stopped.set()

    session: Any = Session()
    child: Any = Child()
    assert not _hold_until_ended(session, granted, timedelta(seconds=6), child)
    assert (
        "could not be renewed in time, so the command is stopped: the store has not answered" in capsys.readouterr().err
    )
    ((when, kill_at),) = asked_to_end
    assert when < kill_at < granted.expires.ticks
