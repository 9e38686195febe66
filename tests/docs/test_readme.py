"""The README is true: its commands and snippets run, and its table of tools is generated from the server."""

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
from mcp_types import Tool

from tests.support.programs import installed
from tests.support.servers import PYTHON_ENVIRONMENT, stdio, structured_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TABLE = re.compile(r"(?<=from the server -->\n).*?(?=<!-- end of tools -->)", re.DOTALL)
WITH_THIS_PYTHON = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def command(containing: str) -> str:
    """Return the one shell snippet of the README that contains *containing*."""
    (found,) = (snippet.strip() for snippet in snippets("sh") if containing in snippet)
    return found


def environment(directory: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which `mcp-claims` is on the PATH and has its claims below *directory*."""
    return PYTHON_ENVIRONMENT | {"PATH": WITH_THIS_PYTHON, "MCP_CLAIMS_DIR": str(directory / "claims")} | variables


def run(arguments: list[str], directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env=environment(directory, **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def run_python(*arguments: str, directory: Path, **variables: str) -> str:
    """Run Python with *arguments*; return what it prints. It must succeed without a word on stderr."""
    done = run([sys.executable, *arguments], directory, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@contextmanager
def started(arguments: list[str], directory: Path) -> Iterator[str]:
    """Start a server; yield the first line that it writes to stderr."""
    with subprocess.Popen(arguments, env=environment(directory), stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            yield server.stderr.readline()
        finally:
            server.terminate()


def table_of(tools: list[Tool]) -> str:
    rows = ["| tool | arguments | what it does |", "|---|---|---|"]
    for tool in tools:
        required = tool.input_schema.get("required", [])
        arguments = [
            f"`{name}`" if name in required else f"`{name}={default_of(about)}`"
            for name, about in tool.input_schema["properties"].items()
        ]
        rows.append(f"| `{tool.name}` | {', '.join(arguments)} | {tool.description} |")
    return "\n".join(rows) + "\n"


def default_of(about: dict[str, Any]) -> str:
    default = about.get("default")
    return json.dumps(int(default) if isinstance(default, float) and default.is_integer() else default)


@pytest.mark.rule("L4", "M1")
def test_the_commands_in_slots_with_one_of_several_keys_and_shared_run(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("test:\n\t@echo slot $$MCP_CLAIMS_SLOT\n")
    for name, says in (("serve.sh", "on $MCP_CLAIMS_KEY"), ("publish.sh", "of $MCP_CLAIMS_KEY")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {says}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", command(containing="run --slots")],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert done.stdout == f"slot 0\non port:8001\nof file:{tmp_path.resolve()}/docs/\n"


@pytest.mark.anyio
async def test_the_table_of_tools_is_what_the_server_lists(tmp_path: Path) -> None:
    async with Client(stdio(tmp_path / "claims")) as client:
        listed = table_of((await client.list_tools()).tools)
    found = TABLE.search(README)
    assert found
    if os.environ.get("UPDATE_SNAPSHOTS"):
        (ROOT / "README.md").write_text(README.replace(found[0], listed))
    else:
        assert found[0] == listed, "run the tests with UPDATE_SNAPSHOTS=1 and review the difference"


def test_the_first_command_shows_the_demo_on_a_fresh_machine(tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    subprocess.run([installed("git"), "clone", "-q", str(ROOT), str(copy)], check=True)
    line = command("mcp-claims demo")
    done = subprocess.run(["bash", "-c", line], cwd=copy, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK: one acted" in done.stdout


def test_the_command_for_hosts_makes_a_host_start_the_server(tmp_path: Path) -> None:
    _, *arguments = shlex.split(command("mcp-claims install"))
    run_python("-m", "mcp_claims", *arguments, directory=tmp_path, HOME=str(tmp_path), CLAUDE_CONFIG_DIR="")
    entry = json.loads((tmp_path / ".claude.json").read_text())["mcpServers"]["claims"]
    assert entry["command"] == os.path.abspath(sys.executable)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "entry", [*snippets("json"), (ROOT / "claude_config.json").read_text()], ids=["README", "file"]
)
async def test_a_host_that_takes_the_entry_as_it_is_gets_a_server_that_claims(tmp_path: Path, entry: str) -> None:
    server = StdioServerParameters(**json.loads(entry)["mcpServers"]["claims"], env=environment(tmp_path))
    async with Client(server) as client:
        assert structured_of(await client.call_tool("try_claim", {"key": "red"}))["claimed"]
    assert (tmp_path / "claims" / "default").is_dir()


def test_the_lines_for_the_command_line_do_what_they_say(tmp_path: Path) -> None:
    installed("make")
    (tmp_path / "Makefile").write_text("nightly deploy:\n\t@echo made $@\n")

    def bash(line: str) -> subprocess.CompletedProcess[str]:
        return run(["bash", "-c", f"cd {shlex.quote(str(tmp_path))} && {line}"], tmp_path)

    lines = (line.partition("#")[0].strip() for line in command("list --watch").splitlines())
    watch, history, once, guarded, claim, force, wait, hold = lines
    assert bash(once).stdout == "made nightly\n"
    assert "was done by" in bash(once).stderr
    assert bash(guarded).stdout == bash(guarded).stdout == "made deploy\n"
    assert "you hold" in bash(claim).stdout
    assert bash(force).stdout.startswith("REVOKED: ")
    assert bash(wait).stdout.startswith("FREE: ")
    assert "as a person" in bash(hold).stdout
    assert " clean." in bash(history).stdout.splitlines()[-1]
    with subprocess.Popen(shlex.split(watch), env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = (line for line in watching.stdout if "nightly" in line)
        try:
            assert next(seen).split()[2] == "done"
        finally:
            watching.kill()


@pytest.mark.anyio
async def test_the_command_for_http_serves_where_the_readme_says(tmp_path: Path) -> None:
    (url,) = re.findall(r"at `(http://[^`]+)`", README)
    with started(shlex.split(command("serve --http")), tmp_path) as first_line:
        assert first_line == f"mcp-claims: serving {url}\n"
        async with Client(url) as client:
            assert "open_session" in [tool.name for tool in (await client.list_tools()).tools]


@pytest.mark.rule("B11")
def test_the_command_for_the_board_serves_a_page_and_the_pictures_are_there(tmp_path: Path) -> None:
    with subprocess.Popen(
        shlex.split(command("mcp-claims board")),
        env=environment(tmp_path, DISPLAY="", WAYLAND_DISPLAY="", BROWSER=""),
        stdout=subprocess.PIPE,
        text=True,
    ) as board:
        assert board.stdout is not None
        try:
            assert re.match(r"The board is at http://127\.0\.0\.1:\d+/#", board.stdout.readline())
        finally:
            board.terminate()
    pictures = re.findall(r"docs/pictures/[\w.-]+", README)
    assert len(pictures) >= 4 and all((ROOT / each).is_file() for each in pictures)


def test_doctor_finds_nothing_wrong(tmp_path: Path) -> None:
    _, *arguments = shlex.split(command("mcp-claims doctor"))
    assert "FAIL" not in run_python("-m", "mcp_claims", *arguments, directory=tmp_path)


def test_the_python_snippet_runs(tmp_path: Path) -> None:
    (snippet,) = snippets("python")
    assert "ours; released" in run_python("-c", snippet, directory=tmp_path)


def test_the_example_without_mcp_runs(tmp_path: Path) -> None:
    assert "ours, generation 1" in run_python("examples/without_mcp.py", directory=tmp_path)


def test_the_example_with_two_sessions_shows_a_refusal_and_a_release(tmp_path: Path) -> None:
    lines = run_python("examples/two_sessions.py", directory=tmp_path).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["CLAIMED", "HELD", "CLAIMED"]


def test_the_example_of_an_outcome_shows_that_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    lines = run_python("examples/done_stays_done.py", directory=tmp_path).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["CLAIMED", "RELEASED", "DONE"]
