"""`/metrics` of a server over HTTP, under its token: Prometheus' text format, version 0.0.4."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcp_claims.board.site import Gate
from mcp_claims.errors import ClaimsError
from mcp_claims.model import tickets
from mcp_claims.server.metrics import Metrics
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.offload import run_scan

METRICS = "/metrics"
_KIND = "text/plain; version=0.0.4; charset=utf-8"
_KEPT_FOR = 5.0
"""Seconds for which the states are not counted again, since all claims are read for that."""


class HttpMetrics:
    """An ASGI application that answers with *metrics*, and with the states of the claims in the store of *registry*."""

    def __init__(self, metrics: Metrics, registry: Callable[[], SessionRegistry], gate: Gate) -> None:
        self._metrics, self._registry, self._gate = metrics, registry, gate
        self._states: Counter[str] = Counter()
        self._waiting = 0
        self._counted_at = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.method != "GET":
            response = Response(status_code=405)
        elif (refused := self._gate.refuse(request.headers)) is not None:
            assert isinstance(refused.body, bytes)
            response = Response(refused.body, refused.status, refused.all_headers())
        else:
            response = await self._answer()
        await response(scope, receive, send)

    async def _answer(self) -> Response:
        try:
            if time.monotonic() - self._counted_at > _KEPT_FOR:
                await run_scan(self._registry().read_only, self._count)
        except ClaimsError:
            # The counters of errors are worth most while the store does not answer.
            self._states.clear()
        return Response(self._metrics.text(self._states, self._waiting), media_type=_KIND)

    def _count(self) -> None:
        registry = self._registry()
        page = registry.read_only.list_claims(limit=sys.maxsize)
        self._states = Counter(listed.state.value for listed in page.claims)
        waiting = partial(tickets.is_waiting, now=page.now)
        self._waiting = sum(map(waiting, registry.store.tickets(None)))
        self._counted_at = time.monotonic()
