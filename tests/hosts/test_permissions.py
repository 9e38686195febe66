"""`install --allow`: the host calls the tools without asking, and `uninstall` takes that back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.hosts import HOSTS, Host, UserEnvironment
from tests.hosts.conftest import Run
from tests.hosts.test_odd_files import alone, sample
from tests.hosts.texts import is_within
from tests.support.platforms import PLATFORM

ALLOWED = [name for name, host in HOSTS.items() if host.permission is not None]
SETTINGS = {"claude-code": ".claude/settings.json", "copilot-cli": ".copilot/settings.json"}
"""Where the permission is not in the file of the servers."""
THEIRS = {
    "claude-code": '{\n  "permissions": {\n    "allow": ["Bash(ls)"]\n  }\n}\n',
    "copilot-cli": '{\n  // mine\n  "hooks": {"PreToolUse": [{"matcher": "bash", "hooks": []}]},\n}\n',
}


def configured(host: str, home: Path) -> dict[str, Any]:
    """Return all that the files of *host* say."""
    user = UserEnvironment(home, PLATFORM, {})
    form, found = HOSTS[host].format, dict[str, Any]()
    for path in (HOSTS[host].config_file(user), home / SETTINGS.get(host, "none")):
        if path.exists():
            found |= form.parse(path.read_text())
    return found


def permission(host: str, home: Path, name: str = "claims") -> Any:
    """Return what allows the tools of the server *name*; `None` if nothing does."""
    tree = configured(host, home)
    match host:
        case "claude-code":
            return [rule for rule in tree.get("permissions", {}).get("allow", []) if rule == f"mcp__{name}"] or None
        case "copilot-cli":
            groups = tree.get("hooks", {}).get("PreToolUse", [])
            return [each for each in groups if re.fullmatch(each["matcher"], f"{name}-try_claim")] or None
        case "opencode":
            return tree.get("permission", {}).get(f"{name}_*")
        case "codex":
            return tree["mcp_servers"][name].get("default_tools_approval_mode")
        case _:
            return tree["mcpServers"][name].get("trust")


@pytest.mark.rule("H10")
@pytest.mark.parametrize("host", ALLOWED)
def test_the_permission_is_written_on_request_alone_and_once(host: str, home: Path, run: Run) -> None:
    run("install", host)
    assert permission(host, home) is None
    assert run("install", host, "--allow")[0] == 0
    assert permission(host, home)
    assert "nothing to do" in (output := run("install", host, "--allow")[1]) and ": written" not in output
    # It stays as a person's own would, until the server goes.
    assert ": written" not in run("install", host)[1]
    assert permission(host, home)


@pytest.mark.rule("H5", "H10")
@pytest.mark.parametrize("host", ALLOWED)
def test_it_stands_beside_the_users_own_and_goes_out_to_the_byte(host: str, home: Path, run: Run) -> None:
    file = HOSTS[host].config_file(UserEnvironment(home, PLATFORM, {}))
    settings = home / SETTINGS.get(host, "none")
    before = {file: sample(HOSTS[host])} | ({settings: THEIRS[host]} if host in SETTINGS else {})
    for path, text in before.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run("install", host, "--allow", "--name", "team")
    assert permission(host, home, "team")
    for path, text in before.items():
        assert is_within(text, path.read_text())
    # With a change of a person in between, so that the copies do not help.
    for path in before:
        path.write_text(path.read_text().replace("mine", "ours"))
    run("uninstall", host, "--name", "team")
    for path, text in before.items():
        expected = text.replace("mine", "ours")
        after = path.read_text()
        assert after == expected or HOSTS[host].format.parse(after) == HOSTS[host].format.parse(expected) | {
            "permission": {}
        }


@pytest.mark.rule("H5", "H10")
@pytest.mark.parametrize("host", ALLOWED)
@pytest.mark.parametrize("text", [None, "", "with settings"])
def test_uninstall_restores_what_was_there(text: str | None, host: str, home: Path, run: Run) -> None:
    file = HOSTS[host].config_file(UserEnvironment(home, PLATFORM, {}))
    paths = [file, *([home / SETTINGS[host]] if host in SETTINGS else [])]
    before = alone(HOSTS[host]) if text else text
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        if before is not None:
            path.write_text(before)
    run("install", host, "--allow")
    assert run("uninstall", host)[0] == 0
    assert [path.read_text() if path.exists() else None for path in paths] == [before] * len(paths)


@pytest.mark.rule("H10")
def test_it_is_for_the_tools_of_this_server_alone(home: Path, run: Run) -> None:
    for host in ALLOWED:
        run("install", host, "--allow")
    (group,) = permission("copilot-cli", home)
    for other in ("bash", "claims2-read", "xclaims-try_claim", "claims-db-drop_table", "claims"):
        assert not re.fullmatch(group["matcher"], other)
    assert json.loads(group["hooks"][0]["command"].removeprefix("echo ").strip("'")) == {
        "hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "allow"}
    }
    assert configured("claude-code", home)["permissions"] == {"allow": ["mcp__claims"]}
    assert configured("opencode", home)["permission"] == {"claims_*": "allow"}


@pytest.mark.rule("H10")
@pytest.mark.parametrize(
    ("host", "passed"),
    [
        ("claude-code", "claude -p --allowedTools mcp__team"),
        ("gemini-cli", "gemini -p --allowed-tools 'mcp_team_*'"),
        ("qwen-code", "qwen -p --allowed-tools mcp__team"),
        ("copilot-cli", "copilot -p --allow-tool=team"),
        ("codex", None),
        ("opencode", None),
        ("zed", None),
    ],
)
def test_without_it_a_line_says_what_to_pass(host: str, passed: str | None, home: Path, run: Run) -> None:
    code, output = run("install", host, "--name", "team")
    line = next((line for line in output.splitlines() if "Unattended" in line), "")
    assert code == 0 and (line != "") == (passed is not None)
    assert passed is None or f"`{passed} ...`" in line
    if passed:
        assert "Unattended" not in run("install", host, "--name", "team", "--allow")[1]
        run("install", host, "--name", "team", "--dir", str(home / "elsewhere"))
        assert "Unattended" not in run("install", host, "--name", "team", "--dir", str(home / "again"))[1]


def test_a_host_that_keeps_permissions_elsewhere_is_named(host: Host, home: Path, run: Run) -> None:
    code, output = run("install", host.name, "--allow")
    assert code == (0 if host.name in ALLOWED else 2)
    if code:
        assert f"is not for {host.title}" in output and list(home.iterdir()) == []


@pytest.mark.rule("H2", "H10")
@pytest.mark.parametrize(
    ("host", "path", "text"),
    [
        ("opencode", ".config/opencode/opencode.json", '{"permission": "ask"}'),
        ("claude-code", ".claude/settings.json", '{"permissions": []}'),
        ("claude-code", ".claude/settings.json", '{"permissions": {"allow": "all"}}'),
        ("copilot-cli", ".copilot/settings.json", '{"hooks": 1}'),
    ],
)
def test_permissions_of_another_form_are_refused_before_anything_is_written(
    host: str, path: str, text: str, home: Path, run: Run
) -> None:
    (home / path).parent.mkdir(parents=True)
    (home / path).write_text(text)
    code, output = run("install", host, "--allow")
    assert code == 3 and "Nothing was changed" in output
    assert [each.read_text() for each in home.rglob("*") if each.is_file()] == [text]
    # It is not ours, so it keeps nobody from installing without the permission, and from uninstalling.
    for command in ("install", "uninstall"):
        assert run(command, host)[0] == 0
        assert text.strip("{}") in (home / path).read_text()


def test_a_rule_of_the_user_about_the_same_tools_is_replaced(home: Path, run: Run) -> None:
    file = home / ".config" / "opencode" / "opencode.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"permission": {"*": "ask", "claims_*": "ask", "bash": "deny"}}')
    run("install", "opencode", "--allow")
    assert configured("opencode", home)["permission"] == {"*": "ask", "claims_*": "allow", "bash": "deny"}


def test_what_is_printed_to_paste_has_the_permission_of_the_entry(home: Path, run: Run) -> None:
    assert '"trust": true' in run("install", "gemini-cli", "--print", "--allow")[1]
    assert "trust" not in run("install", "gemini-cli", "--print")[1]
