"""The demo is what people run first: it must show the truth, clean up, and fail when exclusion fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.cli.commands import TIMEOUT, at_terminal
from tests.support.servers import PYTHON_ENVIRONMENT

DEMO = [sys.executable, "-m", "mcp_claims", "demo"]


def run_demo(tmp_path: Path, command: list[str] = DEMO) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        # Its temporary directory is made here, so that the test sees what it leaves behind.
        env=PYTHON_ENVIRONMENT | {"TMPDIR": str(tmp_path), "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def servers_below(directory: Path) -> list[str]:
    running = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in running if str(directory) in line]


def test_it_shows_one_that_acts_a_kill_and_a_takeover_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run_demo(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for shown in (
        "HELD",
        "Exactly one acts",
        "SIGKILL",
        "whose process is dead",
        "took over",
        "RELEASED",
        "OK:",
    ):
        assert shown in done.stdout
    assert done.stdout.count(": CLAIMED") == 2
    assert not list(tmp_path.iterdir())
    assert not servers_below(tmp_path)


def test_it_is_plain_when_piped(tmp_path: Path) -> None:
    assert run_demo(tmp_path).stdout.isascii()


def test_it_draws_tables_in_colour_in_a_terminal(tmp_path: Path) -> None:
    environment = PYTHON_ENVIRONMENT | {"TMPDIR": str(tmp_path), "COLUMNS": "100", "TERM": "xterm-256color"}
    with at_terminal(DEMO, environment) as (demo, terminal):
        shown = bytearray()
        while part := _read(terminal):
            shown += part
        assert demo.wait(TIMEOUT) == 0
    assert "┃" in shown.decode() and "\x1b[32myes" in shown.decode()


def test_it_fails_when_two_win(tmp_path: Path) -> None:
    """Break exclusion for the demo's servers: every namespace lock is free and every key reads as free."""
    sabotage = tmp_path / "sabotage"
    sabotage.mkdir()
    (sabotage / "sitecustomize.py").write_text(
        "import mcp_claims.stores.files.store as f\n"
        "f.FileStore._read = lambda *_, **__: None\n"  # unreadable, held, whatever: it all means free
    )
    paths = os.pathsep.join([str(sabotage), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        DEMO,
        env=PYTHON_ENVIRONMENT | {"PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    assert "FAILED" in done.stdout


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65_536)
    except OSError:
        # What Linux says when the other side of a terminal has been closed.
        return b""
