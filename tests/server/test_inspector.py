"""The MCP Inspector's command line, the tool with which people debug servers, lists and calls the tools.

Needs `MCP_CLAIMS_INSPECTOR`: a directory into which npm has installed what `.ci/run` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.server.tools import TOOLS
from tests.support.servers import PYTHON_ENVIRONMENT

INSTALLED = os.environ.get("MCP_CLAIMS_INSPECTOR")

pytestmark = pytest.mark.skipif(
    INSTALLED is None and "CI" not in os.environ,
    reason="install it as .ci/run does and set MCP_CLAIMS_INSPECTOR to the directory",
)

PROTOCOL_VERSIONS = pytest.mark.parametrize("protocol_version", ["legacy", "modern"])
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "try_claim": ({"key": "a#b", "ttl_minutes": 5}, {"claimed": True, "status": "acquired"}),
    "is_claimed_by_other": ({"key": "a#b"}, {"claimed_by_other": False, "held_by_you": False}),
    "release": ({"key": "a#b"}, {"released": False}),
    "list_claims": ({"mine": True}, {"claims": []}),
    "open_session": ({"label": "tests"}, {}),
    "prune": ({}, {"live": 0}),
}


def inspect(directory: Path, protocol_version: str, *arguments: str) -> dict[str, Any]:
    assert INSTALLED, "CI has to install the Inspector"
    binaries = Path(INSTALLED) / "node_modules" / ".bin"
    done = subprocess.run(
        [
            str(binaries / "mcp-inspector"),
            "--cli",
            "--protocol-era",
            protocol_version,
            *arguments,
            "--",
            *(sys.executable, "-m", "mcp_claims", "serve", "--dir", str(directory)),
        ],
        env=PYTHON_ENVIRONMENT | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@PROTOCOL_VERSIONS
def test_it_lists_the_tools_and_finds_their_schemas_portable(claims_dir: Path, protocol_version: str) -> None:
    # --strict ends with a failure for schemas that some hosts cannot take.
    listed = inspect(claims_dir, protocol_version, "--method", "tools/list", "--strict")
    assert [tool["name"] for tool in listed["tools"]] == list(TOOLS)


@PROTOCOL_VERSIONS
@pytest.mark.parametrize("tool", TOOLS)
def test_it_calls_each_tool_and_accepts_the_structured_answer(
    claims_dir: Path, protocol_version: str, tool: str
) -> None:
    arguments, expected = CALLS[tool]
    call = ("--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments))
    answer = inspect(claims_dir, protocol_version, *call)
    assert answer["content"][0]["text"]
    assert answer["structuredContent"] | expected == answer["structuredContent"]
