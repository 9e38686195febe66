"""Where what is packaged lies, and the programs that its tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "packaging" / "claude-code"
LAUNCHER = PLUGIN / "bin" / "mcp-claims"
MCPB = ROOT / "packaging" / "mcpb"

UV = os.environ.get("MCP_CLAIMS_UV", "")
"""The directory with `uv` and `uvx`."""

needs_uv = pytest.mark.skipif(
    not UV and "CI" not in os.environ,
    reason="install uv in an environment of its own, and set MCP_CLAIMS_UV to its bin",
)
