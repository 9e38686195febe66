"""The command `mcp-claims`: its version, exit codes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mcp_claims
from tests.support.servers import PYTHON_ENVIRONMENT


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcp_claims", *arguments],
        env=PYTHON_ENVIRONMENT | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"mcp-claims {mcp_claims.__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("serve", "--nonsense")])
def test_wrong_usage_exits_with_2_and_says_so_on_stderr(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: mcp-claims" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "name"),
    [
        pytest.param(("serve", "--dir", "claims"), {}, "--dir", id="relative option"),
        pytest.param(("serve", "--dir", ""), {}, "--dir", id="empty option"),
        pytest.param(("serve",), {"MCP_CLAIMS_DIR": "claims"}, "MCP_CLAIMS_DIR", id="relative variable"),
        pytest.param(("serve",), {"MCP_CLAIMS_DIR": ""}, "MCP_CLAIMS_DIR", id="empty variable"),
    ],
)
def test_a_directory_that_depends_on_where_the_host_starts_the_server_is_refused(
    arguments: tuple[str, ...], env: dict[str, str], name: str
) -> None:
    done = run(*arguments, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"mcp-claims: {name} must be an absolute path")


def test_serving_ends_at_once_when_nobody_is_there(tmp_path: Path) -> None:
    done = run("serve", "--dir", str(tmp_path / "claims"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "claims").exists()
