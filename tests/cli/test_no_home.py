"""A user without a home: an id that has no entry among the users, as containers have, and no HOME."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.stores.config import claims_directory
from tests.cli.commands import TIMEOUT
from tests.support.servers import PYTHON_ENVIRONMENT

# What the id of such a user does to Python; to become one takes root and an interpreter that all may read.
PROGRAM = """
import os, pwd, sys
def getpwuid(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
from mcp_claims.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
UNSET = ("HOME", "XDG_STATE_HOME", "MCP_CLAIMS_DIR")
EVENT = json.dumps({"tool_input": {"file_path": "/repo/a"}})


def without_home(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in PYTHON_ENVIRONMENT.items() if name not in UNSET}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=directory,
        env=inherited | environment,
        input=EVENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


COMMANDS = [
    "try red --session ci",
    "check red",
    "list",
    "release red --session ci",
    "prune",
    "doctor",
    "doctor --hosts",
    "run red -- true",
    "serve",
    "serve --http --port 0",
    "install codex",
    "install claude-code --hooks",
    "uninstall codex",
    "try red --session ci --layout agent-awareness",
]


@pytest.mark.rule("L5")
@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_wrong_usage_in_one_line_and_nothing_is_made(tmp_path: Path, command: str) -> None:
    done = without_home(tmp_path, *command.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "HOME must be the absolute path of this user's home ('~' is none)" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["relative", "~", "."])
def test_a_home_that_is_no_absolute_path_is_none(tmp_path: Path, home: str) -> None:
    for command in (["list"], ["install", "codex"]):
        done = without_home(tmp_path, *command, HOME=home)
        assert done.returncode == 2 and "HOME must be the absolute path" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rule("L5")
def test_a_strict_guard_denies_and_any_other_hook_reports_it(tmp_path: Path) -> None:
    strict = without_home(tmp_path, "hook", "guard", "--strict")
    decision = json.loads(strict.stdout)["hookSpecificOutput"]
    assert strict.returncode == 0 and decision["permissionDecision"] == "deny"
    assert "HOME must be" in decision["permissionDecisionReason"]
    for hook, code in (("guard", 0), ("session-end", 3)):
        done = without_home(tmp_path, "hook", hook)
        assert (done.returncode, done.stdout) == (code, "") and "HOME must be" in done.stderr


def test_with_a_directory_of_their_own_all_works(tmp_path: Path) -> None:
    for chosen in ({"MCP_CLAIMS_DIR": str(tmp_path / "claims")}, {"XDG_STATE_HOME": str(tmp_path)}):
        assert without_home(tmp_path, "try", "red", "--session", "ci", **chosen).stdout.startswith("CLAIMED:")


@pytest.mark.rule("L5")
def test_a_strict_guard_that_fails_by_a_defect_denies(tmp_path: Path) -> None:
    broken = PROGRAM.replace("from mcp", "import mcp_claims.cli.hook as hook\nhook._answer = None\nfrom mcp")
    for options, denies in (([], False), (["--strict"], True)):
        done = subprocess.run(
            [sys.executable, "-c", broken, "hook", "guard", *options, "--dir", str(tmp_path / "claims")],
            env=PYTHON_ENVIRONMENT,
            input=EVENT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert ('"deny"' in done.stdout) == denies
        assert (done.returncode == 0) == denies


def test_the_library_raises_invalid_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "relative")
    with pytest.raises(InvalidInputError, match="MCP_CLAIMS_DIR") as refusal:
        claims_directory(environment={})
    assert refusal.value.field == "HOME"
