"""The server object: tools, resources, prompt and instructions on the SDK's low-level `Server`.

The low-level one, since the high-level one passes over arguments that a tool does not have (a misspelt `ttl_minutes`
would be the default), parses notes that look like JSON, and shows models pydantic's messages.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

# `ServerRequestContext` is generic at type-checking time only as the SDK wants it; see its module.
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    TextContent,
    Tool,
    UnsubscribeRequestParams,
)

from mcp_claims import __version__
from mcp_claims.errors import ClaimsError, InvalidInputError
from mcp_claims.model.validation import one_line
from mcp_claims.server.completion import complete
from mcp_claims.server.maintenance import tended
from mcp_claims.server.prompts import PROMPTS, get_prompt
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.server.request_identity import caller_of
from mcp_claims.server.resources import TEMPLATES, list_resources, read_resource
from mcp_claims.server.subscriptions import Subscriptions, subscriptions
from mcp_claims.server.tools import INSTRUCTIONS, TOOLS
from mcp_claims.session.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the server: the sessions it has, and who is to be told of changes.

    Over stdio and in memory a run is a connection; over HTTP it is the life of the process.
    """

    sessions: SessionRegistry
    subscriptions: Subscriptions


Context = ServerRequestContext[Run]


def build_server(open_sessions: Callable[[], SessionRegistry]) -> Server[Run]:
    """Return a server that opens its sessions for each run of it, and ends them, claims released, with it."""

    @asynccontextmanager
    async def lifespan(_: Server[Run]) -> AsyncIterator[Run]:
        sessions = open_sessions()
        try:
            async with tended(sessions), subscriptions(sessions.read_only) as told:
                sessions.ended = told.forget
                yield Run(sessions, told)
        finally:
            sessions.end()

    return Server(
        "mcp-claims",
        version=__version__,
        title="Claims",
        instructions=INSTRUCTIONS,
        lifespan=lifespan,
        # Without it the SDK lists all tools again at each call over HTTP.
        get_tool_input_schema=_input_schema,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
        on_list_resources=_list_resources,
        on_list_resource_templates=_list_resource_templates,
        on_read_resource=_read_resource,
        on_subscribe_resource=_subscribe,
        on_unsubscribe_resource=_unsubscribe,
        on_subscriptions_listen=_listen,
        on_list_prompts=_list_prompts,
        on_get_prompt=_get_prompt,
        on_completion=_complete,
    )


def _definitions() -> dict[str, Tool]:
    from mcp_claims.server.definitions import DEFINITIONS  # Here, as no call on stdio waits for it.

    return DEFINITIONS


def _input_schema(name: str) -> dict[str, Any] | None:
    tool = _definitions().get(name)
    return None if tool is None else tool.input_schema


async def _list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=list(_definitions().values()))


async def _call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
    tool = TOOLS.get(params.name)
    if tool is None:
        raise MCPError(INVALID_PARAMS, f"There is no tool {params.name[:100]!r}; there are {', '.join(TOOLS)}.")
    try:
        return await tool(
            context.lifespan_context.sessions, caller_of(context), params.arguments, context.session.report_progress
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


async def _list_resources(context: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
    with _errors_of_the_protocol():
        return await list_resources(_onlooker(context), params.cursor if params else None)


async def _list_resource_templates(
    context: Context,
    params: PaginatedRequestParams | None,
) -> ListResourceTemplatesResult:
    return TEMPLATES


async def _read_resource(context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    with _errors_of_the_protocol():
        return await read_resource(_onlooker(context), params.uri)


async def _subscribe(context: Context, params: SubscribeRequestParams) -> EmptyResult:
    run, caller = context.lifespan_context, caller_of(context)
    # The connection has a session from here on, which ends, with its subscriptions, when it has been idle.
    with _errors_of_the_protocol():
        run.sessions.reader_for(caller, None)
    run.subscriptions.subscribe(caller.connection, context.session, params.uri)
    return EmptyResult()


async def _unsubscribe(context: Context, params: UnsubscribeRequestParams) -> EmptyResult:
    context.lifespan_context.subscriptions.unsubscribe(caller_of(context).connection, params.uri)
    return EmptyResult()


async def _listen(context: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
    return await context.lifespan_context.subscriptions.listen(context, params)


async def _list_prompts(context: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
    return PROMPTS


async def _get_prompt(context: Context, params: GetPromptRequestParams) -> GetPromptResult:
    return get_prompt(params.name, params.arguments)


async def _complete(context: Context, params: CompleteRequestParams) -> CompleteResult:
    with _errors_of_the_protocol():
        return CompleteResult(completion=await complete(_onlooker(context), params.argument, params.context))


def _onlooker(context: Context) -> Session:
    return context.lifespan_context.sessions.read_only


@contextmanager
def _errors_of_the_protocol() -> Iterator[None]:
    """Turn what is wrong with the request or the store into errors of the protocol, where there is no result for them."""
    try:
        yield
    except InvalidInputError as error:
        raise MCPError(INVALID_PARAMS, one_line(str(error))) from error
    except ClaimsError as error:
        raise MCPError(INTERNAL_ERROR, one_line(str(error))) from error


def _failure(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
