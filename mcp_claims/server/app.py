"""The server object: the tools and instructions on the SDK's low-level `Server`.

The low-level one, since the high-level one passes over arguments that a tool does not have (a misspelt `ttl_minutes`
would be the default), parses notes that look like JSON, and shows models pydantic's messages.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# `ServerRequestContext` is generic at type-checking time only as the SDK wants it; see its module.
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)

from mcp_claims import __version__
from mcp_claims.errors import ClaimsError
from mcp_claims.rules import one_line
from mcp_claims.server.caller import caller_of
from mcp_claims.server.tending import tended
from mcp_claims.server.tools import INSTRUCTIONS, TOOLS
from mcp_claims.sessions import Sessions

logger = logging.getLogger(__name__)


def build_server(open_sessions: Callable[[], Sessions]) -> Server[Sessions]:
    """Return a server that opens its sessions for each run of it, and ends them, claims released, with it.

    Over stdio and in memory a run is a connection; over HTTP it is the life of the process.
    """

    @asynccontextmanager
    async def lifespan(_: Server[Sessions]) -> AsyncIterator[Sessions]:
        sessions = open_sessions()
        try:
            async with tended(sessions):
                yield sessions
        finally:
            sessions.end()

    return Server(
        "mcp-claims",
        version=__version__,
        title="Claims",
        instructions=INSTRUCTIONS,
        lifespan=lifespan,
        # Without it the SDK lists all tools again at each call over HTTP.
        get_tool_input_schema=lambda name: TOOLS[name].listed.input_schema if name in TOOLS else None,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
    )


async def _list_tools(
    context: ServerRequestContext[Sessions],  # noqa: ARG001 (the SDK's interface)
    params: PaginatedRequestParams | None,  # noqa: ARG001
) -> ListToolsResult:
    return ListToolsResult(tools=[tool.listed for tool in TOOLS.values()])


async def _call_tool(context: ServerRequestContext[Sessions], params: CallToolRequestParams) -> CallToolResult:
    tool = TOOLS.get(params.name)
    if tool is None:
        raise MCPError(INVALID_PARAMS, f"There is no tool {params.name[:100]!r}; there are {', '.join(TOOLS)}.")
    try:
        return await tool.call(
            context.lifespan_context, caller_of(context), params.arguments, context.session.report_progress
        )
    except ClaimsError as error:
        # Paths may hold what is no text; on the wire that would end the connection.
        return _failure(one_line(f"{params.name} failed: {error}"))
    except Exception:
        # The one place where a defect of ours ends up: the model must learn that it holds nothing, the log why.
        logger.exception("%s failed", params.name)
        return _failure(
            f"{params.name} failed by a defect of mcp-claims; the server's log has the details. Do not act on this "
            "event; is_claimed_by_other tells what is stored."
        )


def _failure(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
