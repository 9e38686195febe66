"""The example for LangChain, with the real adapters: made for another version of the SDK, they have an environment of their own.

Needs `MCP_CLAIMS_LANGCHAIN`: the Python of an environment in which pip has installed what `.ci/run` names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import PYTHON_ENVIRONMENT

ROOT = Path(__file__).parents[2]
INSTALLED = os.environ.get("MCP_CLAIMS_LANGCHAIN")


@pytest.mark.skipif(
    INSTALLED is None and "CI" not in os.environ,
    reason="install langchain-mcp-adapters in an environment of its own, and set MCP_CLAIMS_LANGCHAIN to its Python",
)
def test_agents_that_connect_for_each_call_exclude_each_other_by_their_names() -> None:
    assert INSTALLED is not None
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [INSTALLED, "examples/langchain_sessions.py"],
        cwd=ROOT,
        env=PYTHON_ENVIRONMENT | {"PATH": here},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    said = [line.split(":")[:2] for line in done.stdout.splitlines()]
    assert said == [["ada", " CLAIMED"], ["ben", " HELD"], ["ada", " RELEASED"], ["ben", " DONE"]]
