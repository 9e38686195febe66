"""A server whose tools make the system calls of a claim and nothing else: `python -m benchmarks.floor_server DIRECTORY`.

It runs on the SDK's low-level server and on the pipes of `mcp-claims serve`, so that a call differs in the tool alone.
The answer is as long as that of `try_claim`.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolRequestParams, CallToolResult, TextContent

from benchmarks.system_calls import BareClaims
from mcp_claims.server.pipes import take_over
from mcp_claims.server.stdio import as_files

TEXT = (
    'CLAIMED: you hold "red" (namespace "default") until 2026-11-24T02:30:19Z (30 min from now), generation 1. '
    "You act, nobody else will. Call release with an outcome when you stop. To renew, call try_claim again before it expires."
)
STRUCTURE = {
    "advice": TEXT,
    "holder": "host:20057:3131c145fea9",
    "client": "benchmark 1.0.0",
    "generation": 1,
    "claimed_at": "2026-11-24T02:00:19.945Z",
    "expires_at": "2026-11-24T02:30:19.945Z",
    "expires_in_seconds": 1800.0,
    "claimed": True,
    "status": "acquired",
}


async def serve(directory: Path) -> None:
    """Serve one client until it closes stdin."""
    directory.mkdir(exist_ok=True)
    claims = BareClaims(directory, json.dumps(STRUCTURE, indent=2).encode())
    tools = {"claim": claims.claim, "release": claims.release}

    async def call(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        tools[params.name]("red")
        return CallToolResult(content=[TextContent(type="text", text=TEXT)], structured_content=STRUCTURE)

    server = Server[Any]("floor", on_call_tool=call)
    pipes = take_over()
    assert pipes is not None
    async with stdio_server(*as_files(pipes)) as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


if __name__ == "__main__":
    gc.freeze()  # As `mcp-claims serve` does after its imports.
    anyio.run(serve, Path(sys.argv[1]))
