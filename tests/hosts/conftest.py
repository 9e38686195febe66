"""A home directory of its own for each test, and the command line in it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.cli.main import main
from mcp_claims.hosts import HOSTS, Host, UserEnvironment

Run = Callable[..., tuple[int, str]]

# What would lead out of the home directory, or choose another claims directory.
VARIABLES = [
    *("APPDATA", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "COPILOT_HOME", "CLINE_DIR"),
    *("GEMINI_CLI_HOME", "CONTINUE_GLOBAL_DIR", "MCP_CLAIMS_DIR", "MCP_CLAIMS_LAYOUT", "MCP_CLAIMS_PROVIDER"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory, empty."""
    directory = tmp_path / "home"
    directory.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(directory))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return directory


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; return its exit code and what it said, on stdout and stderr together."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    """Each host in turn."""
    return HOSTS[request.param]


@pytest.fixture
def file(host: Host, home: Path) -> Path:
    """The file of the host; its directory is there, the file is not."""
    path = host.config_file(UserEnvironment(home, sys.platform, {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
