"""The entry that `install` makes, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.conftest import Run
from tests.support.servers import PYTHON_ENVIRONMENT

DEFAULT = ".local/state/mcp-claims/claims"


def served(home: Path) -> list[str]:
    entry = json.loads((home / ".claude.json").read_text())["mcpServers"]["claims"]
    assert entry["command"] == os.path.abspath(sys.executable)
    assert entry["args"][:4] == ["-P", "-m", "mcp_claims", "serve"]
    return list(entry["args"][4:])


def test_options_of_serve_are_passed_on(home: Path, run: Run) -> None:
    options = ["--dir", str(home / "c"), "--session", "one", "--keep-alive-hours", "2.5", "--retention-hours", "48"]
    assert run("install", "claude-code", *options)[0] == 0
    assert served(home) == options


@pytest.mark.rule("H6")
def test_the_store_is_written_down_whatever_chooses_it(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("install", "claude-code")
    assert served(home) == ["--dir", str(home / DEFAULT)]
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    run("install", "claude-code")
    assert served(home) == ["--dir", str(home / "state" / "mcp-claims" / "claims")]
    monkeypatch.setenv("MCP_CLAIMS_DIR", str(home / "shared"))
    run("install", "claude-code")
    assert served(home) == ["--dir", str(home / "shared")]
    monkeypatch.delenv("XDG_STATE_HOME")
    run("install", "claude-code")
    assert served(home) == ["--dir", str(home / "shared")]
    monkeypatch.delenv("MCP_CLAIMS_DIR")
    monkeypatch.setenv("MCP_CLAIMS_LAYOUT", "agent-awareness")
    monkeypatch.setenv("MCP_CLAIMS_PROVIDER", "claude-code")
    run("install", "claude-code")
    assert served(home) == ["--layout", "agent-awareness", "--provider", "claude-code"]


def test_a_cluster_is_written_down_for_server_and_hooks_and_its_credentials_are_not(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "etcd://one:2379,two:2379/fleet"
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("MCP_CLAIMS_STORE", url)
    monkeypatch.setenv("MCP_CLAIMS_ETCD_USER", "rig")
    monkeypatch.setenv("MCP_CLAIMS_ETCD_PASSWORD", "hush")
    done = run("install", "claude-code", "--guard")
    assert served(home) == ["--store", url]
    written = (home / ".claude.json").read_text() + (settings := (home / ".claude" / "settings.json").read_text())
    assert settings.count(url) == settings.count('"guard"') > 0 and "hush" not in written
    assert "start the host with MCP_CLAIMS_ETCD_PASSWORD, MCP_CLAIMS_ETCD_USER set" in done[1]
    monkeypatch.delenv("MCP_CLAIMS_STORE")
    run("install", "claude-code", "--store", url)
    assert served(home) == ["--store", url]


@pytest.mark.rule("H6")
def test_one_identity_is_not_given_to_all_hosts_by_a_variable(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_CLAIMS_SESSION", "one")
    run("install", "claude-code")
    assert served(home) == ["--dir", str(home / DEFAULT)]


@pytest.mark.rule("H6")
def test_a_project_with_a_folder_of_our_name_is_not_run(home: Path, run: Run, tmp_path: Path) -> None:
    run("install", "claude-code", "--guard")
    (tmp_path / "mcp_claims").mkdir()
    (tmp_path / "mcp_claims" / "__init__.py").touch()
    (tmp_path / "mcp_claims" / "__main__.py").write_text("print('run by whoever wrote the project')")
    entry = json.loads((home / ".claude.json").read_text())["mcpServers"]["claims"]
    hooks = json.loads((home / ".claude" / "settings.json").read_text())["hooks"]
    commands = [entry, *(group["hooks"][0] for groups in hooks.values() for group in groups)]
    for command in {shlex.join([each["command"], *each["args"]]) for each in commands}:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=PYTHON_ENVIRONMENT,
            input="{}",
            capture_output=True,
            text=True,
            check=False,
        )
        assert "whoever" not in done.stdout


@pytest.mark.rule("H6")
@pytest.mark.parametrize(
    "wrong",
    [
        ["--dir", "relative"],
        ["--dir", "/not-utf-8/\udcff"],
        ["--layout", "nonsense"],
        ["--provider", "x"],
        ["--session", ""],
        ["--keep-alive-hours", "0"],
        ["--retention-hours", "-1"],
        ["--name", "a b"],
        ["--name", ""],
        ["--name", "x" * 65],
    ],
)
def test_options_that_serve_would_refuse_are_refused_before_a_file_is_written(
    wrong: list[str], home: Path, run: Run
) -> None:
    code, output = run("install", "claude-code", *wrong)
    assert code == 2 and "Nothing was changed" in output
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("host", ["zed", "vscode"])
def test_use_cli_is_refused_for_a_host_whose_own_command_cannot_be_trusted(host: str, home: Path, run: Run) -> None:
    code, output = run("install", host, "--use-cli")
    assert code == 3 and "Run `mcp-claims install` without --use-cli" in output
    assert list(home.iterdir()) == []


@pytest.mark.rule("H7")
@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "no `claude` on the PATH"),
        ("echo it broke >&2; exit 3", "refused with `claude mcp add-json`: it broke"),
        ("exit 0", "did not add the requested entry"),
        ('echo \'{"mcpServers": {"claims": {"command": "other"}}}\' > "$HOME/.claude.json"', "did not add"),
    ],
)
def test_a_command_of_the_host_that_does_something_else_is_noticed(
    script: str | None, why: str, home: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        (tmp_path / "claude").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "claude").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    code, output = run("install", "claude-code", "--use-cli")
    assert code == 3 and why in output
    assert home.is_dir()


@pytest.mark.rule("H7")
def test_a_server_of_another_kind_under_the_name_is_not_overwritten_by_the_host_s_command(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".claude.json").write_text('{"mcpServers": {"claims": {"command": "old", "env": {"A": "b"}}}}')
    monkeypatch.setenv("PATH", "/nonexistent")
    assert run("install", "claude-code", "--use-cli")[0] == 0
    entry = json.loads((home / ".claude.json").read_text())["mcpServers"]["claims"]
    assert entry["env"] == {"A": "b"} and entry["command"] == os.path.abspath(sys.executable)
