"""The real hosts read what `install` has written: each lists the server, and those that look connect to it.

Needs `MCP_CLAIMS_HOSTS`: a directory into which npm has installed what `.ci/run` names.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mcp_claims.hosts import HOSTS, UserEnvironment, read_servers
from tests.hosts.conftest import VARIABLES
from tests.hosts.scripted_model import Block, say, scripted_model, use

INSTALLED = os.environ.get("MCP_CLAIMS_HOSTS")

pytestmark = pytest.mark.skipif(
    INSTALLED is None and "CI" not in os.environ,
    reason="npm install --prefix DIR what .ci/run names, and set MCP_CLAIMS_HOSTS=DIR",
)

# How each lists its servers, and what it says of one: Claude Code, Gemini CLI and opencode connect to it for that.
LISTS = {
    "claude-code": (["claude", "mcp", "list"], r"{name}: .*mcp_claims serve.* - . Connected"),
    "codex": (["codex", "mcp", "list"], r"{name} .*-m mcp_claims serve .*enabled"),
    "gemini-cli": (["gemini", "mcp", "list"], r"{name}: .*mcp_claims serve.* \(stdio\) - Connected"),
    "opencode": (["opencode", "mcp", "list"], r"{name} .*connected"),
}
REAL = pytest.mark.parametrize("host", LISTS)

OTHERS = {
    "claude-code": (".claude.json", '{\n  "numStartups": 3,\n  "mcpServers": {}\n}\n'),
    "codex": (".codex/config.toml", '# mine\nmodel = "o3"\n\n[mcp_servers.docs]\ncommand = "false" # why\n'),
    "gemini-cli": (".gemini/settings.json", '// mine\n{\n  "ui": {"hideTips": true} // why\n}\n'),
    "opencode": (".config/opencode/opencode.jsonc", '{\n  // mine\n  "share": "disabled", // why\n}\n'),
}


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """An environment with a home of its own, in a project of its own, with the hosts on the PATH."""
    assert INSTALLED, "CI has to install the hosts"
    for name in ("home", "project"):
        (tmp_path / name).mkdir()
    # Not one of an agent that runs the tests, which the hosts would take for a session around theirs.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "CODEX", "GEMINI"))}
    return {
        **{name: value for name, value in own.items() if name not in VARIABLES},
        "HOME": str(tmp_path / "home"),
        "PATH": f"{Path(INSTALLED) / 'node_modules' / '.bin'}{os.pathsep}{os.environ['PATH']}",
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "NO_COLOR": "1",
    }


def call(surroundings: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command,
        env=surroundings,
        cwd=Path(surroundings["HOME"]).parent / "project",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)
    assert done.returncode == 0, said
    return said


def claims(surroundings: dict[str, str], *arguments: str) -> str:
    return call(surroundings, sys.executable, "-m", "mcp_claims", *arguments)


def is_listed(surroundings: dict[str, str], host: str, name: str = "claims") -> bool:
    command, line = LISTS[host]
    return re.search(line.format(name=name), call(surroundings, *command)) is not None


@REAL
def test_it_lists_the_server_that_was_put_into_a_new_file(host: str, surroundings: dict[str, str]) -> None:
    claims(surroundings, "install", host)
    assert is_listed(surroundings, host)


@REAL
def test_it_lists_the_server_that_was_put_beside_what_was_there(host: str, surroundings: dict[str, str]) -> None:
    name, text = OTHERS[host]
    file = Path(surroundings["HOME"]) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    claims(surroundings, "install", host, "--name", "team-claims", "--dir", f"{surroundings['HOME']}/ü b")
    assert is_listed(surroundings, host, "team-claims")


@pytest.mark.parametrize("host", ["claude-code", "codex", "gemini-cli"])
def test_its_own_command_adds_it_once_where_that_is_asked_for(host: str, surroundings: dict[str, str]) -> None:
    claims(surroundings, "install", host, "--use-cli")
    where = UserEnvironment(Path(surroundings["HOME"]), sys.platform, surroundings)
    content, servers = read_servers(HOSTS[host], where)
    assert servers.keys() == {"claims"}
    assert claims(surroundings, "install", host, "--use-cli") == f"{content.path}: nothing to do\n"


def test_claude_code_runs_the_hook_at_the_end_of_a_session(surroundings: dict[str, str], tmp_path: Path) -> None:
    claims(surroundings, "install", "claude-code", "--hooks", "--guard")
    settings = Path(surroundings["HOME"]) / ".claude" / "settings.json"
    # What it runs is seen by a program in the place of the interpreter.
    spy = tmp_path / "spy"
    spy.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\n')
    spy.chmod(0o700)
    text = settings.read_text().replace(os.path.abspath(sys.executable), str(spy))
    settings.write_text(text)
    # A listing of servers is the shortest session that there is without an account.
    is_listed(surroundings, "claude-code")
    assert (tmp_path / "told").read_text() == "-P -m mcp_claims hook session-end\n"
    assert settings.read_text() == text


def test_of_two_sessions_of_claude_code_that_see_one_event_one_acts_and_the_other_reports(
    surroundings: dict[str, str], tmp_path: Path
) -> None:
    """Everything is real but the model: host, configuration, server, claims."""
    claims(surroundings, "install", "claude-code", "--dir", str(tmp_path / "claims"))
    refused, acted = threading.Event(), tmp_path / "acted"

    def script(results: list[Block]) -> Block:
        # Claude Code shows the model the structured part of an answer.
        said = json.dumps([result["content"] for result in results]).replace("\\", "")
        if not results:
            return use("mcp__claims__try_claim", key="acme/web#12:checks_failed", note="fixing it")
        if '"claimed":false' in said:
            refused.set()
            return say(f"REPORTED: {said}")
        if len(results) == 1:
            # Not before the other has asked: otherwise it might ask only when the work is done.
            assert refused.wait(60)
            return use("Bash", command=f"echo acted >> {acted}", description="Act on the event")
        if len(results) == 2:
            return use("mcp__claims__release", key="acme/web#12:checks_failed", outcome="done", note="fixed")
        return say("ACTED")

    with scripted_model(script) as url:
        model = {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "none",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            # All tools at once, as the script does not look for them.
            "ENABLE_TOOL_SEARCH": "false",
        }
        allowed = "mcp__claims__try_claim,mcp__claims__release,Bash"
        sessions = [
            subprocess.Popen(
                ["claude", "-p", "The checks of acme/web#12 failed.", "--allowedTools", allowed],
                env=surroundings | model,
                cwd=tmp_path / "project",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(2)
        ]
        said = sorted(session.communicate(timeout=100)[0].strip() for session in sessions)
    assert said[0] == "ACTED"
    assert said[1].startswith("REPORTED:") and '"note":"fixing it"' in said[1] and '"client":"claude-code' in said[1]
    assert acted.read_text() == "acted\n"
    listed = json.loads(claims(surroundings, "list", "--dir", str(tmp_path / "claims"), "--json"))["claims"]
    assert [(each["key"], each["outcome"], each["note"]) for each in listed] == [
        ("acme/web#12:checks_failed", "done", "fixed")
    ]
