"""`mcp-claims monitor`: a process of its own, beside those that claim, which ends with whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mcp_claims.model.validation import scoped_key
from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import COMMAND, TIMEOUT, Commands, eventually
from tests.session.bench import granted
from tests.support.etcd import fresh_store

HOST_SESSION = "b1946ac9-2492-4d23-97a7-0f2a0f5d7f3e"
YOUR_TURN = 'your turn: "turn" (namespace "default") is kept for you until '

HOST = (
    "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=open('lines', 'w')).pid, flush=True); input()"
)
"""A program that starts a monitor, as a host does, whose output goes to a file."""


@pytest.fixture(autouse=True)
def host_session(commands: Commands) -> None:
    """Let monitors belong to the session of a host."""
    commands.environment["CLAUDE_CODE_SESSION_ID"] = HOST_SESSION


def session_of(store: Store, host_session: str = HOST_SESSION) -> Session:
    """Open a session as the server of a host's session does."""
    session = process_session(store)
    session.holder = session.holder._replace(host_session=host_session)
    return session


def give_turn(us: Session, stranger: Session) -> None:
    """Keep the key `turn` for *us*: once a monitor tells of it, it has looked at what was there before."""
    granted(stranger, "turn")
    us.queue.join(scoped_key("turn"), 600)
    us.queue.end_wait(scoped_key("turn"), keeps_place=True)
    stranger.release("turn")


@pytest.mark.rule("X5")
@pytest.mark.parametrize("make", [FileStore, lambda _: fresh_store()], ids=["files", "etcd"])
def test_it_tells_of_a_turn_a_loss_and_a_release_and_of_nothing_else(
    commands: Commands, make: Callable[[str], FileStore | EtcdStore]
) -> None:
    store = make(str(commands.directory))
    options = [] if isinstance(store, FileStore) else ["--store", store.config]
    us, stranger = session_of(store), session_of(store, "another")
    lost = granted(us, "lost")
    granted(us, "kept"), granted(stranger, "busy"), granted(stranger, "theirs")
    us.queue.join(scoped_key("busy"), 600)
    give_turn(us, stranger)
    with commands.start("monitor", *options, stdout=subprocess.PIPE) as monitor:
        assert monitor.stdout is not None
        assert monitor.stdout.readline().startswith(YOUR_TURN if isinstance(store, FileStore) else 'released: "turn"')
        stranger.revoke(lost, "it hangs")
        assert monitor.stdout.readline().startswith('lost: "lost" (namespace "default"): your claim was revoked by ')
        us.queue.leave(scoped_key("busy"))
        us.release("kept"), stranger.release("theirs"), stranger.release("busy")
        assert monitor.stdout.readline() == 'released: "busy" (namespace "default") is free. Claim it before you act.\n'
        monitor.terminate()
        assert monitor.communicate(timeout=TIMEOUT)[0] == ""


@pytest.mark.rule("X6")
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_it_ends_when_nobody_reads_it_any_more_although_it_has_nothing_to_say(commands: Commands, kind: str) -> None:
    ours, theirs = map(socket.SocketType.detach, socket.socketpair()) if kind == "socket" else os.pipe()
    with commands.start("monitor", stdout=theirs, stderr=subprocess.PIPE) as monitor:
        os.close(theirs)
        os.close(ours)
        assert monitor.communicate(timeout=TIMEOUT)[1] == ""
        assert monitor.returncode == 0
    assert not commands.directory.exists()


@pytest.mark.rule("X6")
def test_it_ends_with_its_host_and_idles_until_then(commands: Commands, tmp_path: Path) -> None:
    store = FileStore(str(commands.directory))
    give_turn(session_of(store), session_of(store, "another"))
    with subprocess.Popen(
        [sys.executable, "-c", HOST, *COMMAND, "monitor"],
        cwd=tmp_path,
        env=commands.environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as host:
        assert host.stdout is not None
        monitor = psutil.Process(int(host.stdout.readline()))
        eventually(lambda: (tmp_path / "lines").read_text().startswith(YOUR_TURN))
        used = sum(monitor.cpu_times()[:2])
        time.sleep(1)  # Whatever else the machine does, it uses no time itself.
        assert sum(monitor.cpu_times()[:2]) - used < 0.3
        host.kill()
    eventually(lambda: not monitor.is_running() or monitor.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.rule("X6")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_it_has_written_nothing(commands: Commands, number: signal.Signals) -> None:
    store = FileStore(str(commands.directory))
    give_turn(session_of(store), session_of(store, "another"))
    before = contents(commands.directory)
    with commands.start("monitor", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as monitor:
        assert monitor.stdout is not None
        assert monitor.stdout.readline().startswith(YOUR_TURN)
        monitor.send_signal(number)
        assert monitor.communicate(timeout=TIMEOUT) == ("", "")
        assert monitor.returncode in (-number, 128 + number)
    assert contents(commands.directory) == before


@pytest.mark.rule("X6")
def test_a_store_in_trouble_is_reported_once_and_watched_when_it_is_well_again(commands: Commands) -> None:
    store = FileStore(str(commands.directory))
    give_turn(session_of(store), session_of(store, "another"))
    commands.directory.chmod(0o777)
    with commands.start("monitor", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as monitor:
        assert monitor.stdout is not None and monitor.stderr is not None
        assert "chmod" in monitor.stderr.readline()
        commands.directory.chmod(0o700)
        assert monitor.stdout.readline().startswith(YOUR_TURN)
        monitor.terminate()
        assert monitor.communicate(timeout=TIMEOUT)[1] == ""


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
