"""`mcp-claims run` killed, stopped and in containers, many times: never two commands at once.

`MCP_CLAIMS_RUN_ROUNDS` is how many rounds of each (2); `.ci/nightly` makes 200.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.cli.commands import COMMAND, TIMEOUT
from tests.support.launch import unshare
from tests.support.platforms import PLATFORM
from tests.support.programs import installed
from tests.support.servers import PYTHON_ENVIRONMENT

ROUNDS = int(os.environ.get("MCP_CLAIMS_RUN_ROUNDS", "2"))
_AT_ONCE = 3

# Each holds a lock as long as any process of it lives, and writes a word if it finds that locked.
_LOCKED = 'exec 9>>"$WITNESS"; flock -n 9 || { echo overlap >>"$WITNESS"; exit 9; }; '
_ORPHAN = "(setsid sleep 600 &)" if PLATFORM == "linux" else "(sleep 600 &)"  # One that is found.
LASTING = f"{_LOCKED} {_ORPHAN} ; sleep 600 & echo started; sh -c 'sleep 600; :'; sleep 600"
SHORT = f"{_LOCKED} echo ran >>\"$WITNESS.ran\"; sh -c 'sleep 0.05; :'"


def run(directory: Path, *options: str, script: str, under: list[str] | None = None) -> subprocess.Popen[str]:
    """Start `mcp-claims run red` with *script*, on claims and a witness in *directory*."""
    directory.mkdir(exist_ok=True)
    environment = PYTHON_ENVIRONMENT | {
        "MCP_CLAIMS_DIR": str(directory / "claims"),
        "WITNESS": str(directory / "witness"),
    }
    return subprocess.Popen(
        [*(under or []), *COMMAND, "run", "red", *options, "--", "sh", "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contend(directory: Path, number: signal.Signals) -> None:
    """Send *number* to a run whose command lasts, while another waits for its key."""
    # As short as a busy machine permits: the claim of a stopped run has to expire.
    with run(directory, "--ttl", "6s" if number == signal.SIGSTOP else "10m", script=LASTING) as first:
        assert first.stdout is not None and first.stderr is not None
        assert first.stdout.readline() == "started\n", first.stderr.read()
        with run(directory, "--wait", "2m", script=SHORT) as second:
            assert second.stderr is not None and "waiting up to" in second.stderr.readline()
            first.send_signal(number)
            assert second.wait(2 * TIMEOUT) == 0, second.stderr.read()
        first.send_signal(signal.SIGCONT)
        first.wait(TIMEOUT)
    assert (directory / "witness").read_text() == ""


def share(directory: Path) -> None:
    """Run two as the first processes of two containers with one host name: they have the same PIDs."""
    inside = unshare("--pid", "--fork", "--kill-child", "--mount-proc")
    both = [run(directory, "--wait", "2m", script=SHORT, under=inside) for _ in range(2)]
    for each in both:
        _, errors = each.communicate(timeout=2 * TIMEOUT)
        assert each.returncode == 0, errors
    assert (directory / "witness").read_text() == ""
    assert (directory / "witness.ran").read_text() == "ran\nran\n"


def repeat(once: Callable[[Path], None], directory: Path) -> None:
    """Do *once* `ROUNDS` times, some at the same time, each in a directory of its own."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(once, [directory / str(number) for number in range(ROUNDS)]):
            pass


@pytest.mark.timeout(7_200)
@pytest.mark.rule("L4")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_never_two_commands_at_once_when_a_run_is_killed_or_stopped(tmp_path: Path, number: signal.Signals) -> None:
    installed("flock", "util-linux")
    repeat(partial(contend, number=number), tmp_path)


@pytest.mark.timeout(7_200)
@pytest.mark.rule("I10", "L4")
def test_never_two_commands_at_once_in_two_containers_with_one_name(tmp_path: Path) -> None:
    installed("flock", "util-linux")
    repeat(share, tmp_path)
