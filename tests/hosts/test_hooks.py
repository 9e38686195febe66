"""The hooks in Claude Code's settings: beside the user's own, once, and out again."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.hosts.claude_hooks import GUARD
from mcp_claims.hosts.entries import Launch
from tests.hosts.conftest import Run
from tests.hosts.texts import is_within
from tests.support.servers import PYTHON_ENVIRONMENT

PYTHON = os.path.abspath(sys.executable)
THEIRS = """{
  "model": "opus",
  "hooks": {
    "SessionEnd": [{"hooks": [{"type": "command", "command": "say bye"}]}],
    "PreToolUse": [
      {
        "matcher": "Bash",
        "hooks": [{"type": "command", "command": "check"}]
      }
    ]
  }
}
"""


@pytest.fixture
def settings(home: Path) -> Path:
    path = home / ".claude" / "settings.json"
    path.parent.mkdir()
    return path


def commands(settings: Path, event: str) -> list[str]:
    groups = json.loads(settings.read_text()).get("hooks", {}).get(event, [])
    return [hook["command"] for group in groups for hook in group["hooks"]]


def hooked(command: str) -> list[str]:
    """Return which hook *command* runs, on the default store, and with what options."""
    words = shlex.split(command)
    assert words[:5] == [PYTHON, "-P", "-m", "mcp_claims", "hook"]
    assert words[-2:] == ["--dir", os.path.expanduser("~/.local/state/mcp-claims/claims")]
    return words[5:-2]


@pytest.mark.rule("H8")
def test_only_the_end_of_a_session_is_hooked_unless_the_guard_is_asked_for(run: Run, settings: Path) -> None:
    assert run("install", "claude-code")[0] == 0
    assert not settings.exists()
    run("install", "claude-code", "--hooks")
    assert [hooked(each) for each in commands(settings, "SessionEnd")] == [["session-end"]]
    assert commands(settings, "PreToolUse") == []
    run("install", "claude-code", "--guard")
    (group,) = json.loads(settings.read_text())["hooks"]["PreToolUse"]
    assert hooked(group["hooks"][0]["command"]) == ["guard"]
    assert set(group["matcher"].split("|")) == {"Edit", "MultiEdit", "Write", "NotebookEdit", "Bash"}
    assert len(commands(settings, "SessionEnd")) == 1


@pytest.mark.rule("H8")
@pytest.mark.parametrize("before", [None, "", "{}", '{"hooks": {}}', '{"model": "opus"}', THEIRS])
def test_they_stand_beside_the_user_s_own_and_go_out_again_to_the_byte(
    before: str | None, run: Run, settings: Path
) -> None:
    if before is not None:
        settings.write_text(before)
    run("install", "claude-code", "--guard")
    after = settings.read_text()
    assert is_within(before or "", after)
    assert run("install", "claude-code", "--guard")[1].count("nothing to do") == 2
    assert settings.read_text() == after
    run("uninstall", "claude-code")
    assert (settings.read_text() if settings.exists() else None) == before


def test_they_go_out_without_the_copy_too(run: Run, settings: Path) -> None:
    settings.write_text(THEIRS)
    run("install", "claude-code", "--guard")
    settings.with_name("settings.json.mcp-claims.bak").unlink()
    settings.write_text(settings.read_text().replace("opus", "sonnet"))
    run("uninstall", "claude-code")
    assert settings.read_text() == THEIRS.replace("opus", "sonnet")
    settings.write_text('{"model": "opus"}')
    run("install", "claude-code", "--guard")
    settings.with_name("settings.json.mcp-claims.bak").unlink()
    run("uninstall", "claude-code")
    assert json.loads(settings.read_text()) == {"model": "opus"}


def test_one_of_another_interpreter_is_replaced(run: Run, settings: Path) -> None:
    run("install", "claude-code", "--hooks")
    settings.write_text(settings.read_text().replace(PYTHON, "/gone/python"))
    run("install", "claude-code", "--hooks")
    (command,) = commands(settings, "SessionEnd")
    assert command.startswith(PYTHON)


def test_the_guard_is_strict_only_if_asked(run: Run, settings: Path) -> None:
    for options, expected in ((["--guard"], []), (["--guard", "strict"], ["--strict"])):
        run("install", "claude-code", *options)
        (command,) = commands(settings, "PreToolUse")
        assert hooked(command) == ["guard", *expected]


@pytest.mark.parametrize("hook", ["session-end", "guard"])
def test_what_they_run_is_there_and_says_nothing_where_nothing_is_claimed(
    hook: str, run: Run, settings: Path, tmp_path: Path
) -> None:
    run("install", "claude-code", "--guard", "--dir", str(tmp_path / "claims"))
    (command,) = commands(settings, "SessionEnd" if hook == "session-end" else "PreToolUse")
    event = json.dumps({"reason": "clear", "cwd": str(tmp_path), "tool_input": {"file_path": "a.py"}})
    done = subprocess.run(
        ["sh", "-c", command], input=event, env=PYTHON_ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.rule("H8")
def test_the_hooks_use_the_directory_of_the_server(run: Run, settings: Path, tmp_path: Path) -> None:
    run("install", "claude-code", "--guard", "--dir", str(tmp_path / "my claims"))
    for event in ("SessionEnd", "PreToolUse"):
        (command,) = commands(settings, event)
        assert shlex.split(command)[-2:] == ["--dir", str(tmp_path / "my claims")]


@pytest.mark.rule("H8")
@pytest.mark.parametrize("guard", [["--guard"], ["--guard", "strict"]])
def test_a_server_that_moves_to_another_store_takes_its_hooks_along(
    guard: list[str], run: Run, settings: Path, tmp_path: Path
) -> None:
    run("install", "claude-code", *guard)
    before = settings.read_text()
    run("install", "claude-code", "--dir", str(tmp_path / "other"))
    default = os.path.expanduser("~/.local/state/mcp-claims/claims")
    assert settings.read_text() == before.replace(default, str(tmp_path / "other"))


@pytest.mark.parametrize(
    "text",
    [
        '{"hooks": []}',
        '{"hooks": {"SessionEnd": {}}}',
        '{"hooks"',
        '{"hooks": {"SessionEnd": [{"hooks": [{"command": "x -m mcp_claims hook session-end"}, {"command": "y"}]}]}}',
    ],
)
def test_settings_of_another_form_are_refused_before_anything_is_written(text: str, run: Run, settings: Path) -> None:
    settings.write_text(text)
    code, output = run("install", "claude-code", "--hooks")
    assert code == 3 and str(settings) in output and "Nothing was changed" in output
    assert settings.read_text() == text
    assert [path.name for path in settings.parent.parent.iterdir()] == [".claude"]


def test_no_other_host_has_hooks(run: Run) -> None:
    code, output = run("install", "codex", "--hooks")
    assert code == 2 and "is for claude-code" in output


def test_on_windows_the_shell_gets_a_path_that_it_understands() -> None:
    launch = Launch(r"C:\Program Files\Python\python.exe", ("-m", "mcp_claims", "hook", "guard"))
    tree: Any = json.loads(GUARD.part(launch, "win32").put("{}"))
    hook = tree["hooks"]["PreToolUse"][0]["hooks"][0]
    assert hook["command"] == "'C:/Program Files/Python/python.exe' -m mcp_claims hook guard"
    assert hook["timeout"] == GUARD.timeout
