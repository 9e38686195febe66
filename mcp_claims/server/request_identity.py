"""Who sent a request, by its transport, its credentials and its client."""

from __future__ import annotations

from functools import partial
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request

from mcp_claims.model.text import one_line
from mcp_claims.server.registry import Caller

SESSION_HEADER = "Mcp-Claims-Session"
"""The header in which a host names its session; it counts only with a bearer token, and for that token alone."""

# The end of an id: Codex makes UUIDs of version 7, which begin with the time, so that sessions of one day begin alike.
_SHOWN = 8
# Codex sends its thread and its session in each request, under these names.  Claude Code has its session in the
# environment of the server alone, where it is wrong after `/clear`: the server goes on, and its environment is the old one.
_SESSION_IN_META = ("threadId", "sessionId")


def caller_of(context: ServerRequestContext[Any]) -> Caller:
    """Return who sent the request of *context*."""
    request = context.request
    if not isinstance(request, Request):
        return Caller(client=partial(_client, context))
    user = request.scope.get("user")
    principal = user.access_token.client_id if isinstance(user, AuthenticatedUser) else None
    connection = None
    # The SDK has checked the id in every request of these versions.  In a later version the header means nothing, and
    # a client could send that of another.
    if context.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
        connection = request.headers.get(MCP_SESSION_ID_HEADER)
    # A proxy joins headers of one name like this, too.  An empty one is not absent: its host has not filled in the name.
    names = request.headers.getlist(SESSION_HEADER)
    named = ", ".join(names) if names else None
    return Caller(connection, principal, partial(_client, context), named)


def _client(context: ServerRequestContext[Any]) -> str | None:
    """Return the client's name and version and its host's session, for people who read claims.

    The session is a label, never an identity: a client could send that of another.
    """
    params = context.session.client_params
    name = f"{params.client_info.name} {params.client_info.version}" if params else None
    meta: dict[str, Any] = dict(context.meta or {})
    session = next((meta[field] for field in _SESSION_IN_META if isinstance(meta.get(field), str)), "")
    label = ("…" if len(session) > _SHOWN else "") + one_line(session[-_SHOWN:])
    return ", ".join(part for part in (name, label and f"session {label}") if part) or None
