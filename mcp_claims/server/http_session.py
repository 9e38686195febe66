"""Sessions over Streamable HTTP whose answers are JSON where nothing streams; protocol versions up to 2025-11-25.

The SDK answers all requests of a server as event streams, or all as JSON.  A call that waits needs the stream, for progress
and for the comments that keep proxies from ending the connection; any other is answered as JSON.  A plain call of a tool
does not need the SDK's message loop either, which takes as long as the tool.  Version 2026-07-28 has no sessions, and the
SDK decides there by itself.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, TypeGuard

import anyio
import pydantic_core
from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http import (
    MCP_SESSION_ID_HEADER,
    REQUEST_CANCELLED,
    StreamableHTTPServerTransport,
    check_accept_headers,
)
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mcp_claims.server import plain
from mcp_claims.server.arguments import plain_arguments
from mcp_claims.server.plain import Id, NotPlainError
from mcp_claims.server.registry import SessionRegistry, client_label
from mcp_claims.server.request_identity import http_caller
from mcp_claims.server.tools import TOOLS, Call, call_tool
from mcp_claims.session.offload import Offload

_JSON = "application/json"
_CANCELLED = {"code": REQUEST_CANCELLED, "message": "Request cancelled"}
_MAX_OPEN = 1_000


class HttpSessionManager(StreamableHTTPSessionManager):
    """The sessions of a server: those of the SDK, but for how each request is answered."""

    def __init__(self, app: Server[Any], registry: Callable[[], SessionRegistry], **settings: Any) -> None:
        super().__init__(app, **settings)
        self._registry = registry

    def _admit_session(self, requestor: AuthorizationContext | None) -> StreamableHTTPServerTransport | None:
        admitted = super()._admit_session(requestor)
        if admitted is None or admitted.mcp_session_id is None:
            return None
        session = HttpSession(
            self._registry,
            mcp_session_id=admitted.mcp_session_id,
            security_settings=self.security_settings,
            idle_timeout=self.session_idle_timeout,
        )
        self._server_instances[admitted.mcp_session_id] = session
        return session


class HttpSession(StreamableHTTPServerTransport):
    """One session.

    The SDK gets a unique id for each request that streams, and the client gets its own id back.  The SDK sends an answer to
    the stream of the latest request with that id: a client that numbers every request 1 would get the answer about one key
    as the answer about another, even long after it has given up the first request.
    """

    _numbers = itertools.count()

    def __init__(self, registry: Callable[[], SessionRegistry], **settings: Any) -> None:
        super().__init__(**settings)
        self._registry = registry
        self._client: str | None = None
        # How to cancel the latest request with a client's id: by its scope, or by the id that the SDK has for it.  Bounded,
        # since some requests are never answered.
        self._open: dict[Id, anyio.CancelScope | str] = {}

    async def _handle_post_request(self, scope: Scope, request: Request, receive: Receive, send: Send) -> None:
        message = _parse(await request.body())
        method, params, request_id = message.get("method"), message.get("params") or {}, message.get("id")
        if method == "notifications/cancelled" and isinstance(params, dict):
            await super()._handle_post_request(scope, self._cancel(request, message, params), receive, send)
        elif not (isinstance(method, str) and isinstance(params, dict) and _is_id(request_id)):
            await super()._handle_post_request(scope, request, receive, send)
        elif method == "tools/call" and _may_stream(params):
            await self._answer_in_stream(scope, request, receive, send, message)
        elif method == "tools/call" and (call := self._plain_call(request, message)) is not None:
            answer = await self._run(request_id, params["name"], call)
            body = json.dumps({"jsonrpc": "2.0", "id": request_id, **answer}, separators=(",", ":"))
            headers = {MCP_SESSION_ID_HEADER: self.mcp_session_id or ""}
            await Response(body, headers=headers, media_type=_JSON)(scope, receive, send)
        elif str(request_id) in self._request_streams:
            await self._answer_in_stream(scope, request, receive, send, message)
        else:
            await self._answer_as_json(scope, request, receive, send, message)

    def _cancel(self, request: Request, message: dict[str, Any], params: dict[str, Any]) -> Request:
        """Cancel the plain call that *message* names; return *request*, with the id that the SDK has for any other call."""
        request_id = params.get("requestId")
        found = self._open.get(plain.canonical_id(request_id)) if _is_id(request_id) else None
        if isinstance(found, anyio.CancelScope):
            found.cancel()
        elif found is not None:
            return _with_body(request, message | {"params": params | {"requestId": found}})
        return request

    def _plain_call(self, request: Request, message: dict[str, Any]) -> Call | None:
        """Return the call of a tool in *message*; `None` if it is not plain, so that the SDK decides on it."""
        if not (check_accept_headers(request)[0] and self._check_content_type(request)):
            return None
        try:
            plain.check_request(message)
            plain.check_params(
                message.get("params", {}), {"name": plain.is_text, "arguments": plain.is_object}, {"name"}
            )
        except NotPlainError:
            return None
        params = message["params"]
        tool = TOOLS.get(params["name"])
        arguments = None if tool is None else plain_arguments(tool.arguments, params.get("arguments", {}))
        if arguments is None:
            return None
        client = partial(client_label, self._client, params.get("_meta", {}))
        return Call(self._registry(), http_caller(request, self.mcp_session_id, client), arguments, Offload())

    async def _run(self, request_id: Id, tool: str, call: Call) -> dict[str, Any]:
        """Return the result of *call*, or the error that answers a cancelled request."""
        with anyio.CancelScope() as cancelling:
            self._note_open(request_id, cancelling)
            try:
                answer = await call_tool(tool, call)
            finally:
                self._note_answered(request_id, cancelling)
            return {"result": answer.result()}
        return {"error": _CANCELLED}

    def _note_open(self, request_id: Id, request: anyio.CancelScope | str) -> None:
        self._open[plain.canonical_id(request_id)] = request
        while len(self._open) > _MAX_OPEN:
            del self._open[next(iter(self._open))]

    def _note_answered(self, request_id: Id, request: anyio.CancelScope | str) -> None:
        if self._open.get(plain.canonical_id(request_id)) is request:
            del self._open[plain.canonical_id(request_id)]

    async def _answer_as_json(
        self, scope: Scope, request: Request, receive: Receive, send: Send, message: dict[str, Any]
    ) -> None:
        """Let the SDK answer as JSON; learn from `initialize` who the client is."""
        # A copy: it shares the streams of the session, and differs in this setting alone.
        session = copy(self)
        session.is_json_response_enabled = True
        await StreamableHTTPServerTransport._handle_post_request(session, scope, request, receive, send)
        client = message.get("params", {}).get("clientInfo")
        if message["method"] == "initialize" and isinstance(client, dict) and self._client is None:
            self._client = f"{client.get('name')} {client.get('version')}"

    async def _answer_in_stream(
        self, scope: Scope, request: Request, receive: Receive, send: Send, message: dict[str, Any]
    ) -> None:
        request_id = message["id"]
        sdk_id = f"mcp-claims-{next(self._numbers)}"
        self._note_open(request_id, sdk_id)

        async def restore(sent: Message) -> None:
            if sent["type"] == "http.response.body":
                sent = {**sent, "body": sent.get("body", b"").replace(_member(sdk_id), _member(request_id), 1)}
                if not sent.get("more_body", False):
                    self._note_answered(request_id, sdk_id)
            await send(sent)

        await super()._handle_post_request(scope, _with_body(request, message | {"id": sdk_id}), receive, restore)


def _may_stream(params: dict[str, Any]) -> bool:
    """Return whether a call may take long: it waits, or its client wants to know of its progress."""
    arguments = params.get("arguments")
    waits = isinstance(arguments, dict) and arguments.get("wait_seconds") not in (None, 0, "", "0")
    return waits or progress_token_from_params(params) is not None


def _is_id(value: object) -> TypeGuard[Id]:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object in *body*; an empty one for anything else, which the SDK refuses."""
    try:
        message = pydantic_core.from_json(body)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _with_body(request: Request, message: dict[str, Any]) -> Request:
    body = iter([{"type": "http.request", "body": json.dumps(message).encode()}])

    async def receive() -> Message:
        return next(body, None) or await request.receive()

    return Request(request.scope, receive)


def _member(request_id: object) -> bytes:
    return json.dumps({"id": request_id}, separators=(",", ":"))[1:-1].encode()
