"""Serving one client over stdin and stdout, from the first message to a quick and orderly end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections import Counter
from contextvars import Context
from types import TracebackType
from typing import NoReturn, Self

import anyio
from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from pydantic import ValidationError

from mcp_claims.liveness import local_machine
from mcp_claims.server.app import build_server
from mcp_claims.server.pipes import host_pipes
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.offload import stop_waits

_LONGEST_SILENCE = 1.0
"""Seconds without an answer after which the end of the input ends calls that are still in progress: what they wait for,
such as a lock that a stopped process holds, must not delay the end."""

_HOST_INTERVAL = 1.0
"""Seconds between two looks whether the host still lives, where the system does not report its end."""

_LISTEN = "subscriptions/listen"  # Answered only when the client closes it.

_STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]

logger = logging.getLogger(__name__)


def serve_stdio(registry: SessionRegistry) -> NoReturn:
    """Serve until the client goes or a signal arrives; then release what the sessions hold, and exit.

    The process ends by `os._exit`.  Where stdin is not a pipe, a worker thread of the SDK may be blocked in reading
    it.  Hosts leave stdin open when they send SIGINT, so an orderly exit of the interpreter would wait for that thread
    until the host's SIGKILL.
    """
    try:
        anyio.run(_serve, registry)
    except Exception:
        logger.exception("serving failed")
        _exit(1)
    _exit(0)


async def _serve(registry: SessionRegistry) -> None:
    _stop_on_signals(registry)
    server = build_server(lambda: registry)
    stdin = os.dup(0)
    async with stdio_server(*host_pipes()) as (reading, writing), anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_with_host, registry, stdin)
        try:
            requests = _OpenRequests()
            answers = _Answers(writing, requests)
            messages = _Messages(reading, answers, requests, registry)
            await server.run(messages, answers, server.create_initialization_options())
            tasks.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            # Writing failed, so the client has gone, although it may have left stdin open.  The sessions have ended on
            # the way here.
            _exit(0)


class _OpenRequests:
    """The requests that have been read and not been answered yet."""

    def __init__(self) -> None:
        self._ids: Counter[RequestId] = Counter()
        self._changed = anyio.Event()

    def read(self, message: object) -> None:
        """Record *message* from the client: a request is open until its answer, or until the client cancels it."""
        if isinstance(message, JSONRPCRequest) and message.method != _LISTEN:
            self._ids[message.id] += 1
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._close((message.params or {}).get("requestId"))

    def wrote(self, message: object) -> None:
        """Record *message* to the client."""
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._close(message.id)

    async def drain(self) -> None:
        """Wait until every open request is answered; give up after `_LONGEST_SILENCE` without an answer."""
        while self._ids:
            self._changed = anyio.Event()
            with anyio.move_on_after(_LONGEST_SILENCE) as silence:
                await self._changed.wait()
            if silence.cancelled_caught:
                return

    def _close(self, request_id: object) -> None:
        if isinstance(request_id, str | int) and request_id in self._ids:
            self._ids[request_id] -= 1
            self._ids += Counter()  # Drops what has come to zero.
            self._changed.set()


class _Stream:
    """What the SDK's streams have beside `receive` and `send`."""

    def __init__(self, stream: ReadStream[SessionMessage | Exception] | WriteStream[SessionMessage]) -> None:
        self._stream = stream

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Answers(_Stream):
    """The messages to *writing*."""

    def __init__(self, writing: WriteStream[SessionMessage], requests: _OpenRequests) -> None:
        super().__init__(writing)
        self._writing, self._requests = writing, requests

    async def send(self, item: SessionMessage, /) -> None:
        await self._writing.send(item)
        self._requests.wrote(item.message)


class _Messages(_Stream):
    """The messages of *reading*; a line that is none is answered with an error instead.

    The SDK drops such a line without a word, and a host that waits for the answer waits until its time-out.  At the end
    of the input the SDK drops the requests in progress, so the end is passed on only when they are answered.
    """

    def __init__(
        self,
        reading: ReadStream[SessionMessage | Exception],
        answers: _Answers,
        requests: _OpenRequests,
        registry: SessionRegistry,
    ) -> None:
        super().__init__(reading)
        self._reading, self._answers, self._requests, self._registry = reading, answers, requests, registry

    @property
    def last_context(self) -> Context | None:
        """The context of the last message, as the SDK's own streams have it."""
        return getattr(self._reading, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        while True:
            try:
                item = await self._reading.receive()
            except anyio.EndOfStream:
                self._registry.input_ended = True
                stop_waits()
                await self._requests.drain()
                raise
            if not isinstance(item, Exception):
                self._requests.read(item.message)
                return item
            for error in _errors_for(item):
                await self._answers.send(SessionMessage(error))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


def _errors_for(problem: Exception) -> list[JSONRPCError]:
    """Return an error for each request in a line that is no message; one without an id if none can be found."""
    found = (
        [each["input"] for each in problem.errors(include_url=False)] if isinstance(problem, ValidationError) else []
    )
    line = next((each for each in found if isinstance(each, dict)), found[0] if found else None)
    code, reason = INVALID_REQUEST, "not a JSON-RPC message"
    if isinstance(line, str):
        if not line.strip():
            return []
        try:
            line = json.loads(line)
            reason = "not valid Unicode"  # Python reads it and the SDK does not: half of a surrogate pair.
        except (ValueError, RecursionError):  # The latter if it is nested too deeply.
            code, reason = PARSE_ERROR, "not JSON"
    if isinstance(line, list):
        reason = "batches are not supported; send one message a line"
    requests = [each for each in (line if isinstance(line, list) else [line]) if isinstance(each, dict)]
    ids = [each["id"] for each in requests if _can_be_answered(each.get("id"))]
    data = ErrorData(code=code, message=reason)
    return [JSONRPCError(jsonrpc="2.0", id=each, error=data) for each in ids or [None]]


def _can_be_answered(request_id: object) -> bool:
    # An id that cannot be sent back would end the connection: true is no number, half of a surrogate pair no text.
    if isinstance(request_id, str):
        return request_id == request_id.encode(errors="replace").decode()
    return isinstance(request_id, int) and not isinstance(request_id, bool)


async def _stop_with_host(registry: SessionRegistry, stdin: int) -> None:
    """Stop once the host has died: a child of it may keep our input open, so that its end never comes.

    The host is whoever has the other end of *stdin*, which this closes.  A wrapper in between, such as `uv run`, may die
    before it.
    """
    machine = local_machine()
    try:
        hosts = await anyio.to_thread.run_sync(machine.peers, stdin)
    finally:
        os.close(stdin)
    if not hosts:
        return
    for host in hosts:
        watched = machine.watch_exit(host)
        if watched is not None:
            try:
                if not machine.provably_dead(host):
                    await anyio.wait_readable(watched)
            finally:
                watched.close()
        while not machine.provably_dead(host):
            await anyio.sleep(_HOST_INTERVAL)
    logger.warning("the host has died, and something else keeps its pipe open; the server ends")
    _stop(registry)


def _stop_on_signals(registry: SessionRegistry) -> None:
    for number in _STOPS:
        if sys.platform == "win32":
            # No event loop handles signals there; Python runs this between two steps of the loop.
            signal.signal(number, lambda *_: _stop(registry))
        else:
            asyncio.get_running_loop().add_signal_handler(number, _stop, registry)


def _stop(registry: SessionRegistry) -> NoReturn:
    try:
        registry.close(dying=True)
    except Exception:
        # A defect must not leave a server that no signal can stop: while it lives, so do its claims.
        logger.exception("ending the sessions failed")
        _exit(1)
    _exit(0)


def _exit(code: int) -> NoReturn:
    sys.stderr.flush()
    os._exit(code)
