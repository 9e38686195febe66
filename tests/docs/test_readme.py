"""The README is true: its commands and snippets run, and its table is what the server says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from mcp_claims.cli.install import HOST_NAMES
from mcp_claims.server.definitions import DEFINITIONS
from tests.support.servers import PYTHON_ENVIRONMENT, facts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TABLE = re.compile(r"(?<=from the server -->\n).*?(?=<!-- end of tools -->)", re.DOTALL)


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def tools_table() -> str:
    rows = ["| tool | arguments | what it does |", "|---|---|---|"]
    for name, tool in DEFINITIONS.items():
        schema: dict[str, Any] = tool.input_schema
        arguments = [
            f"`{argument}`" if argument in schema.get("required", []) else f"`{argument}={_default(about)}`"
            for argument, about in schema["properties"].items()
        ]
        rows.append(f"| `{name}` | {', '.join(arguments)} | {tool.description} |")
    return "\n".join(rows) + "\n"


def test_the_table_of_tools_is_what_the_server_lists() -> None:
    found = TABLE.search(README)
    assert found
    if os.environ.get("UPDATE_SNAPSHOTS"):
        (ROOT / "README.md").write_text(README.replace(found[0], tools_table()))
    else:
        assert found[0] == tools_table(), "run the tests with UPDATE_SNAPSHOTS=1 and review the difference"


def test_the_first_command_shows_the_demo_on_a_fresh_machine(tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(copy)], check=True)
    command = snippets("sh")[0].strip()
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q .")
    done = subprocess.run(["bash", "-c", command], cwd=copy, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK: one acted" in done.stdout


@pytest.mark.anyio
async def test_the_command_for_http_serves_where_the_readme_says(tmp_path: Path) -> None:
    environment = PYTHON_ENVIRONMENT | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MCP_CLAIMS_DIR": str(tmp_path / "claims"),
    }
    (url,) = re.findall(r"at `(http://[^`]+)`", README)
    with started(shlex.split(snippets("sh")[3]), environment) as said:
        assert said == f"mcp-claims: serving {url}\n"
        async with Client(url) as client:
            assert "open_session" in [tool.name for tool in (await client.list_tools()).tools]


def test_the_lines_for_the_command_line_do_what_they_say(tmp_path: Path) -> None:
    watch, run, claim, force = (line.partition("#")[0].strip() for line in snippets("sh")[2].strip().splitlines())
    environment = PYTHON_ENVIRONMENT | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MCP_CLAIMS_DIR": str(tmp_path / "claims"),
    }
    (tmp_path / "Makefile").write_text("nightly:\n\t@echo made\n")

    def bash(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    assert bash(run).stdout == "made\n"
    assert "was done by" in bash(run).stderr
    assert "you hold" in bash(claim).stdout
    assert force == "mcp-claims release deploy --force" and bash(force).stdout.startswith("RELEASED: taken from ")
    with subprocess.Popen(shlex.split(watch), env=environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = (line for line in watching.stdout if "nightly" in line)
        try:
            assert next(seen).split()[2] == "done"
        finally:
            watching.kill()


def test_the_command_for_hosts_makes_a_host_start_the_server_and_the_readme_names_all_hosts(tmp_path: Path) -> None:
    command = shlex.split(snippets("sh")[1])
    run_python("-m", "mcp_claims", *command[1:], directory=tmp_path, HOME=str(tmp_path), CLAUDE_CONFIG_DIR="")
    entry = json.loads((tmp_path / ".claude.json").read_text())["mcpServers"]["claims"]
    assert entry["command"] == os.path.abspath(sys.executable)
    named = README.partition("The hosts are")[2].partition("For any other")[0]
    assert re.findall(r"`([a-z-]+)`", named.replace("`--hooks`", "")) == list(HOST_NAMES)


def test_the_command_for_doubts_finds_nothing_wrong(tmp_path: Path) -> None:
    assert snippets("sh")[4] == "mcp-claims doctor\n"
    assert "FAIL" not in run_python("-m", "mcp_claims", "doctor", directory=tmp_path)


def test_ci_runs_the_last_command() -> None:
    assert snippets("sh")[5] in (ROOT / ".ci" / "run").read_text()
    assert len(snippets("sh")) == 6


def test_the_entry_for_hosts_is_the_file_that_is_shipped() -> None:
    assert snippets("json") == [(ROOT / "claude_config.json").read_text()]


@pytest.mark.anyio
async def test_a_host_that_takes_the_entry_as_it_is_gets_a_server_that_claims(tmp_path: Path) -> None:
    entry = json.loads((ROOT / "claude_config.json").read_text())["mcpServers"]["claims"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = PYTHON_ENVIRONMENT | {"PATH": path, "MCP_CLAIMS_DIR": str(tmp_path / "claims")}
    async with Client(StdioServerParameters(**entry, env=environment)) as client:
        assert facts(await client.call_tool("try_claim", {"key": "red"}))["claimed"]
    assert (tmp_path / "claims" / "default").is_dir()


def test_the_python_snippet_runs(tmp_path: Path) -> None:
    (snippet,) = snippets("python")
    assert "ours; released" in run_python("-c", snippet, directory=tmp_path)


def test_the_example_without_mcp_runs(tmp_path: Path) -> None:
    assert "ours, generation 1" in run_python("examples/without_mcp.py", directory=tmp_path)


def test_the_example_with_two_sessions_shows_a_refusal_and_a_release(tmp_path: Path) -> None:
    lines = run_python("examples/two_sessions.py", directory=tmp_path).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["CLAIMED", "NOT CLAIMED", "CLAIMED"]


def test_the_example_of_an_outcome_shows_that_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    lines = run_python("examples/done_stays_done.py", directory=tmp_path).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["CLAIMED", "RELEASED", "DONE"]


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Start a server; yields the first line that it writes to stderr."""
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            yield server.stderr.readline()
        finally:
            server.terminate()


def run_python(*arguments: str, directory: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=PYTHON_ENVIRONMENT | {"MCP_CLAIMS_DIR": str(directory / "claims")} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _default(about: dict[str, Any]) -> str:
    default = about.get("default")
    return json.dumps(int(default) if isinstance(default, float) and default.is_integer() else default)
