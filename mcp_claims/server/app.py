"""The server object: tools, resources, prompt and instructions on the SDK's low-level `Server`.

The high-level server ignores arguments that a tool does not have (a misspelt `ttl_minutes` would be the default), parses
notes that look like JSON, and shows models pydantic's messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
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
    ServerCapabilities,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    TextContent,
    UnsubscribeRequestParams,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_claims import __version__
from mcp_claims.errors import ClaimsError, InvalidInputError
from mcp_claims.model.text import one_line
from mcp_claims.server.apps import BOARD, BOARD_DATA, TOOL, TOOL_META, shows_apps
from mcp_claims.server.board_app import BoardApp
from mcp_claims.server.maintenance import maintained
from mcp_claims.server.prompts import PROMPTS, get_prompt
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.server.request_identity import caller_of
from mcp_claims.server.resource_list import resource_page
from mcp_claims.server.resources import TEMPLATES, complete, read_resource
from mcp_claims.server.schemas import definitions, parse
from mcp_claims.server.subscriptions import Subscriptions, subscriptions
from mcp_claims.server.tools import INSTRUCTIONS, TOOLS, Call, call_tool, failure
from mcp_claims.session.offload import Offload, run_scan
from mcp_claims.session.session import Session


@dataclass(frozen=True, slots=True)
class ServerState:
    """The state of one run of the server: over stdio and in memory of the connection, over HTTP of the process."""

    registry: SessionRegistry
    subscriptions: Subscriptions
    board: BoardApp


Context = ServerRequestContext[ServerState]


class _ClaimsServer(Server[ServerState]):
    """Declares no notices of changed lists, since it sends none; the SDK declares them wherever clients can listen."""

    def get_capabilities(self, *arguments: Any, **options: Any) -> ServerCapabilities:
        declared = super().get_capabilities(*arguments, **options)
        for capability in (declared.tools, declared.prompts, declared.resources):
            if capability is not None:
                capability.list_changed = False
        return declared


def build_server(open_registry: Callable[[], SessionRegistry]) -> Server[ServerState]:
    """Return a server.  Each run of it opens its sessions; at its end their claims are released and they are closed."""

    @asynccontextmanager
    async def lifespan(_: Server[ServerState]) -> AsyncIterator[ServerState]:
        registry = open_registry()
        try:
            async with maintained(registry), subscriptions(registry.read_only) as subscribed:
                registry.on_ended = subscribed.forget
                yield ServerState(registry, subscribed, BoardApp(registry))
        finally:
            registry.close()

    return _ClaimsServer(
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


def _input_schema(name: str) -> dict[str, Any] | None:
    tool = definitions().get(name)
    return None if tool is None else tool.input_schema


async def _list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
    tools = definitions()
    if _shows_apps(context):
        tools = tools | {TOOL: tools[TOOL].model_copy(update={"meta": TOOL_META})}
    return ListToolsResult(tools=list(tools.values()))


async def _call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
    name = params.name
    if name not in TOOLS:
        raise MCPError(INVALID_PARAMS, f"There is no tool {name[:100]!r}; there are {', '.join(TOOLS)}.")
    try:
        arguments = parse(name, params.arguments)
    except InvalidInputError as error:
        answer = failure(name, error)
    else:
        registry, token = context.lifespan_context.registry, progress_token_from_params(context.params)
        # Over HTTP a client of 2026-07-28 cannot cancel a call: what ends one there is a connection that was cut.
        is_cut = context.request is not None and context.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS
        runner = Offload(None if token is None else context.session.report_progress, outlives_call=is_cut)
        answer = await call_tool(name, Call(registry, caller_of(context), arguments, runner))
    return CallToolResult(
        content=[TextContent(type="text", text=answer.text)],
        structured_content=answer.structured,
        is_error=answer.structured is None,
    )


async def _list_resources(context: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
    with _protocol_errors():
        page = await resource_page(_reader(context), run_scan, params.cursor if params else None)
    return ListResourcesResult.model_validate(page)


async def _list_resource_templates(
    context: Context, params: PaginatedRequestParams | None
) -> ListResourceTemplatesResult:
    return TEMPLATES


async def _read_resource(context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    with _protocol_errors():
        if params.uri in (BOARD, BOARD_DATA) and _shows_apps(context):
            contents = await context.lifespan_context.board.contents(params.uri, run_scan)
            return ReadResourceResult.model_validate({"contents": contents})
        return await read_resource(_reader(context), params.uri)


async def _subscribe(context: Context, params: SubscribeRequestParams) -> EmptyResult:
    state, caller = context.lifespan_context, caller_of(context)
    # From here on the connection has a session, which ends, with its subscriptions, once it is idle.
    with _protocol_errors():
        state.registry.reader_for(caller, None)
    state.subscriptions.subscribe(caller.connection, context.session, params.uri)
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
    with _protocol_errors():
        return CompleteResult(completion=await complete(_reader(context), params.argument, params.context))


def _shows_apps(context: Context) -> bool:
    capabilities = context.session.client_capabilities
    return capabilities is not None and shows_apps(capabilities.extensions)


def _reader(context: Context) -> Session:
    return context.lifespan_context.registry.read_only


@contextmanager
def _protocol_errors() -> Iterator[None]:
    """Turn errors of the request or the store into errors of the protocol, for methods that have no result for them."""
    try:
        yield
    except InvalidInputError as error:
        raise MCPError(INVALID_PARAMS, one_line(str(error))) from error
    except ClaimsError as error:
        raise MCPError(INTERNAL_ERROR, one_line(str(error))) from error
