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
from mcp_claims.claims import Claims
from mcp_claims.errors import ClaimsError
from mcp_claims.rules import one_line
from mcp_claims.server.tools import INSTRUCTIONS, TOOLS

logger = logging.getLogger(__name__)


def build_server(open_session: Callable[[], Claims]) -> Server[Claims]:
    """Return a server that opens a session for each connection and ends it, claims released, with the connection."""

    @asynccontextmanager
    async def lifespan(_: Server[Claims]) -> AsyncIterator[Claims]:
        with open_session() as claims:
            yield claims

    return Server(
        "mcp-claims",
        version=__version__,
        title="Claims",
        instructions=INSTRUCTIONS,
        lifespan=lifespan,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
    )


async def _list_tools(
    context: ServerRequestContext[Claims],  # noqa: ARG001 (the SDK's interface)
    params: PaginatedRequestParams | None,  # noqa: ARG001
) -> ListToolsResult:
    return ListToolsResult(tools=[tool.listed for tool in TOOLS.values()])


async def _call_tool(context: ServerRequestContext[Claims], params: CallToolRequestParams) -> CallToolResult:
    tool = TOOLS.get(params.name)
    if tool is None:
        raise MCPError(INVALID_PARAMS, f"There is no tool {params.name[:100]!r}; there are {', '.join(TOOLS)}.")
    claims = context.lifespan_context
    if claims.holder.client is None and (client := context.session.client_params):
        claims.describe_client(f"{client.client_info.name} {client.client_info.version}")
    try:
        return await tool.call(claims, params.arguments)
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
