"""Who sent a request, by its transport, its credentials and its client."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request

from mcp_claims.server.registry import Caller, client_label, host_ids
from mcp_claims.server.tools import HOST_SESSION_HEADER, SESSION_HEADER


def caller_of(context: ServerRequestContext[Any]) -> Caller:
    """Return who sent the request of *context*."""
    request = context.request
    if not isinstance(request, Request):
        return Caller(client=partial(_client, context), in_host=partial(_host_ids, context))
    connection = None
    # The SDK has checked the id in every request of these versions.  In a later version the header means nothing, and
    # a client could send that of another.
    if context.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
        connection = request.headers.get(MCP_SESSION_ID_HEADER)
    return http_caller(request, connection, partial(_client, context))


def _host_ids(context: ServerRequestContext[Any]) -> tuple[str, str | None] | None:
    return host_ids(dict(context.meta or {}))


def http_caller(request: Request, connection: str | None, client: Callable[[], str | None]) -> Caller:
    """Return who sent *request* in the session *connection*, whose id is checked."""
    user = request.scope.get("user")
    principal = user.access_token.client_id if isinstance(user, AuthenticatedUser) else None
    # A proxy joins headers of one name like this, too.  An empty one is not absent: its host has not filled in the name.
    names = request.headers.getlist(SESSION_HEADER)
    host = request.headers.get(HOST_SESSION_HEADER)
    in_host = (host, None) if host else None
    return Caller(connection, principal, client, ", ".join(names) if names else None, lambda: in_host)


def _client(context: ServerRequestContext[Any]) -> str | None:
    params = context.session.client_params
    name = f"{params.client_info.name} {params.client_info.version}" if params else None
    return client_label(name, dict(context.meta or {}))
