"""A server over HTTP whose tool does nothing, with the JSON answers of the SDK: `python -m benchmarks.floor_http_server`.

It runs on the SDK's low-level server, as ours does; the answer is as long as that of `try_claim`.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import anyio
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import CallToolRequestParams, CallToolResult, TextContent

from benchmarks.floor_server import STRUCTURE, TEXT


async def _no_op(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=TEXT)], structured_content=STRUCTURE)


if __name__ == "__main__":
    app = Server[Any]("floor", on_call_tool=_no_op).streamable_http_app(json_response=True)
    listening = socket.create_server(("127.0.0.1", 0))
    # As `mcp-claims serve` does: the body of an answer would wait 40 ms for the acknowledgement of the head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, ws="none")
    print(f"serving http://127.0.0.1:{listening.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    anyio.run(uvicorn.Server(config).serve, [listening])
