"""A home directory for each test, the command line in it, and real hosts in one of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.cli.main import main
from mcp_claims.hosts import HOSTS, Host, UserEnvironment
from tests.hosts.real_hosts import HostHome, make_host_home
from tests.support.platforms import PLATFORM

Run = Callable[..., tuple[int, str]]

# They lead out of the home directory, or choose another store.
_VARIABLES = [
    *("APPDATA", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "COPILOT_HOME", "CLINE_DIR"),
    *("GEMINI_CLI_HOME", "QWEN_HOME", "CONTINUE_GLOBAL_DIR"),
    *("MCP_CLAIMS_DIR", "MCP_CLAIMS_LAYOUT", "MCP_CLAIMS_PROVIDER", "MCP_CLAIMS_STORE"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory, empty."""
    directory = tmp_path / "home"
    directory.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(directory))
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return directory


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; return its exit code and its output, stdout and stderr together."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        output = capsys.readouterr()
        return code, output.out + output.err

    return run


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    """Each host in turn."""
    return HOSTS[request.param]


@pytest.fixture
def file(host: Host, home: Path) -> Path:
    """The path of the host's file, which does not exist; its directory does."""
    path = host.config_file(UserEnvironment(home, PLATFORM, {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def host_home(tmp_path: Path) -> HostHome:
    """A home directory for real hosts, in which none has a file yet."""
    return make_host_home(tmp_path)
