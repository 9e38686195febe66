"""The board at `/` of a server over HTTP, under its token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from math import inf

import anyio
import anyio.to_thread
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mcp_claims.board.live import Board
from mcp_claims.board.past import past_of
from mcp_claims.board.site import MAX_BODY_BYTES, Gate, Request, Site
from mcp_claims.liveness import local_machine
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.identity import person_session

_MAX_STREAMS = 64
"""Pages that can look at a time; each blocks a thread while nothing changes."""

_answering, _streaming = anyio.CapacityLimiter(8), anyio.CapacityLimiter(inf)


class HttpBoard:
    """An ASGI application with what the board's page asks for; *where* names the store."""

    def __init__(self, registry: Callable[[], SessionRegistry], gate: Gate, *, where: str) -> None:
        self._registry, self._gate, self._where = registry, gate, where
        self._site: Site | None = None
        self._streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = HttpRequest(scope, receive)
        body = b""
        async for part in http.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                await HttpResponse(status_code=413)(scope, receive, send)
                return
        request = Request(http.method, http.url.path, dict(http.headers), body)
        if self._site is None:
            self._site = self._open()
        # A release takes as long as the store does.
        response = await anyio.to_thread.run_sync(self._site.respond, request, limiter=_answering)
        headers = response.all_headers()
        if isinstance(response.body, bytes):
            await HttpResponse(response.body, response.status, headers)(scope, receive, send)
        elif self._streams >= _MAX_STREAMS:
            await HttpResponse(b'{"problem":"Too many look at the board."}', 503, headers)(scope, receive, send)
        else:
            self._streams += 1
            try:
                await StreamingResponse(_parts(response.body), response.status, headers)(scope, receive, send)
            finally:
                self._streams -= 1

    def _open(self) -> Site:
        registry, machine = self._registry(), local_machine()
        store = registry.store
        board = Board(store, registry.read_only, machine, where=self._where, past=past_of(store))
        return Site(board, person_session(store, machine), self._gate)


async def _parts(body: Iterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        # Abandoned when the page has gone: the thread ends with the next heartbeat.
        part = await anyio.to_thread.run_sync(next, body, None, abandon_on_cancel=True, limiter=_streaming)
        if part is None:
            return
        yield part
