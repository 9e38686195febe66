"""`mcp-claims instructions`: what it prints is in the README, and true of the tools."""

from __future__ import annotations

import json
import re

from mcp_claims.cli.main import COMMANDS
from tests.cli.commands import Commands
from tests.packaging.places import ROOT


def test_the_readme_shows_what_it_prints(commands: Commands) -> None:
    done = commands("instructions")
    (shown,) = re.findall(r"```markdown\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")
    heading, *lines = shown.splitlines()
    assert heading.startswith("## ") and sum(line.startswith("- ") for line in lines) == 10


def test_all_that_it_names_exists(commands: Commands) -> None:
    printed = commands("instructions").stdout
    tools = [json.loads(file.read_text()) for file in (ROOT / "tests" / "server" / "snapshots").glob("*.json")]
    known = {"claimed", "status", "generation", "in_force", "held", "done", "your_turn", "failed", "abandoned"}
    known |= {tool["name"] for tool in tools} | {name for tool in tools for name in tool["inputSchema"]["properties"]}
    # One word, or one with its value; a key has other characters.
    named = re.findall(r"`([a-z]+(?:_[a-z]+)*)(?:: (?:true|false))?`", printed)
    assert {"try_claim", "release", "also", "or_else", "keep_alive"} <= set(named) <= known
    assert set(re.findall(r"`mcp-claims (\w+)", printed)) <= COMMANDS.keys()
