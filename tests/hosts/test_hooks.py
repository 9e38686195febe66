"""The hooks in each host's file: what they run and when, beside the user's own, once, and out again."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.hosts import HOOKS, HOSTS, Hook, Launch, UserEnvironment, installed_hook
from mcp_claims.hosts.jsonc import JsonText
from tests.hosts.conftest import Run
from tests.hosts.texts import is_within
from tests.support.platforms import PLATFORM

PYTHON = os.path.abspath(sys.executable)
JSONC = JsonText(comments=True, trailing_commas=True)

_CLAUDE_FILES, _CLAUDE_ENDS = (
    "Edit|MultiEdit|Write|NotebookEdit|Bash",
    {"Stop": 10, "SubagentStop": 10, "SessionEnd": 10},
)
_STARTS = {"SessionStart": 5, "UserPromptSubmit": 5}

# The time-out and the pattern for tools of each event.
EVENTS: Mapping[str, Mapping[str, tuple[int, str | None]]] = {
    "claude-code": {
        "PreToolUse": (5, f"^({_CLAUDE_FILES}|mcp__claims__.*)$"),
        "PostToolUse": (5, f"^({_CLAUDE_FILES})$"),
        "PostToolUseFailure": (5, f"^({_CLAUDE_FILES})$"),
        **{event: (seconds, None) for event, seconds in (_STARTS | _CLAUDE_ENDS).items()},
    },
    "codex": {
        "PreToolUse": (5, "^(apply_patch|Bash|mcp__claims__.*)$"),
        "PostToolUse": (5, "^(apply_patch|Bash)$"),
        **{event: (seconds, None) for event, seconds in (_STARTS | _CLAUDE_ENDS | {"SessionEnd": 3}).items()},
    },
    "gemini-cli": {
        "BeforeTool": (5000, "^(write_file|replace|run_shell_command|mcp_claims_.*)$"),
        "AfterTool": (5000, "^(write_file|replace|run_shell_command)$"),
        "SessionStart": (5000, None),
        "BeforeAgent": (5000, None),
        "AfterAgent": (10_000, None),
        "SessionEnd": (10_000, None),
    },
    "qwen-code": {
        "PreToolUse": (5, "^(write_file|edit|notebook_edit|run_shell_command|mcp__claims__.*)$"),
        "PostToolUse": (5, "^(write_file|edit|notebook_edit|run_shell_command)$"),
        "PostToolUseFailure": (5, "^(write_file|edit|notebook_edit|run_shell_command)$"),
        **{event: (seconds, None) for event, seconds in (_STARTS | _CLAUDE_ENDS).items()},
    },
    "copilot-cli": {
        "PreToolUse": (5, "^(Edit|Write|Bash|claims-.*)$"),
        "PostToolUse": (5, "^(Edit|Write|Bash)$"),
        "PostToolUseFailure": (5, "^(Edit|Write|Bash)$"),
        **{event: (seconds, None) for event, seconds in (_STARTS | _CLAUDE_ENDS).items()},
    },
    "cursor": {
        "preToolUse": (
            5,
            "^(Write|Delete|Shell|MCP:(try_claim|is_claimed_by_other|release|list_claims|open_session|prune))$",
        ),
        "postToolUse": (5, "^(Write|Delete|Shell)$"),
        "postToolUseFailure": (5, "^(Write|Delete|Shell)$"),
        "sessionStart": (5, None),
        "beforeSubmitPrompt": (5, None),
        "stop": (10, None),
        "subagentStop": (10, None),
        "sessionEnd": (10, None),
    },
}
BEFORE = {name: next(iter(events)) for name, events in EVENTS.items()}
IN_JSON, EACH = pytest.mark.parametrize("host", EVENTS), pytest.mark.parametrize("host", HOOKS)

THEIRS = """{
  "version": 1,
  "hooks": {
    "%s": [
      {
        "matcher": "Bash",
        "hooks": [{"type": "command", "command": "check"}]
      }
    ]
  }
}
"""


def hooks_file(host: str, home: Path, server: str = "claims") -> Path:
    """Return the path of the file, whose directory exists."""
    path = HOOKS[host].file(UserEnvironment(home, PLATFORM, {}), server)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def lists(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the hooks that *path* has for each event."""
    found: dict[str, list[dict[str, Any]]] = JSONC.parse(path.read_text()).get("hooks", {})
    return found


def words(element: Mapping[str, Any]) -> list[str]:
    """Return the command line that one of our elements runs."""
    (command,) = element.get("hooks", [element])
    if "args" in command:
        return [command["command"], *command["args"]]
    return shlex.split(command["command"].removesuffix("; exit 0"))


def installed(host: str, home: Path, server: str = "claims") -> Hook | None:
    found = installed_hook(HOSTS[host], UserEnvironment(home, PLATFORM, {}), server)
    return None if found is None else found[1]


def expected_words(host: str, home: Path, *options: str) -> list[str]:
    store = str(home / ".local" / "state" / "mcp-claims" / "claims")
    return [PYTHON, "-P", "-m", "mcp_claims", "hook", "guard", "--host", host, *options, "--dir", store]


@pytest.mark.rule("H8")
@IN_JSON
def test_one_command_runs_at_each_event_with_the_host_s_own_names_and_unit_of_time(
    host: str, home: Path, run: Run
) -> None:
    path = hooks_file(host, home)
    assert run("install", host)[0] == 0
    assert not path.exists() or not lists(path)
    assert run("install", host, "--guard")[0] == 0
    found = lists(path)
    assert list(found) == list(EVENTS[host])
    for event, (timeout, matcher) in EVENTS[host].items():
        (element,) = found[event]
        (command,) = element.get("hooks", [element])
        assert (element.get("matcher"), command["timeout"]) == (matcher, timeout)
        assert words(element) == expected_words(host, home)
        assert element.keys() - {"matcher"} == {"hooks"} or host == "cursor"
        assert "onFailure" not in command and "failClosed" not in command


@pytest.mark.rule("H8")
@pytest.mark.rule("H11")
@EACH
def test_a_mode_replaces_another_and_stays_when_no_other_is_asked_for(host: str, home: Path, run: Run) -> None:
    run("install", host, "--hooks")
    assert (hook := installed(host, home)) and (hook.mode, hook.strict) == ("off", False)
    for options, spelt, mode, strict in (
        (["--guard=require", "--strict"], ["--mode", "require", "--strict"], "require", True),
        (["--guard=deny"], ["--mode", "deny"], "deny", False),
        (["--guard"], [], "claim", False),
    ):
        for again in (options, [], ["--hooks"]):
            run("install", host, *again)
            hook = installed(host, home)
            assert hook == Hook(tuple(expected_words(host, home, *spelt)), mode, strict, "claims")
    assert run("install", host, "--guard")[1].count("nothing to do") == len(run_files(host, home))


def run_files(host: str, home: Path) -> set[Path]:
    """Return the files of *host* that `install --guard` looks at."""
    return {hooks_file(host, home), HOSTS[host].config_file(UserEnvironment(home, PLATFORM, {}))}


@IN_JSON
def test_without_a_guard_no_edit_is_looked_at(host: str, home: Path, run: Run) -> None:
    run("install", host, "--hooks")
    found = lists(hooks_file(host, home))
    (element,) = found[BEFORE[host]]
    guards, without = str(EVENTS[host][BEFORE[host]][1]), element["matcher"]
    assert "claim" in without and guards.endswith(f"|{without.removeprefix('^(')}")
    assert [event for event, (_, matcher) in EVENTS[host].items() if matcher is None] == list(found)[1:]
    assert words(element) == expected_words(host, home, "--mode", "off")


@pytest.mark.parametrize(("host", "field"), [("claude-code", {"onFailure": "block"}), ("cursor", {"failClosed": True})])
def test_a_strict_guard_that_fails_denies_where_the_host_can_do_that(
    host: str, field: dict[str, object], home: Path, run: Run
) -> None:
    run("install", host, "--guard", "--strict")
    for event, (element,) in lists(hooks_file(host, home)).items():
        (command,) = element.get("hooks", [element])
        assert (field.items() <= command.items()) == (event == BEFORE[host])


@pytest.mark.parametrize("options", [[], ["--strict"]])
def test_a_hook_that_is_gone_denies_in_copilot_only_if_it_is_strict(options: list[str], home: Path, run: Run) -> None:
    """Copilot CLI denies the call of a hook that ends with another code than 0."""
    run("install", "copilot-cli", "--guard", *options)
    (element,) = lists(hooks_file("copilot-cli", home))["PreToolUse"]
    line = element["hooks"][0]["command"].replace(PYTHON, "/gone/python")
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.DEVNULL, check=False)
    assert (done.returncode != 0) == ("--strict" in options)


@pytest.mark.rule("H5")
@pytest.mark.rule("H8")
@pytest.mark.parametrize("before", [None, "", "{}", '{"hooks": {}}', '{"model": "opus"}', THEIRS])
@IN_JSON
def test_they_stand_beside_the_user_s_own_and_go_out_again_to_the_byte(
    host: str, before: str | None, home: Path, run: Run
) -> None:
    path = hooks_file(host, home)
    if before is not None:
        before = before.replace("%s", BEFORE[host])
        path.write_text(before)
    run("install", host, "--guard")
    after = path.read_text()
    assert is_within(before or "", after)
    run("install", host, "--guard")
    assert path.read_text() == after
    run("uninstall", host)
    assert (path.read_text() if path.exists() else None) == before


@pytest.mark.rule("H8")
@IN_JSON
def test_they_go_out_without_the_copy_too(host: str, home: Path, run: Run) -> None:
    path = hooks_file(host, home)
    theirs = THEIRS.replace("%s", BEFORE[host])
    path.write_text(theirs)
    run("install", host, "--guard")
    path.with_name(f"{path.name}.mcp-claims.bak").unlink()
    path.write_text(path.read_text().replace("check", "inspect"))
    run("uninstall", host)
    # In the file of the servers their empty list stays.
    after = path.read_text().replace(',\n  "mcpServers": {}', "")
    assert after == theirs.replace("check", "inspect")


@EACH
def test_one_of_another_interpreter_is_replaced(host: str, home: Path, run: Run) -> None:
    path = hooks_file(host, home)
    run("install", host, "--guard")
    now = path.read_text()
    path.write_text(now.replace(PYTHON, "/gone/python"))
    run("install", host)
    assert path.read_text() == now


OLD_GROUP = {
    "matcher": "Edit|Write",
    "hooks": [{"type": "command", "command": "%s hook guard%s --dir /x", "timeout": 5}],
}


@pytest.mark.parametrize("program", ["/old/bin/python -P -m mcp_claims", "/opt/uvx mcp-claims"])
@pytest.mark.parametrize("strict", ["", " --strict"])
def test_those_of_an_earlier_version_are_replaced_and_keep_to_what_they_did(
    strict: str, program: str, home: Path, run: Run
) -> None:
    path = hooks_file("claude-code", home)
    ending = {"hooks": [{"type": "command", "command": f"{program} hook session-end --dir /x", "timeout": 10}]}
    guard = json.loads(json.dumps(OLD_GROUP) % (program, strict))
    path.write_text(json.dumps({"hooks": {"SessionEnd": [ending], "PreToolUse": [guard]}}))
    run("install", "claude-code", "--name", "team")
    found = lists(path)
    assert found.keys() == EVENTS["claude-code"].keys()
    options = ["--mode", "deny", *strict.split(), "--server", "team"]
    assert {tuple(words(element)) for (element,) in found.values()} == {
        tuple(expected_words("claude-code", home, *options))
    }
    path.write_text(json.dumps({"hooks": {"SessionEnd": [ending]}}))
    run("install", "claude-code")
    assert (hook := installed("claude-code", home)) and (hook.mode, hook.server) == ("off", "claims")
    hooks = {"SessionEnd": [ending], "PreToolUse": [guard]}
    path.write_text(json.dumps({"hooks": hooks, "model": "opus"}))
    run("uninstall", "claude-code")
    assert json.loads(path.read_text()) == {"model": "opus"}
    path.with_name("settings.json.mcp-claims.bak").unlink()
    path.write_text(json.dumps({"hooks": hooks}, indent=2) + "\n")
    run("uninstall", "claude-code")
    assert not path.exists(), "it had made the whole file"


@pytest.mark.rule("H8")
@EACH
def test_two_servers_have_hooks_of_their_own(host: str, home: Path, run: Run) -> None:
    run("install", host, "--guard", "--dir", str(home / "one"))
    run("install", host, "--guard=deny", "--name", "team", "--dir", str(home / "two"))
    first, second = installed(host, home), installed(host, home, "team")
    assert first and second and (first.mode, second.mode) == ("claim", "deny")
    assert (first.words[-1], second.words[-1]) == (str(home / "one"), str(home / "two"))
    assert second.words[second.words.index("--server") + 1] == "team"
    run("uninstall", host)
    assert installed(host, home) is None and installed(host, home, "team") == second
    run("uninstall", host, "--name", "team")
    assert installed(host, home, "team") is None


@pytest.mark.rule("H8")
@pytest.mark.parametrize("guard", [["--guard"], ["--guard=require", "--strict"]])
@EACH
def test_a_server_that_moves_to_another_store_takes_its_hooks_along(
    host: str, guard: list[str], home: Path, run: Run
) -> None:
    path = hooks_file(host, home)
    run("install", host, *guard)
    before = path.read_text()
    run("install", host, "--dir", str(home / "other"))
    default = str(home / ".local" / "state" / "mcp-claims" / "claims")
    after = path.read_text()
    assert after == before.replace(default, str(home / "other")) and str(home / "other") in after


@pytest.mark.rule("H2")
@pytest.mark.parametrize(
    "text",
    [
        '{"hooks": []}',
        '{"hooks": {"SessionEnd": {}}}',
        '{"hooks"',
        '{"hooks": {"SessionEnd": [{"hooks": [{"command": "x -m mcp_claims hook session-end"}, {"command": "y"}]}]}}',
    ],
)
def test_settings_of_another_form_are_refused_before_anything_is_written(text: str, home: Path, run: Run) -> None:
    path = hooks_file("claude-code", home)
    path.write_text(text)
    code, output = run("install", "claude-code", "--hooks")
    assert code == 3 and str(path) in output and "Nothing was changed" in output
    assert path.read_text() == text
    assert [each.name for each in home.iterdir()] == [".claude"]


def test_a_plugin_file_of_somebody_else_is_left_alone(home: Path, run: Run) -> None:
    path = hooks_file("opencode", home)
    path.write_text("export const Mine = async () => ({})\n")
    code, output = run("install", "opencode", "--guard")
    assert code == 3 and "is not ours" in output
    run("uninstall", "opencode")
    assert path.read_text().startswith("export const Mine")


def test_the_plugin_of_opencode_is_a_file_of_its_own(home: Path, run: Run) -> None:
    path = hooks_file("opencode", home)
    run("install", "opencode", "--guard", "--strict")
    assert path == home / ".config" / "opencode" / "plugins" / "mcp-claims.js"
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("const SETTINGS")]
    assert json.loads(line.removeprefix("const SETTINGS = ")) == {
        "command": expected_words("opencode", home, "--strict"),
        "server": "claims",
        "edits": True,
        "strict": True,
    }
    path.write_text(path.read_text().replace("LIMIT = 5000", "LIMIT = 4000"))  # Another version's.
    run("uninstall", "opencode")
    assert not path.exists()


@pytest.mark.parametrize("option", ["--hooks", "--guard"])
def test_a_host_without_hooks_names_those_that_have_them(option: str, run: Run) -> None:
    code, output = run("install", "zed", option)
    assert code == 2 and "is not for Zed, only for claude-code" in output and "cursor" in output
    code, output = run("install", "codex", "--strict")
    assert code == 2 and "is for --guard only" in output


@pytest.mark.rule("H11")
@pytest.mark.parametrize("host", ["claude-code", "codex", "qwen-code"])
def test_install_says_what_the_guard_does_what_it_cannot_and_what_a_person_has_to_approve(host: str, run: Run) -> None:
    plain, output = run("install", host)[1], run("install", host, "--guard")[1]
    assert "guard" not in plain and "before an edit it claims the file" in output
    assert ("enter /hooks and approve" in output) == (host == "codex")
    assert ("What it cannot do" in output) == (host != "claude-code")
    assert ("claude plugin marketplace add ./" in output) == (host == "claude-code")


@pytest.mark.parametrize("host", ["claude-code", "copilot-cli"])
def test_install_warns_beside_the_plugin_that_has_all_of_it_already(host: str, home: Path, run: Run) -> None:
    settings = home / (".claude" if host == "claude-code" else ".copilot") / "settings.json"
    settings.parent.mkdir()
    for text, warned in (
        ('{"enabledPlugins": {"claims@mcp-claims": true}}', True),
        ('{"enabledPlugins": {"claims@mcp-claims": false, "claims@another": true}}', False),
        ("{}", False),
    ):
        settings.write_text(text)
        run("uninstall", host)
        assert ("sessions have the tools twice" in run("install", host)[1]) == warned


@pytest.mark.parametrize(
    ("host", "command"),
    [
        ("claude-code", r"C:\Program Files\Python\python.exe"),
        ("qwen-code", "'C:/Program Files/Python/python.exe' -P -m mcp_claims hook guard --host qwen-code"),
        ("codex", r'"C:\Program Files\Python\python.exe" -P -m mcp_claims hook guard --host codex'),
        (
            "gemini-cli",
            r"& 'C:\Program Files\Python\python.exe' '-P' '-m' 'mcp_claims' 'hook' 'guard' '--host' 'gemini-cli'",
        ),
    ],
)
def test_on_windows_the_shell_gets_a_line_that_it_understands_and_we_know_it_again(
    host: str, command: str, home: Path
) -> None:
    launch = Launch(r"C:\Program Files\Python\python.exe", ("-P", "-m", "mcp_claims"))
    hook = Hook.of(host, launch, "claims", "claim", False, ())
    user = UserEnvironment(home, "win32", {})
    text = HOOKS[host].part(user, "claims", hook).put("{}")
    (element,) = json.loads(text)["hooks"][BEFORE[host]]
    assert element["hooks"][0]["command"] == command
    (found,) = HOOKS[host].installed(user, "claims", text)
    assert (found.mode, found.words[1:]) == (hook.mode, hook.words[1:])
