"""Serving many clients over Streamable HTTP, of all protocol versions.

An identity never comes from something that any client could send: a session id counts only if the SDK has checked it, a
handle only if its signature is valid, a caller only if its token is accepted.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import re
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
from mcp.server.transport_security import RequestBodyLimitMiddleware, TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_claims.board.site import PAGE, RELEASE, STREAM, Gate
from mcp_claims.errors import InvalidInputError
from mcp_claims.server.app import build_server
from mcp_claims.server.auth import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE, Tokens, read_tokens
from mcp_claims.server.brief_connections import BriefConnections
from mcp_claims.server.http_board import HttpBoard
from mcp_claims.server.http_metrics import METRICS, HttpMetrics
from mcp_claims.server.http_session import HttpSessionManager
from mcp_claims.server.metrics import Metrics, metered
from mcp_claims.server.probes import ACCESS_LOG_VARIABLE, HEALTH, LIVE, READY, AccessLog, Probes
from mcp_claims.server.registry import DEFAULT_IDLE, SessionRegistry
from mcp_claims.session.offload import run_read
from mcp_claims.stores.config import choose_store, open_store

MAX_BODY_BYTES = 256 * 1024
"""A call with the longest key, namespace, note and handle has under 16 kB."""

_SHUTDOWN_TIMEOUT = 2  # s for requests in progress when the server has to stop
_SESSION_ID = MCP_SESSION_ID_HEADER.encode()
_RESUMED_AFTER = b"last-event-id"
_TAKEN = (PAGE, STREAM, RELEASE, METRICS, LIVE, READY, HEALTH)
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class HttpSettings:
    """Where to listen and whom to admit; *idle* is the seconds after which a session without requests ends.

    *where* names the store, for people; *metrics* are served where they are given.  With *access_log* each request is written
    to stderr.  *tls_cert* and *tls_key* are files: a certificate chain, and its key where that is in a file of its own.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    path: str = "/mcp"
    tokens: Tokens | None = None
    idle: float = DEFAULT_IDLE
    where: str = ""
    metrics: Metrics | None = None
    access_log: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None

    @property
    def scheme(self) -> str:
        """`https` with a certificate, else `http`."""
        return "http" if self.tls_cert is None else "https"


def build_app(open_registry: Callable[[], SessionRegistry], settings: HttpSettings) -> Starlette:
    """Return the ASGI application: the MCP endpoint, `/livez`, `/readyz`, `/healthz`, the board at `/`, and `/metrics`.

    Raises `InvalidInputError` for a malformed path, and for an address that others can reach without a token.
    """
    if not settings.path.startswith("/") or settings.path in _TAKEN or set("{}?# ") & set(settings.path):
        raise InvalidInputError("path", f"must be a path like /mcp, not {settings.path!r}")
    local = _is_loopback(settings.host)
    if not local and settings.tokens is None:
        raise InvalidInputError(
            "host",
            f"{settings.host} can be reached by others, so set {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE}, or use 127.0.0.1",
        )
    names = (*_LOOPBACK_NAMES, _in_url(settings.host))
    opened: list[SessionRegistry] = []
    logging.getLogger(StreamableHTTPSessionManager.__module__).addFilter(_without_session_ids)

    def open_once() -> SessionRegistry:
        opened[:] = [open_registry()]
        return opened[0]

    manager = HttpSessionManager(
        build_server(open_once),
        lambda: opened[0],
        # A web page must not reach the server through a name of its own that it has pointed at this machine.  On other
        # addresses a token is required, which no page has.
        security_settings=TransportSecuritySettings(
            enable_dns_rebinding_protection=local,
            allowed_hosts=[name + port for name in names for port in ("", ":*")],
            allowed_origins=[f"{settings.scheme}://{name}{port}" for name in names for port in ("", ":*")],
        ),
        max_request_body_size=MAX_BODY_BYTES,
        session_idle_timeout=settings.idle,
    )
    endpoint: ASGIApp = RequestBodyLimitMiddleware(StreamableHTTPASGIApp(manager), MAX_BODY_BYTES)
    endpoint = ConnectionTracker(endpoint, lambda: opened[0])
    tokens = settings.tokens
    gate = Gate(
        accepts=None if tokens is None else tokens.accepts,
        is_own=lambda host: not local or _without_port(host) in names,
    )
    board: ASGIApp = HttpBoard(lambda: opened[0], gate, where=settings.where)
    pages = dict.fromkeys((PAGE, STREAM, RELEASE), board)
    if settings.metrics is not None:
        pages[METRICS] = HttpMetrics(settings.metrics, lambda: opened[0], gate)
    middleware = []
    if tokens is None:
        endpoint = LoopbackOnly(endpoint)
        pages = {path: LoopbackOnly(page) for path, page in pages.items()}
    else:
        endpoint = RequireAuthMiddleware(endpoint, [])
        middleware = [Middleware(AuthenticationMiddleware, backend=BearerAuthBackend(tokens))]

    probes = Probes(lambda: opened[0])

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with probes.draining_at_signals():
            async with manager.run():
                yield

    routes = [Route(settings.path, endpoint=endpoint), *probes.routes]
    if settings.access_log:
        middleware.insert(0, Middleware(AccessLog))
    routes += [Route(path, endpoint=page) for path, page in pages.items()]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


def _without_session_ids(record: logging.LogRecord) -> bool:
    """Keep session ids out of the SDK's log: anyone who has one, and a token for it, can act as that session."""
    if isinstance(record.args, tuple):
        record.args = tuple("…" if isinstance(argument, str) else argument for argument in record.args)
    return True


class ConnectionTracker:
    """Notifies the registry of the beginning and end of each request, and of connections that their clients end."""

    def __init__(self, app: ASGIApp, registry: Callable[[], SessionRegistry]) -> None:
        self._app, self._registry = app, registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Host names have no case, but the SDK compares them as they are.  No event has an id here, so there is none to
        # resume after: the protocol allows to ignore the header, while the SDK would start no answer.
        headers = [
            (name, value.lower() if name == b"host" else value)
            for name, value in scope["headers"]
            if name != _RESUMED_AFTER
        ]
        scope = {**scope, "headers": headers}
        connection = next(
            (value.decode("latin-1") for header, value in scope["headers"] if header == _SESSION_ID), None
        )
        if connection is None:
            await self._app(scope, receive, send)
            return
        registry = self._registry()

        async def end_first(message: Message) -> None:
            # The SDK has checked that the session exists and is this caller's.  Release before the answer: once the client
            # knows that its session has ended, the keys must be free.
            if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
                registry.end_connection(connection)
                await run_read(registry.read_only, registry.release_ended)
            await send(message)

        registry.begin_request(connection)
        try:
            await self._app(scope, receive, end_first if scope["method"] == "DELETE" else send)
        finally:
            registry.end_request(connection)


class LoopbackOnly:
    """Refuses requests on any address but loopback: an ASGI server may listen on addresses that we do not know."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address, port = scope.get("server") or ("", 0)
        # Without a port it is a Unix socket.
        app = self._app if port is None or _is_loopback(address) else _FORBIDDEN
        await app(scope, receive, send)


_FORBIDDEN = JSONResponse(
    {"error": f"only loopback is served without a token; set {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE}"},
    status_code=403,
)


def create_app() -> Starlette:
    """Return the application configured by the environment, for an ASGI server that runs several workers.

    MCP_CLAIMS_HOST (127.0.0.1) says on which address that server listens, and MCP_CLAIMS_ACCESS_LOG that each request is
    written to stderr; MCP_CLAIMS_TOKEN, MCP_CLAIMS_TOKEN_FILE and the variables of the store mean what they mean for the
    command line.
    """
    metrics, choice = Metrics(), choose_store()
    store, brief = metered(open_store(), metrics), BriefConnections(choice)
    settings = HttpSettings(
        host=os.environ.get("MCP_CLAIMS_HOST", "127.0.0.1"),
        tokens=read_tokens(None),
        where=choice.url or choice.directory,
        metrics=metrics,
        access_log=bool(os.environ.get(ACCESS_LOG_VARIABLE)),
    )
    return build_app(lambda: SessionRegistry(store, own=None, brief=brief, metrics=metrics), settings)


def serve_http(open_registry: Callable[[], SessionRegistry], settings: HttpSettings) -> int:
    """Serve until a signal arrives; then end the sessions of this process.  Return the exit code.

    Raises `InvalidInputError` for settings that cannot be served.
    """
    app = build_app(open_registry, settings)
    if not 0 <= settings.port <= 65_535:
        raise InvalidInputError("port", "must be a number from 0 to 65535")
    try:
        listening = socket.create_server(
            (settings.host, settings.port), family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            rule = f"{settings.port} is in use on {settings.host}; choose another, or 0 for a free one"
            raise InvalidInputError("port", rule) from error
        rule = f"{settings.host} cannot be listened on, with port {settings.port}: {error.strerror or error}"
        raise InvalidInputError("host", rule) from error
    # Each connection inherits it.  asyncio sets it only where a socket names its protocol, which this one does not; the
    # body of an answer would wait 40 ms for the client's delayed acknowledgement of the head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT,
        ws="none",
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ValueError) as error:  # `ssl.SSLError` is an `OSError`.
        listening.close()
        raise InvalidInputError("tls_cert", f"and its key must be files of a certificate in PEM: {error}") from error
    port = listening.getsockname()[1]
    print(
        f"mcp-claims: serving {settings.scheme}://{_in_url(settings.host)}:{port}{settings.path}",
        file=sys.stderr,
        flush=True,
    )
    # After an orderly end uvicorn raises the signal again; a person who pressed Ctrl-C needs no traceback.
    with listening, suppress(KeyboardInterrupt):
        server = uvicorn.Server(config)
        anyio.run(server.serve, [listening])
    return 0 if server.started else 1


def _without_port(host: str) -> str:
    return re.sub(r":\d+\Z", "", host.lower())


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@lru_cache(maxsize=16)
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
