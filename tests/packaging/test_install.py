"""The built wheel is installed by uv, uvx and pipx without a compiler, and runs where the home directory is read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_claims import __version__
from tests.packaging.places import ROOT, UV, needs_uv
from tests.support.process import NOBODY
from tests.support.servers import PYTHON_ENVIRONMENT
from tests.support.users import open_to_all

pytestmark = needs_uv


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of what a release builds: the source distribution, and the wheel that is made from it."""
    directory = tmp_path_factory.mktemp("dist")
    run([f"{UV}/uv", "build", "--quiet", "--python", sys.executable, "--out-dir", str(directory), str(ROOT)])
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (file,) = built.glob("*.whl")
    return file


def run(command: list[str], *, user: int | None = None, **variables: str) -> str:
    """Run *command*, with nothing else on the PATH than it brings; return what it prints."""
    # Not the user's own home: what an installer keeps there would make the next test pass.
    environment = {name: value for name, value in PYTHON_ENVIRONMENT.items() if not name.startswith(("XDG_", "UV_"))}
    environment |= {"PATH": os.pathsep.join([UV, "/usr/bin", "/bin"]), "CC": "/bin/false", "CXX": "/bin/false"}
    done = subprocess.run(
        command,
        env=environment | variables,
        cwd=variables.get("HOME"),
        user=user,
        group=user,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_use(program: Path, home: Path) -> None:
    """Claim and release with *program* as its user would."""
    assert run([str(program), "--version"], HOME=str(home)) == f"mcp-claims {__version__}\n"
    assert "you hold" in run([str(program), "try", "red@1", "--session", "me"], HOME=str(home))
    assert run([str(program), "release", "red@1", "--session", "me"], HOME=str(home)).startswith("RELEASED")


def test_the_index_takes_what_is_built(built: Path, wheel: Path, tmp_path: Path) -> None:
    run(
        [f"{UV}/twine", "check", "--strict", *(str(file) for file in built.iterdir() if file.suffix in (".whl", ".gz"))]
    )
    run([f"{UV}/check-wheel-contents", str(wheel)], HOME=str(tmp_path))


def test_uv_tool_install(wheel: Path, tmp_path: Path) -> None:
    run(
        [f"{UV}/uv", "tool", "install", "--quiet", "--no-build", "--python", sys.executable, str(wheel)],
        HOME=str(tmp_path),
    )
    in_use(tmp_path / ".local" / "bin" / "mcp-claims", tmp_path)


def test_uvx(wheel: Path, tmp_path: Path) -> None:
    uvx = [f"{UV}/uvx", "--quiet", "--no-build", "--python", sys.executable, "--from", str(wheel), "mcp-claims"]
    assert run([*uvx, "--version"], HOME=str(tmp_path)) == f"mcp-claims {__version__}\n"


def test_pipx(wheel: Path, tmp_path: Path) -> None:
    only_wheels = "--pip-args=--only-binary=:all:"
    run([f"{UV}/pipx", "install", "--quiet", "--python", sys.executable, only_wheels, str(wheel)], HOME=str(tmp_path))
    in_use(tmp_path / ".local" / "bin" / "mcp-claims", tmp_path)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can become another user")
def test_what_is_installed_runs_where_the_home_directory_is_read_only(wheel: Path, tmp_path: Path) -> None:
    home, tools, state = tmp_path / "home", tmp_path / "tools", tmp_path / "state"
    for directory in (home, tools, state):
        directory.mkdir()
    open_to_all(tmp_path)
    shutil.copy(wheel, tools)
    # Where the interpreter is in root's home, as with pyenv, nobody else can run it.
    python = "/usr/bin/python3"
    install = [f"{UV}/uv", "tool", "install", "--quiet", "--no-build", "--python", python, f"{tools}/{wheel.name}"]
    run(
        install,
        HOME=str(home),
        UV_TOOL_DIR=f"{tools}/env",
        UV_TOOL_BIN_DIR=f"{tools}/bin",
        UV_CACHE_DIR=f"{tools}/cache",
    )
    home.chmod(0o555)
    os.chown(state, NOBODY, NOBODY)
    program = [f"{tools}/bin/mcp-claims", "try", "red@1", "--session", "me"]
    run([*program, "--dir", f"{state}/claims"], user=NOBODY, HOME=str(home))
    refused = subprocess.run(
        program,
        env={"HOME": str(home), "PATH": "/usr/bin"},
        cwd="/",
        user=NOBODY,
        group=NOBODY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode == 3 and "MCP_CLAIMS_DIR" in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr and list(home.iterdir()) == []
