"""The README is short, its links lead somewhere, and what it shows works; its commands run in `test_pages.py`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.support.programs import installed
from tests.support.servers import PYTHON_ENVIRONMENT, structured_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
HOSTS = (ROOT / "docs" / "hosts" / "index.md").read_text()
LIBRARY = (ROOT / "docs" / "reference" / "library.md").read_text()


def environment(directory: Path) -> dict[str, str]:
    """Return an environment in which `mcp-claims` is on the PATH and has its claims below *directory*."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return PYTHON_ENVIRONMENT | {"PATH": path, "MCP_CLAIMS_DIR": str(directory / "claims")}


def run_python(*arguments: str, directory: Path) -> str:
    """Run Python with *arguments*; return what it prints.  It must succeed without a word on stderr."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(directory),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_it_is_read_in_two_minutes() -> None:
    assert len(README.split()) < 900


def test_its_links_and_pictures_are_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", README)
    local = {link or picture for link, picture in links if not (link or picture).startswith("https://")}
    assert len(local) >= 10 and not {each for each in local if not (ROOT / each).is_file()}


def test_the_first_command_shows_the_demo_on_a_fresh_machine(tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    subprocess.run([installed("git"), "clone", "-q", str(ROOT), str(copy)], check=True)
    line = README.split("```sh\n")[1].split("\n```")[0]
    done = subprocess.run(["bash", "-c", line], cwd=copy, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK: one acted" in done.stdout


@pytest.mark.anyio
@pytest.mark.parametrize(
    "entry",
    [*re.findall(r"```json\n(.*?)```", HOSTS, re.DOTALL), (ROOT / "claude_config.json").read_text()],
    ids=["docs/hosts", "claude_config.json"],
)
async def test_a_host_that_takes_the_entry_as_it_is_gets_a_server_that_claims(tmp_path: Path, entry: str) -> None:
    server = StdioServerParameters(**json.loads(entry)["mcpServers"]["claims"], env=environment(tmp_path))
    async with Client(server) as client:
        assert structured_of(await client.call_tool("try_claim", {"key": "red"}))["claimed"]
    assert (tmp_path / "claims" / "default").is_dir()


def test_the_first_snippet_for_python_runs(tmp_path: Path) -> None:
    snippet = LIBRARY.split("```python\n")[1].split("```")[0]
    assert "open_session()" in snippet
    run_python("-c", snippet, directory=tmp_path)


def test_the_example_without_mcp_runs(tmp_path: Path) -> None:
    assert "ours, generation 1" in run_python("examples/without_mcp.py", directory=tmp_path)


def test_the_example_with_two_sessions_shows_a_refusal_and_a_release(tmp_path: Path) -> None:
    lines = run_python("examples/two_sessions.py", directory=tmp_path).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["CLAIMED", "HELD", "CLAIMED"]


def test_the_example_of_an_outcome_shows_that_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    lines = run_python("examples/done_stays_done.py", directory=tmp_path).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["CLAIMED", "RELEASED", "DONE"]
