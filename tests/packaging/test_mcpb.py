"""The bundle: its manifest is valid, it has the package and nothing else, and a host that has uv starts its server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.hosts.real_hosts import INSTALLED, needs_hosts
from tests.packaging.places import MCPB, ROOT, UV, needs_uv
from tests.support.servers import PYTHON_ENVIRONMENT, structured_of

pytestmark = needs_hosts

MANIFEST = json.loads((MCPB / "manifest.json").read_text())


def mcpb(*arguments: str) -> str:
    done = subprocess.run(["mcpb", *arguments], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    path = os.pathsep.join([f"{INSTALLED}/node_modules/.bin", UV, PYTHON_ENVIRONMENT["PATH"]])
    return PYTHON_ENVIRONMENT | {"PATH": path}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed bundle."""
    file = tmp_path_factory.mktemp("mcpb") / "mcp-claims.mcpb"
    subprocess.run([sys.executable, str(MCPB / "pack.py"), str(file)], env=environment(), check=True, cwd=file.parent)
    return file


def test_the_manifest_is_valid_and_names_the_tools_of_the_server() -> None:
    assert "validation passes" in mcpb("validate", str(MCPB / "manifest.json"))
    snapshots = ROOT / "tests" / "server" / "snapshots"
    assert {tool["name"] for tool in MANIFEST["tools"]} == {file.stem for file in snapshots.glob("*.json")}


@pytest.mark.rule("X7")
def test_it_has_the_package_and_its_dependencies_but_not_those_of_its_tests(bundle: Path, tmp_path: Path) -> None:
    mcpb("unpack", str(bundle), str(tmp_path / "unpacked"))
    assert "validation passes" in mcpb("validate", str(tmp_path / "unpacked"))
    packed = {path.relative_to(tmp_path / "unpacked") for path in (tmp_path / "unpacked").rglob("*") if path.is_file()}
    modules = {path.relative_to(ROOT) for path in (ROOT / "mcp_claims").rglob("*") if path.is_file()}
    modules = {path for path in modules if "__pycache__" not in path.parts}
    others = {"manifest.json", "server.py", "pyproject.toml", "LICENSE", "README.md"}
    assert packed == modules | {Path(name) for name in others}
    project = tomllib.loads((tmp_path / "unpacked" / "pyproject.toml").read_text())["project"]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["dependencies"], project["requires-python"]) == (ours["dependencies"], ours["requires-python"])
    assert MANIFEST["compatibility"]["runtimes"]["python"] == ours["requires-python"]


@pytest.mark.rule("X7")
@needs_uv
@pytest.mark.anyio
@pytest.mark.parametrize("of_the_host", [False, True], ids=["command", "entry point"])
async def test_a_host_that_has_uv_starts_its_server(bundle: Path, tmp_path: Path, of_the_host: bool) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "b ü")
    here, server = str(tmp_path / "b ü"), MANIFEST["server"]
    if of_the_host:
        # How a host may run the entry point of a bundle of this type by itself.
        command, arguments = "uv", ["run", "--quiet", "--directory", here, server["entry_point"]]
    else:
        command = server["mcp_config"]["command"]
        arguments = [each.replace("${__dirname}", here) for each in server["mcp_config"]["args"]]
    launch = StdioServerParameters(
        command=f"{UV}/{command}",
        args=arguments,
        cwd=tmp_path,
        env=environment() | {"MCP_CLAIMS_DIR": str(tmp_path / "claims")},
    )
    async with Client(launch) as client:
        assert structured_of(await client.call_tool("try_claim", {"key": "red"}))["claimed"]
    assert (tmp_path / "claims" / "default").is_dir()
