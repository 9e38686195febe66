"""`server.json` is what the MCP registry takes, and true.

The rules are those of its schema of 2025-12-11 and of its requirements for publishing; the registry's own check needs a
published package.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

import mcp_claims
from mcp_claims.stores.config import DIRECTORY_VARIABLE, LAYOUT_VARIABLE, LAYOUTS, OWN_LAYOUT
from tests.support.servers import PYTHON_ENVIRONMENT

ROOT = Path(__file__).parents[2]
SERVER: dict[str, Any] = json.loads((ROOT / "server.json").read_text())
(PACKAGE,) = SERVER["packages"]
INPUT = {"description", "isRequired", "format", "value", "isSecret", "default", "placeholder", "choices", "variables"}


def test_it_has_what_the_schema_asks_for_and_nothing_else() -> None:
    assert SERVER["$schema"] == "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
    assert SERVER.keys() == {"$schema", "name", "title", "description", "version", "packages"}
    assert len(SERVER["name"]) <= 200 and re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", SERVER["name"])
    assert 1 <= len(SERVER["title"]) <= 100 and 1 <= len(SERVER["description"]) <= 100
    assert {"registryType", "identifier", "version", "transport"} <= PACKAGE.keys() and "runtimeHint" in PACKAGE
    assert PACKAGE["transport"] == {"type": "stdio"}
    for argument in PACKAGE["packageArguments"]:
        assert argument["type"] == "positional" and argument.keys() - INPUT == {"type"} and "value" in argument
    for variable in PACKAGE["environmentVariables"]:
        assert variable.keys() - INPUT == {"name"} and all(
            isinstance(variable[key], str) for key in ("name", "description")
        )
        assert variable.get("format", "string") in ("string", "number", "boolean", "filepath")
        assert variable.get("default", OWN_LAYOUT) in variable.get("choices", [OWN_LAYOUT])


def test_it_names_the_package_and_the_version_that_are_shipped() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (PACKAGE["registryType"], PACKAGE["identifier"]) == ("pypi", project["name"])
    assert SERVER["version"] == PACKAGE["version"] == mcp_claims.__version__
    # With `uvx NAME` the command that has the package's name is run.
    assert project["name"] in project["scripts"]


def test_the_package_says_that_it_belongs_to_the_entry() -> None:
    # In the README, which is the package's description: by that the registry knows who may publish the entry.
    assert f"mcp-name: {SERVER['name']} " in (ROOT / "README.md").read_text()


@pytest.mark.anyio
async def test_what_it_says_to_start_is_a_server(tmp_path: Path) -> None:
    first, second = PACKAGE["environmentVariables"]
    assert (first["name"], second["name"], tuple(second["choices"])) == (DIRECTORY_VARIABLE, LAYOUT_VARIABLE, LAYOUTS)
    variables = {first["name"]: str(tmp_path / "claims"), second["name"]: second["default"]}
    launch = StdioServerParameters(
        command="mcp-claims",
        args=[argument["value"] for argument in PACKAGE["packageArguments"]],
        env=PYTHON_ENVIRONMENT | variables | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    async with Client(launch) as client:
        await client.call_tool("try_claim", {"key": "red"})
    assert (tmp_path / "claims" / "default").is_dir()
