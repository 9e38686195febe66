"""The floor of a call: `mcp-claims` with one more tool, which does nothing and answers words and structure."""

from __future__ import annotations

import sys
from typing import Any

from mcp_types import CallToolResult, TextContent, Tool

from mcp_claims.cli.main import main
from mcp_claims.patience import Report
from mcp_claims.server.tools import TOOLS, ClaimsTool
from mcp_claims.sessions import Caller, Sessions


async def _noop(
    sessions: Sessions,  # noqa: ARG001
    caller: Caller,  # noqa: ARG001
    arguments: dict[str, Any] | None,  # noqa: ARG001
    report: Report,  # noqa: ARG001
) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text="nothing done")], structured_content={"advice": "nothing done"}
    )


if __name__ == "__main__":
    TOOLS["noop"] = ClaimsTool(
        Tool(name="noop", input_schema={"type": "object"}, output_schema={"type": "object"}), _noop
    )
    sys.exit(main())
