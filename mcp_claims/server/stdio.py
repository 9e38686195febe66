"""Serves one client over stdin and stdout with the SDK's server.

Where stdin and stdout allow it, the quick stage (`quick`) comes first, and this server takes over from it.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from types import TracebackType
from typing import NoReturn, Self, cast

import anyio
from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from mcp_claims.server import plain
from mcp_claims.server.app import build_server
from mcp_claims.server.log import logger
from mcp_claims.server.pipes import HostPipes, Lines, Output
from mcp_claims.server.quick import QuickStage
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.server.stop import LONGEST_SILENCE, STOPS, leave, stop
from mcp_claims.session.acquire import stop_waits

_MAX_OPEN = 1_024
_UNDO_INTERVAL = 0.01  # s
_LISTEN = "subscriptions/listen"  # Answered only when the client closes it.


def serve_stdio(registry: SessionRegistry, pipes: HostPipes | None, stage: QuickStage | None) -> NoReturn:
    """Serve until the client goes or a signal arrives; then release what the sessions hold, and exit.

    *pipes* are those of the host, `None` if the SDK has to read stdin in a thread; *stage* is the quick stage that has
    served the host so far, `None` if there was none.
    """
    try:
        anyio.run(_serve, registry, pipes, stage)
    except Exception:
        logger.exception("serving failed")
        leave(1)
    leave(0)


async def _serve(registry: SessionRegistry, pipes: HostPipes | None, stage: QuickStage | None) -> None:
    _stop_on_signals(registry)
    server = build_server(lambda: registry)
    streams = (None, None) if pipes is None else as_files(pipes)
    async with anyio.create_task_group() as ending:
        async with stdio_server(*streams) as (reading, writing), anyio.create_task_group() as tasks:
            if streams[1] is not None:
                tasks.start_soon(streams[1].flush)  # What the quick stage could not write.
            try:
                requests = _OpenRequests()
                answers = _Answers(writing, requests, stage)
                messages = _Messages(reading, answers, requests, registry, stage)
                async with _continued_calls(stage, requests, answers):
                    await server.run(messages, answers, server.create_initialization_options())
                if pipes is not None:
                    ending.start_soon(_leave_when_silent, pipes.output)
            except anyio.get_cancelled_exc_class():
                # Writing failed, so the client has gone, although it may have left stdin open.  The end of
                # `server.run` has closed the sessions.
                leave(0)
        ending.cancel_scope.cancel()


async def _leave_when_silent(output: Output) -> None:
    """End the process once the host has read nothing of *output* for `LONGEST_SILENCE`."""
    left = output.size + 1
    while output.size < left:
        left = output.size
        await anyio.sleep(LONGEST_SILENCE)
    leave(0)


@asynccontextmanager
async def _continued_calls(stage: QuickStage | None, requests: _OpenRequests, answers: _Answers) -> AsyncIterator[None]:
    """Continue the calls that *stage* began, during the block, and send their answers."""
    if stage is None:
        yield
        return
    loop, calls = asyncio.get_running_loop(), stage.calls
    for call in calls.open:
        if call.request_id is not None and not call.cancelled:
            requests.add(call.request_id)
    sending, sent = anyio.create_memory_object_stream[JSONRPCMessage](math.inf)
    stage.hand_over(
        lambda message: sending.send_nowait(jsonrpc_message_adapter.validate_python(message)),
        lambda: cast("None", loop.call_soon_threadsafe(calls.run_posted)),
    )

    async def send() -> None:
        async for message in sent:
            await answers.send(SessionMessage(message))

    async with anyio.create_task_group() as tasks, sending, sent:
        tasks.start_soon(send)
        yield
        # What was granted to a call that is cancelled must not stay held by a session that outlives the process.
        with anyio.move_on_after(LONGEST_SILENCE):
            while any(call.cancelled for call in calls.open):
                await anyio.sleep(_UNDO_INTERVAL)
        tasks.cancel_scope.cancel()


class _AsyncLines:
    """The lines of *lines* as text, for an event loop."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while (line := self._lines.next()) is None:
            if not self._lines.always_ready:
                await anyio.wait_readable(self._lines.fd)
            if not self._lines.read():
                raise StopAsyncIteration
        return line.decode(errors="replace")


class _AsyncOutput:
    """Writes to *output*; while the host does not read, `flush` waits and the event loop goes on."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._flushing = anyio.Lock()

    async def write(self, text: str) -> None:
        self._output.put(text.encode())

    async def flush(self) -> None:
        """Pass everything to the kernel.  Several tasks may call it, although only one may wait for a descriptor."""
        self._output.write()
        if self._output.size:
            async with self._flushing:
                while self._output.size:
                    await anyio.wait_writable(self._output.fd)
                    self._output.write()


def as_files(pipes: HostPipes) -> tuple[anyio.AsyncFile[str], anyio.AsyncFile[str]]:
    """Return *pipes* as what the SDK's `stdio_server` reads and writes."""
    # The declared type of the parameters of `stdio_server`, which uses only the methods that are defined above.
    return cast("anyio.AsyncFile[str]", _AsyncLines(pipes.lines)), cast(
        "anyio.AsyncFile[str]", _AsyncOutput(pipes.output)
    )


class _OpenRequests:
    """The requests that were read and are not answered yet."""

    def __init__(self) -> None:
        self._ids: Counter[RequestId] = Counter()
        self._changed = anyio.Event()

    def add(self, request_id: RequestId) -> None:
        """Record a request that the quick stage has read."""
        self._ids[request_id] += 1

    def record_read(self, message: object) -> None:
        """Record *message* from the client: a request is open until its answer, or until the client cancels it."""
        if isinstance(message, JSONRPCRequest) and message.method != _LISTEN:
            self.add(message.id)
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._close((message.params or {}).get("requestId"))

    def record_written(self, message: object) -> None:
        """Record *message* to the client."""
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._close(message.id)

    async def room(self) -> None:
        """Wait while `_MAX_OPEN` requests are open: a client that reads no answers must not fill our memory."""
        while self._ids.total() >= _MAX_OPEN:
            await self._changed.wait()

    async def drain(self) -> None:
        """Wait until every open request is answered; give up after `LONGEST_SILENCE` without an answer."""
        while self._ids:
            with anyio.move_on_after(LONGEST_SILENCE) as silence:
                await self._changed.wait()
            if silence.cancelled_caught:
                return

    def _close(self, request_id: object) -> None:
        if isinstance(request_id, str | int) and request_id in self._ids:
            self._ids[request_id] -= 1
            self._ids += Counter()  # Drops what has come to zero.
            self._changed.set()
            self._changed = anyio.Event()


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
    """Sends messages to *writing*, except those that the quick *stage* has sent to the client before."""

    def __init__(self, writing: WriteStream[SessionMessage], requests: _OpenRequests, stage: QuickStage | None) -> None:
        super().__init__(writing)
        self._writing, self._requests = writing, requests
        self._acknowledged = set() if stage is None else set(stage.listens)

    async def send(self, item: SessionMessage, /) -> None:
        if not self._was_sent(item.message):
            await self._writing.send(item)
        self._requests.record_written(item.message)

    def _was_sent(self, message: JSONRPCMessage) -> bool:
        if isinstance(message, JSONRPCResponse):
            return message.id == plain.HANDSHAKE_ID
        if isinstance(message, JSONRPCNotification) and message.method == plain.ACKNOWLEDGED and self._acknowledged:
            key = plain.canonical_id((message.params or {})["_meta"][plain.SUBSCRIPTION])
            if key in self._acknowledged:
                self._acknowledged.remove(key)
                return True
        return False


class _Messages(_Stream):
    """The messages of *reading*; a line that is no message is answered with an error.

    The SDK drops such a line without an answer, and the host waits until its time-out.  At the end of the input the SDK
    drops the requests in progress, so the end is passed on only when they are answered.
    """

    def __init__(
        self,
        reading: ReadStream[SessionMessage | Exception],
        answers: _Answers,
        requests: _OpenRequests,
        registry: SessionRegistry,
        stage: QuickStage | None,
    ) -> None:
        super().__init__(reading)
        self._reading, self._answers, self._requests, self._registry = reading, answers, requests, registry
        self._stage = stage

    @property
    def last_context(self) -> Context | None:
        """The context of the last message, as the SDK's own streams have it."""
        return getattr(self._reading, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        while True:
            await self._requests.room()
            try:
                item = await self._reading.receive()
            except anyio.EndOfStream:
                self._registry.input_ended = True
                stop_waits()
                await self._requests.drain()
                raise
            if not isinstance(item, Exception):
                self._requests.record_read(item.message)
                self._cancel(item.message)
                return item
            for error in _errors_for(item):
                await self._answers.send(SessionMessage(error))

    def _cancel(self, message: JSONRPCMessage) -> None:
        """If *message* cancels a call that the quick stage began, cancel it."""
        if self._stage is None or not isinstance(message, JSONRPCNotification):
            return
        request_id = (message.params or {}).get("requestId")
        if message.method == "notifications/cancelled" and plain.is_id(request_id):
            self._stage.calls.cancel(request_id)

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


def _stop_on_signals(registry: SessionRegistry) -> None:
    for number in STOPS:
        if sys.platform == "win32":
            # No event loop handles signals there; Python runs this between two steps of the loop.
            signal.signal(number, lambda *_: stop(registry))
        else:
            asyncio.get_running_loop().add_signal_handler(number, stop, registry)
