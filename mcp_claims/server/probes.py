"""What an operator's tools ask over HTTP: does the process live, would a claim be granted, who asked for what.

`/livez` answers as long as the event loop runs.  `/readyz` claims a key of its own and releases it, so that it fails whenever
a claim would: on a full disk, a directory that others can write, a cluster without room or majority.  `/healthz` does the same.
A server that has to stop is not ready, and ends its waits: the server in front of it waits for every answer.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from types import FrameType

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_claims.errors import ClaimsError
from mcp_claims.model.text import one_line
from mcp_claims.server.log import logger
from mcp_claims.server.pipes import wait_for
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.acquire import ANSWER_TIMEOUT, stop_waits
from mcp_claims.stores.base import call_before
from mcp_claims.stores.threads import start_daemon_thread

LIVE, READY, HEALTH = "/livez", "/readyz", "/healthz"
ACCESS_LOG_VARIABLE = "MCP_CLAIMS_ACCESS_LOG"

_TIMEOUT = 1.0  # s, after which a server whose store has not answered is not ready
_FRESH = 0.5  # s for which it counts that a claim was granted: anybody may ask, and each probe is a claim
_LONGEST_SHOWN = 200  # characters of a path, of which each takes up to 4 bytes: a pipe with room has it for 4,096
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Probes:
    """The answers about this process; *registry* has its store."""

    def __init__(self, registry: Callable[[], SessionRegistry]) -> None:
        self._registry = registry
        self._draining = self._probing = False
        self._problem: str | None = None
        self._probed = float("-inf")

    @property
    def routes(self) -> list[Route]:
        """The routes to serve."""
        probes = {LIVE: self._live, READY: self._ready, HEALTH: self._ready}
        return [Route(path, endpoint=probe, methods=["GET"]) for path, probe in probes.items()]

    @contextmanager
    def draining_at_signals(self) -> Iterator[None]:
        """In this block, stop being ready and end all waits once a signal asks the process to stop.

        Whoever handles the signal besides, as an ASGI server does, does so all the same.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # Another kind of loop.
            yield
            return
        if current_thread() is not main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def handle(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._drain)
            if callable(handler := before[signal.Signals(number)]):
                handler(number, frame)

        changed = [number for number, handler in before.items() if callable(handler)]
        for number in changed:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number in changed:
                signal.signal(number, before[number])

    def _drain(self) -> None:
        self._draining = True
        stop_waits()

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _: Request) -> Response:
        # Anybody may call this, so the answer has no paths; the log of failing calls has them.
        problem = "Stopping" if self._draining else await self._find_problem()
        if problem is not None:
            return JSONResponse({"status": "failing", "problem": problem}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def _find_problem(self) -> str | None:
        """Return what keeps this process from claiming, `None` if nothing does."""
        if not self._probing and (self._problem is not None or time.monotonic() - self._probed > _FRESH):
            self._probing = True
            try:
                start_daemon_thread(self._probe, "mcp-claims readiness")
            except RuntimeError as error:  # The system has no thread left, and no claim would be granted.
                self._problem, self._probing = type(error).__name__, False
        with anyio.move_on_after(_TIMEOUT):
            pause = 0.001
            while self._probing:
                await anyio.sleep(pause)
                pause = min(2 * pause, 0.05)
        return "NoAnswer" if self._probing else self._problem

    def _probe(self) -> None:
        problem = None
        try:
            call_before(time.monotonic() + ANSWER_TIMEOUT, self._registry().check_claims)
        except ClaimsError as error:
            problem = type(error).__name__
        except Exception as error:
            logger.exception("the probe of the store failed")
            problem = type(error).__name__
        self._problem, self._probed, self._probing = problem, time.monotonic(), False


class AccessLog:
    """Writes a line for each request to stderr, when it has been answered: who, what, how, how long."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            # Behind a proxy, which an ASGI server trusts on this machine, it is whatever the proxy's client says.
            client = _shown((scope.get("client") or ("-", 0))[0]).replace(" ", "_")
            took = (time.monotonic() - began) * 1_000
            line = f"{client} {scope['method']} {_shown(scope['path'])} {status or '-'} {took:.0f} ms"
            if _stderr_has_room():
                # Nobody may have the other end of it any more: the answer has been sent all the same.
                with suppress(OSError):
                    print(f"mcp-claims: {line}", file=sys.stderr, flush=True)


def _shown(text: str) -> str:
    """Return *text* of a client, which anybody may be, as it is written to a log."""
    line = one_line(text[:_LONGEST_SHOWN])
    return line if len(text) <= _LONGEST_SHOWN else f"{line}…"


def _stderr_has_room() -> bool:
    """Return whether a line can be written to stderr at once: where nobody reads it, the server must go on."""
    if sys.platform == "win32":
        return True  # Pipes cannot be polled there.
    try:
        return bool(wait_for(0, writable=sys.stderr.fileno()))
    except (OSError, ValueError):  # It is no file, or closed.
        return True
