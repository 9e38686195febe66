"""Real hosts run the hooks that `install` has written, at their events; and Codex says what it takes for approved."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.hosts import HOOKS, UserEnvironment, unapproved_events
from tests.hosts.real_hosts import REAL_HOSTS, HostHome, needs_hosts
from tests.hosts.scripted_model import Say, Step, use
from tests.hosts.test_real_turns import CodexThread
from tests.support.platforms import PLATFORM

pytestmark = needs_hosts

PYTHON = os.path.abspath(sys.executable)

EXPECTED: Mapping[str, str] = {
    "claude-code": "SessionStart, UserPromptSubmit, PreToolUse Write, PostToolUse Write, PreToolUse Bash, "
    "PostToolUseFailure Bash, PreToolUse mcp__claims__try_claim, Stop, SessionEnd",
    # A patch in a command is a command, and has no event after it.
    "codex": "SessionStart, UserPromptSubmit, PreToolUse Bash, PostToolUse Bash, PreToolUse mcp__claims__try_claim, Stop, "
    "SessionEnd",
    "gemini-cli": "SessionStart, BeforeAgent, BeforeTool write_file, AfterTool write_file, BeforeTool run_shell_command, "
    "AfterTool run_shell_command, BeforeTool mcp_claims_try_claim, AfterAgent, SessionEnd",
    "qwen-code": "SessionStart, UserPromptSubmit, PreToolUse write_file, PostToolUse write_file, "
    "PreToolUse run_shell_command, PostToolUseFailure run_shell_command, PreToolUse mcp__claims__try_claim, Stop",
    "copilot-cli": "SessionStart, UserPromptSubmit, PreToolUse Write, PostToolUse Write, PreToolUse Bash, "
    "PostToolUse Bash, PreToolUse claims-try_claim, Stop, SessionEnd",
    "opencode": "session.created, chat.message, tool.execute.before write, tool.execute.after write, "
    "tool.execute.before bash, tool.execute.after bash, tool.execute.before claims_try_claim, session.idle, dispose",
}
"""The events of a turn that makes a file, runs a command that fails, and claims a key; each once, with its tool."""


def spy_on_hooks(host: str, home: HostHome, directory: Path, answer: str = "{}") -> Path:
    """Let a program run in place of the hook of *host*, which records its input; return the directory of the records."""
    records = directory / "records"
    records.mkdir()
    spy = directory / "spy"
    spy.write_text(
        f"""#!/bin/sh
case "$*" in *" serve "*) exec {PYTHON} "$@";; esac
printf '%s' "$*" > {records}/$(date +%s%N)-$$.command
cat > {records}/$(date +%s%N)-$$.input
echo '{answer}'
"""
    )
    spy.chmod(0o700)
    file = HOOKS[host].file(UserEnvironment(home.home, PLATFORM, home.environment), "claims")
    text = file.read_text()
    assert PYTHON in text
    file.write_text(text.replace(PYTHON, str(spy)))
    return records


def inputs(records: Path) -> list[dict[str, Any]]:
    """Return what was recorded, in order."""
    return [json.loads(path.read_text()) for path in sorted(records.glob("*.input"))]


@pytest.mark.rule("H8")
@pytest.mark.parametrize("name", EXPECTED)
def test_it_runs_the_hook_at_its_events_with_the_tools_of_the_guard_alone(
    name: str, host_home: HostHome, tmp_path: Path
) -> None:
    real = REAL_HOSTS[name]
    host_home.install(real, "--allow", "--guard", "--dir", str(tmp_path / "claims"))
    records = spy_on_hooks(name, host_home, tmp_path)
    if name == "codex":
        options = (*real.session_command[:2], "--dangerously-bypass-hook-trust", *real.session_command[2:])
        real = replace(real, session_command=options)  # They are not approved.
    made = host_home.project / "new.txt"
    steps = [real.write(str(made), "new\n"), real.shell("false"), use("try_claim", key="deploy")]

    def script(results: Sequence[str]) -> Step:
        return steps[len(results)] if len(results) < len(steps) else Say("done")

    with host_home.session(real, "Make new.txt.", script) as session:
        session.finish()
    assert made.read_text() == "new\n"
    found = inputs(records)
    events = [" ".join(filter(None, (each["hook_event_name"], each.get("tool_name")))) for each in found]
    # In any order: hosts start some of them at once.
    assert sorted(dict.fromkeys(events)) == sorted(EXPECTED[name].split(", "))
    assert {each["cwd"] for each in found} == {str(host_home.project)}
    assert len({each["session_id"] for each in found}) == 1
    for path in records.glob("*.command"):
        command = path.read_text()
        assert command == f"-P -m mcp_claims hook guard --host {name} --dir {tmp_path / 'claims'}"


@pytest.mark.rule("H8")
@pytest.mark.parametrize("options", [["--hooks"], ["--guard", "--strict"]])
def test_a_strict_guard_that_fails_denies_in_claude_code_and_hooks_without_a_guard_look_at_no_edit(
    options: list[str], host_home: HostHome, tmp_path: Path
) -> None:
    real = REAL_HOSTS["claude-code"]
    host_home.install(real, "--allow", *options, "--dir", str(tmp_path / "claims"))
    records = spy_on_hooks(real.name, host_home, tmp_path)
    spy = tmp_path / "spy"
    if "--strict" in options:
        spy.write_text("#!/bin/sh\nexit 1\n")
    made = host_home.project / "new.txt"

    def script(results: Sequence[str]) -> Step:
        return real.write(str(made), "new\n") if not results else Say("done")

    with host_home.session(real, "Make new.txt.", script) as session:
        results = session.finish().turns[-1].results
    if "--strict" in options:
        assert 'blocking because onFailure is "block"' in results[0] and not made.exists()
    else:
        assert made.exists() and [each["hook_event_name"] for each in inputs(records)][2:] == ["Stop", "SessionEnd"]


@pytest.mark.rule("H11")
def test_codex_runs_what_its_user_has_approved_and_we_tell_whether_that_is_so(
    host_home: HostHome, tmp_path: Path
) -> None:
    real, store = REAL_HOSTS["codex"], ("--dir", str(tmp_path / "claims"))
    user = UserEnvironment(host_home.home, PLATFORM, host_home.environment)
    host_home.install(real, "--guard", *store)
    records = spy_on_hooks("codex", host_home, tmp_path)

    def listed() -> list[dict[str, Any]]:
        codex = CodexThread(host_home, "http://127.0.0.1:9")
        try:
            (found,) = codex.ask("hooks/list", cwds=[str(host_home.project)])["data"]
            hooks: list[dict[str, Any]] = found["hooks"]
            return hooks
        finally:
            os.killpg(codex.process.pid, signal.SIGKILL)
            codex.process.communicate()

    def skipped() -> set[str]:
        return {event[0].lower() + event[1:] for event in unapproved_events(user, "claims")}

    def run_turn() -> None:
        def script(results: Sequence[str]) -> Step:
            return Say("done") if results else real.shell("true")

        with host_home.session(real, "Run it.", script) as session:
            session.finish()

    hooks = listed()
    assert skipped() == {each["eventName"] for each in hooks} and len(hooks) == 7
    run_turn()
    assert inputs(records) == []
    config = host_home.home / ".codex" / "config.toml"
    approvals = [f'[hooks.state.{json.dumps(each["key"])}]\ntrusted_hash = "{each["currentHash"]}"\n' for each in hooks]
    with config.open("a") as file:
        file.write("\n" + "\n".join(approvals))
    assert {each["trustStatus"] for each in listed()} == {"trusted"} and skipped() == set()
    run_turn()
    assert len(inputs(records)) == 6
    host_home.claims("install", "codex", "--guard=deny", *store)
    assert (
        skipped() == {each["eventName"] for each in listed() if each["trustStatus"] == "modified"}
        and len(skipped()) == 7
    )
