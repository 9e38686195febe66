"""Short commands start fast, as hosts run one before each tool call, and print all they have to say although they end at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.commands import COMMAND, Commands


@pytest.mark.rule("L6")
def test_a_cold_check_imports_nothing_that_only_others_need(commands: Commands) -> None:
    code = (
        "import os, sys; from mcp_claims.cli.main import command\n"
        "os._exit = lambda code: sys.exit(code)\n"
        "sys.argv = ['mcp-claims', 'check', 'red']\n"
        "try: sys.exit(command())\n"
        "finally: print(*sys.modules)"
    )
    # Without the site module, whose .pth files import what they like.
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path}\n{code}"],
        env=commands.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "mcp_claims" in loaded
    assert not loaded & {"mcp", "pydantic", "anyio", "rich", "watchdog", "socket", "selectors", "hashlib"}
    if sys.version_info < (3, 14):  # From then on argparse itself imports it, for colours.
        assert "inspect" not in loaded, "a tenth of the start; `dataclasses` imports it"


@pytest.mark.rule("L6")
@pytest.mark.parametrize(("key", "code"), [("red", 1), ("green", 0)])
def test_an_answer_arrives_whole_although_the_process_ends_at_once(commands: Commands, key: str, code: int) -> None:
    commands("try", "red", "--for-pid", os.getpid())
    done = commands("check", key)
    assert done.returncode == code and done.stdout.endswith("\n") and done.stderr == ""
    assert commands.directory.exists() and len(done.stdout) > 20


def test_an_error_arrives_whole_although_the_process_ends_at_once(commands: Commands) -> None:
    done = commands("check", "")
    assert (done.returncode, done.stdout) == (2, "") and "must not be empty" in done.stderr


def test_a_closed_stderr_changes_no_answer(commands: Commands) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "check", "red"], env=commands.environment, check=False
    )
    assert done.returncode == 0
