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
            # That thread goes on for some seconds more, and the keep-alive has one from now on.
            eventually(lambda: (blocking := [*map(blocks_signals, others_of(threads))]) and all(blocking))
        finally:
            running.terminate()
    assert running.returncode == 128 + signal.SIGTERM, "the command got it, and ended by it"


def others_of(threads: Path) -> list[Path]:
    """Return all of *threads* but the first."""
    return [each for each in threads.iterdir() if each.name != threads.parent.name]


def blocks_signals(thread: Path) -> bool:
    """Return whether *thread* cannot be given the end of the command, or has ended."""
    try:
        status = (thread / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
    return all(blocked & 1 << number - 1 for number in (signal.SIGCHLD, signal.SIGTERM))


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
        def wait(self, seconds: float) -> bool:
            return not Event().wait(seconds) and stopped.is_set()

        def stop(self, timeout: float) -> None:
            asked_to_end.append((machine.now().ticks, timeout))
            stopped.set()

    session: Any = Session()
    child: Any = Child()
    assert not _hold_until_ended(session, granted, timedelta(seconds=6), child)
    assert "could not be renewed in time: the store has not answered" in capsys.readouterr().err
    ((when, timeout),) = asked_to_end
    assert timeout > 0 and when + timeout < granted.expires.ticks
