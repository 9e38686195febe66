"""How a server on stdio ends: at once, with its claims released, whatever else is going on."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.model.records import ScopedKey
from mcp_claims.stores.files.store import FileStore
from tests.support.servers import BOTH_STAGES, RawServer, raw_server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and flock of POSIX")

# On a quiet machine 15 ms, and 1 s more at EOF with a call in progress; to wait for the lock would take 5 s, for the
# interpreter and the thread that reads for ever.
GONE_WITHIN = 4.5
RED = ScopedKey("default", "red")


def close_stdin(server: RawServer) -> None:
    server.stdin.close()


def send(number: signal.Signals) -> Callable[[RawServer], None]:
    return lambda server: server.process.send_signal(number)


def close_stdout(server: RawServer) -> None:
    """Go away as a reader but leave the server's stdin open; it notices when it answers."""
    server.stdout.close()
    server.send("is_claimed_by_other", {"key": "red"})


def interrupt_as_codex_does(server: RawServer) -> None:
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.1)  # What the host does between its two signals; not a wait for a condition.
    server.process.send_signal(signal.SIGTERM)


ENDS = pytest.mark.parametrize(
    "end",
    [
        pytest.param(close_stdin, id="EOF"),
        pytest.param(send(signal.SIGINT), id="SIGINT with stdin open"),
        pytest.param(send(signal.SIGTERM), id="SIGTERM with stdin open"),
        pytest.param(send(signal.SIGHUP), id="SIGHUP with stdin open"),
        pytest.param(interrupt_as_codex_does, id="SIGINT then SIGTERM"),
        pytest.param(close_stdout, id="stdout closed, stdin open"),
    ],
)


def seconds_until_gone(server: RawServer, end: Callable[[RawServer], None]) -> float:
    began = time.monotonic()
    end(server)
    server.process.wait(timeout=10)
    return time.monotonic() - began


@pytest.mark.rule("V2")
@BOTH_STAGES
@ENDS
def test_the_claims_are_released_and_the_process_is_gone_at_once(
    claims_dir: Path, end: Callable[[RawServer], None], options: list[str]
) -> None:
    with raw_server(claims_dir, *options, stderr=subprocess.PIPE) as server:
        assert server.call("try_claim", key="red")["claimed"]
        took = seconds_until_gone(server, end)
        assert server.process.returncode == 0
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""
    # Removed, not just orphaned: an orphaned claim would still be there to read.
    assert FileStore(claims_dir).read(RED) is None
    assert took < GONE_WITHIN


@ENDS
def test_a_stopped_process_in_the_way_does_not_delay_the_end(
    claims_dir: Path, end: Callable[[RawServer], None]
) -> None:
    with raw_server(claims_dir) as server:
        assert server.call("try_claim", key="red")["claimed"]
        # A lock that is never released stands for a process that was stopped inside.
        lock = os.open(claims_dir / "default" / ".lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            took = seconds_until_gone(server, end)
        finally:
            os.close(lock)
        assert took < GONE_WITHIN
    with raw_server(claims_dir) as heir:
        assert heir.call("try_claim", key="red")["previous"]["state"] == "orphaned"


@pytest.mark.rule("V2")
@ENDS
def test_a_call_that_waits_for_a_stopped_process_does_not_delay_the_end(
    claims_dir: Path, end: Callable[[RawServer], None]
) -> None:
    with raw_server(claims_dir) as server:
        assert server.call("try_claim", key="red")["claimed"]
        lock = os.open(claims_dir / "default" / ".lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            server.send("try_claim", {"key": "green"})
            # The answer to a call after it shows that the first is being waited for, and that waiting blocks nobody.
            assert server.call("is_claimed_by_other", key="red")["held_by_you"]
            took = seconds_until_gone(server, end)
        finally:
            os.close(lock)
        assert took < GONE_WITHIN
    assert FileStore(claims_dir).read(ScopedKey("default", "green")) is None


@pytest.mark.rule("C8")
@ENDS
def test_a_namespace_that_others_can_write_neither_stops_the_end_nor_keeps_other_claims(
    claims_dir: Path, end: Callable[[RawServer], None]
) -> None:
    with raw_server(claims_dir) as server:
        assert server.call("try_claim", key="red")["claimed"]
        assert server.call("try_claim", key="red", namespace="other")["claimed"]
        (claims_dir / "default").chmod(0o777)
        # It may rely on its last check for a second.
        while True:
            server.send("is_claimed_by_other", {"key": "red"})
            if server.receive()["result"].get("isError"):
                break
        took = seconds_until_gone(server, end)
        assert server.process.returncode == 0
    assert took < GONE_WITHIN
    assert FileStore(claims_dir).read(ScopedKey("other", "red")) is None


def test_after_sigkill_the_next_try_of_anybody_takes_over(claims_dir: Path) -> None:
    with raw_server(claims_dir) as winner, raw_server(claims_dir) as heir:
        won = winner.call("try_claim", key="red")
        left = {"state": "orphaned", "holder": won["holder"], "client": won["client"], "generation": 1}
        assert heir.call("try_claim", key="red")["status"] == "held"
        winner.process.kill()
        began = time.monotonic()
        taken = heir.call("try_claim", key="red")
        while not taken["claimed"] and time.monotonic() - began < 5:
            taken = heir.call("try_claim", key="red")
        took = time.monotonic() - began
    assert taken["previous"].items() >= left.items()
    assert taken["generation"] == 2
    assert took < 1, "not when its time is up"
