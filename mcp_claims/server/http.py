"""Serving many clients over Streamable HTTP, of both protocol eras.

Who is on the other end is never taken from what anybody could send: a session id counts where the SDK has checked it,
a handle where its signature fits, a caller where a token does.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache

import anyio
import uvicorn
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_claims.errors import ClaimsError, InvalidInputError
from mcp_claims.server.app import build_server
from mcp_claims.server.auth import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE, Tokens, read_tokens
from mcp_claims.server.registry import DEFAULT_IDLE, SessionRegistry
from mcp_claims.session.offload import read_off_loop
from mcp_claims.stores.config import open_store

MAX_BODY_BYTES = 256 * 1024
"""A call with the longest key, namespace, note and handle has under 16 kB."""

_STOP_WAIT = 2  # s, for requests that are being answered when the server is asked to stop
_SESSION_ID = MCP_SESSION_ID_HEADER.encode()
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class HttpSettings:
    """Where to listen and whom to let in; *idle* is the seconds after which a session without requests ends."""

    host: str = "127.0.0.1"
    port: int = 8765
    path: str = "/mcp"
    tokens: Tokens | None = None
    idle: float = DEFAULT_IDLE


def build_app(open_sessions: Callable[[], SessionRegistry], settings: HttpSettings) -> Starlette:
    """Return the ASGI application: the MCP endpoint and `/healthz`.

    Raises `InvalidInputError` for a path that is none and for an address that others can reach without a token.
    """
    if not settings.path.startswith("/") or settings.path in ("/", "/healthz") or set("{}?# ") & set(settings.path):
        raise InvalidInputError("--path", f"must be a path like /mcp, not {settings.path!r}")
    local = _is_loopback(settings.host)
    if not local and settings.tokens is None:
        raise InvalidInputError(
            "--host",
            f"{settings.host} can be reached by others, so set {TOKEN_VARIABLE} or --token-file, or use 127.0.0.1",
        )
    names = (*_LOOPBACK_NAMES, _in_url(settings.host))
    opened: list[SessionRegistry] = []
    logging.getLogger(StreamableHTTPSessionManager.__module__).addFilter(_without_session_ids)

    def open_once() -> SessionRegistry:
        opened[:] = [open_sessions()]
        return opened[0]

    manager = StreamableHTTPSessionManager(
        build_server(open_once),
        # A page in a browser on this machine must not call by way of a name that it has made to mean this machine.
        # Elsewhere a token is asked for, which no page has.
        security_settings=TransportSecuritySettings(
            enable_dns_rebinding_protection=local,
            allowed_hosts=[name + port for name in names for port in ("", ":*")],
            allowed_origins=[f"http://{name}{port}" for name in names for port in ("", ":*")],
        ),
        max_request_body_size=MAX_BODY_BYTES,
        session_idle_timeout=settings.idle,
    )
    endpoint: ASGIApp = ConnectionEnds(StreamableHTTPASGIApp(manager), lambda: opened[0])
    middleware = []
    if settings.tokens is None:
        endpoint = LoopbackOnly(endpoint)
    else:
        endpoint = RequireAuthMiddleware(endpoint, [])
        middleware = [Middleware(AuthenticationMiddleware, backend=BearerAuthBackend(settings.tokens))]

    async def healthz(_: Request) -> Response:
        try:
            await read_off_loop(opened[0].read_only, opened[0].check_store)
        except ClaimsError as error:
            # Anybody may ask, so no paths here; the log of this server has them with the calls that fail.
            return JSONResponse({"status": "failing", "problem": type(error).__name__}, status_code=503)
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    routes = [Route(settings.path, endpoint=endpoint), Route("/healthz", healthz, methods=["GET"])]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


def _without_session_ids(record: logging.LogRecord) -> bool:
    """Take ids of sessions out of the SDK's log: whoever has one, and a token for it, is that session."""
    if isinstance(record.args, tuple):
        record.args = tuple("…" if isinstance(argument, str) else argument for argument in record.args)
    return True


class ConnectionEnds:
    """Tells the sessions which of their connections are busy, and which have been ended by their clients."""

    def __init__(self, app: ASGIApp, sessions: Callable[[], SessionRegistry]) -> None:
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = next(
            (value.decode("latin-1") for header, value in scope["headers"] if header == _SESSION_ID), None
        )
        if connection is None:
            await self._app(scope, receive, send)
            return
        sessions = self._sessions()

        async def end_first(message: Message) -> None:
            # The SDK has checked that the session exists and is this caller's.  Before the client is told: what it held
            # has to be free for whoever hears of the end from it.
            if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
                sessions.end_connection(connection)
                await read_off_loop(sessions.read_only, sessions.release_ended)
            await send(message)

        sessions.entered(connection)
        try:
            await self._app(scope, receive, end_first if scope["method"] == "DELETE" else send)
        finally:
            sessions.left(connection)


class LoopbackOnly:
    """Turns away what came in by another address than loopback: an ASGI server may listen where nobody told us of."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address, port = scope.get("server") or ("", 0)
        # Without a port it is a socket in the file system.
        app = self._app if port is None or _is_loopback(address) else _FORBIDDEN
        await app(scope, receive, send)


_FORBIDDEN = JSONResponse(
    {"error": f"only loopback is served without a token; set {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE}"},
    status_code=403,
)


def create_app() -> Starlette:
    """Return the application as the environment describes it, for an ASGI server that runs several workers.

    MCP_CLAIMS_DIR, MCP_CLAIMS_TOKEN, MCP_CLAIMS_TOKEN_FILE and MCP_CLAIMS_HOST (127.0.0.1) are what `serve --http` has
    as options; the last has to say on which address that server listens.
    """
    store = open_store()
    settings = HttpSettings(host=os.environ.get("MCP_CLAIMS_HOST", "127.0.0.1"), tokens=read_tokens(None))
    return build_app(lambda: SessionRegistry(store, own=None), settings)


def serve_http(open_sessions: Callable[[], SessionRegistry], settings: HttpSettings) -> int:
    """Serve until a signal asks to stop; then end the sessions of this process.  Returns the exit code.

    Raises `InvalidInputError` for settings that cannot be served.
    """
    app = build_app(open_sessions, settings)
    if not 0 <= settings.port <= 65_535:
        raise InvalidInputError("--port", "must be a number from 0 to 65535")
    try:
        listening = socket.create_server(
            (settings.host, settings.port), family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        )
    except OSError as error:
        raise InvalidInputError("--host", f"and --port cannot be listened on ({error}); choose others") from error
    # Inherited by each connection.  asyncio sets it only where a socket names its protocol, which this one does not; an
    # answer, sent as head and body, would wait 40 ms for the client's delayed acknowledgement of the first.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=_STOP_WAIT, ws="none"
    )
    port = listening.getsockname()[1]
    print(f"mcp-claims: serving http://{_in_url(settings.host)}:{port}{settings.path}", file=sys.stderr, flush=True)
    # After an orderly end uvicorn raises the signal anew; a person who pressed Ctrl-C needs no traceback of that.
    with listening, suppress(KeyboardInterrupt):
        server = uvicorn.Server(config)
        anyio.run(server.serve, [listening])
    return 0 if server.started else 1


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# Asked of each request, about the few addresses of this machine.
@lru_cache(maxsize=64)
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
