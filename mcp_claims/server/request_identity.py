"""Who sent a request, as far as transport, credentials and client say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request

from mcp_claims.server.registry import Caller
from mcp_claims.session.identity import host_session_label, short_label

# What Codex calls its session and its thread in each request.
_SESSION_IN_META = ("threadId", "sessionId")


def caller_of(context: ServerRequestContext[Any]) -> Caller:
    """Tell who sent the request of *context*."""
    request = context.request
    if not isinstance(request, Request):
        return Caller(client=partial(_client, context, host_session_label))
    user = request.scope.get("user")
    principal = user.access_token.client_id if isinstance(user, AuthenticatedUser) else None
    return Caller(_connection(context, request), principal, partial(_client, context, _no_label))


def _connection(context: ServerRequestContext[Any], request: Request) -> str | None:
    # The SDK has checked the id with every request of these versions.  In a later one the header means nothing, and
    # anybody could send anybody's.
    if context.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
        return None
    return request.headers.get(MCP_SESSION_ID_HEADER)


def _client(context: ServerRequestContext[Any], label: Callable[[], str | None]) -> str | None:
    said = context.session.client_params
    name = f"{said.client_info.name} {said.client_info.version}" if said else None
    meta: dict[str, Any] = dict(context.meta or {})
    known = next((meta[field] for field in _SESSION_IN_META if isinstance(meta.get(field), str)), None)
    parts = [name, short_label(known) if known else label()]
    return ", ".join(part for part in parts if part) or None


def _no_label() -> None:
    """Nobody who is served over HTTP was started by the host that started us."""
