"""`server.json` is what the MCP registry takes, and true; who owns the repository is said in one place.

The rules are those of its schema of 2025-12-11 and of its requirements for publishing; the registry's own check needs a
published package.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

import mcp_claims
from mcp_claims.cli.options import LABEL_VARIABLE, SESSION_VARIABLE
from mcp_claims.stores.agent_awareness.location import PROVIDERS
from mcp_claims.stores.config import DIRECTORY_VARIABLE, LAYOUT_VARIABLE, LAYOUTS, PROVIDER_VARIABLE
from mcp_claims.stores.history.history import DAYS_VARIABLE, MEGABYTES_VARIABLE
from tests.packaging.places import ROOT
from tests.support.servers import PYTHON_ENVIRONMENT

SERVER: dict[str, Any] = json.loads((ROOT / "packaging" / "server.json").read_text())
(PACKAGE,) = SERVER["packages"]
VARIABLES = {variable["name"]: variable for variable in PACKAGE["environmentVariables"]}
INPUT = {"description", "isRequired", "format", "value", "isSecret", "default", "placeholder", "choices", "variables"}

_spec = importlib.util.spec_from_file_location("owner", ROOT / "packaging" / "owner.py")
assert _spec and _spec.loader
owner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(owner)


def test_it_has_what_the_schema_asks_for_and_nothing_else() -> None:
    assert SERVER["$schema"] == "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
    required = {"$schema", "name", "title", "description", "version", "packages"}
    assert SERVER.keys() == required | {"websiteUrl", "repository", "icons"}
    assert len(SERVER["name"]) <= 200 and re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", SERVER["name"])
    assert 1 <= len(SERVER["title"]) <= 100 and 1 <= len(SERVER["description"]) <= 100
    assert SERVER["repository"].keys() == {"url", "source"}
    assert {"registryType", "identifier", "version", "transport"} <= PACKAGE.keys() and "runtimeHint" in PACKAGE
    assert PACKAGE["transport"] == {"type": "stdio"} and PACKAGE["registryBaseUrl"] == "https://pypi.org"
    for argument in PACKAGE["packageArguments"]:
        assert argument["type"] == "positional" and argument.keys() - INPUT == {"type"} and "value" in argument
    for variable in PACKAGE["environmentVariables"]:
        assert variable.keys() - INPUT == {"name"} and all(
            isinstance(variable[key], str) for key in ("name", "description")
        )
        assert variable.get("format", "string") in ("string", "number", "boolean", "filepath")
        if "default" in variable and "choices" in variable:
            assert variable["default"] in variable["choices"]


def test_its_icon_is_in_the_repository() -> None:
    (icon,) = SERVER["icons"]
    assert len(icon["src"]) <= 255 and icon["mimeType"] == "image/svg+xml" and icon["sizes"] == ["any"]
    assert (ROOT / icon["src"].partition("/main/")[2]).is_file()


def test_it_names_the_package_and_the_version_that_are_shipped() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (PACKAGE["registryType"], PACKAGE["identifier"]) == ("pypi", project["name"])
    assert SERVER["version"] == PACKAGE["version"] == mcp_claims.__version__
    # With `uvx NAME` the command that has the package's name is run.
    assert project["name"] in project["scripts"]


def test_the_package_says_that_it_belongs_to_the_entry() -> None:
    # In the README, which is the package's description: by that the registry knows who may publish the entry.
    assert f"mcp-name: {SERVER['name']} " in (ROOT / "README.md").read_text()


def test_its_variables_are_those_of_a_server_on_files() -> None:
    """Not those of etcd, whose client `uvx mcp-claims` does not install."""
    assert VARIABLES.keys() == {
        *(DIRECTORY_VARIABLE, LAYOUT_VARIABLE, PROVIDER_VARIABLE),
        *(SESSION_VARIABLE, LABEL_VARIABLE, DAYS_VARIABLE, MEGABYTES_VARIABLE),
    }
    assert tuple(VARIABLES[LAYOUT_VARIABLE]["choices"]) == LAYOUTS
    assert tuple(VARIABLES[PROVIDER_VARIABLE]["choices"]) == PROVIDERS


@pytest.mark.anyio
async def test_what_it_says_to_start_is_a_server(tmp_path: Path) -> None:
    variables = {
        DIRECTORY_VARIABLE: str(tmp_path / "claims"),
        LAYOUT_VARIABLE: VARIABLES[LAYOUT_VARIABLE]["default"],
    }
    launch = StdioServerParameters(
        command="mcp-claims",
        args=[argument["value"] for argument in PACKAGE["packageArguments"]],
        env=PYTHON_ENVIRONMENT | variables | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    async with Client(launch) as client:
        await client.call_tool("try_claim", {"key": "red"})
    assert (tmp_path / "claims" / "default").is_dir()


def test_every_file_names_the_same_owner_and_one_command_changes_them_all(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    naming = set()
    for name in filter(None, tracked.split("\0")):
        if name.startswith("tests/") or name.endswith(".png") or not (ROOT / name).is_file():
            continue
        if found := owner.names_in((ROOT / name).read_text()):
            assert found == {owner.owner()}, name
            naming.add(name)
    assert naming == set(owner.FILES)
    for name in owner.FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    program = shutil.copy(ROOT / "packaging" / "owner.py", tmp_path / "packaging")
    subprocess.run([sys.executable, program, "acme"], check=True)
    assert {found for name in owner.FILES for found in owner.names_in((tmp_path / name).read_text())} == {"acme"}
    assert subprocess.run([sys.executable, program], capture_output=True, text=True, check=True).stdout == "acme\n"
