"""The quick stage of stdio: answers plain messages without the SDK, whose import costs 0.6 s and 40 MiB.

The first message that is not plain ends the stage.  The SDK's server then takes over in the same process, with the same
sessions: the recorded handshake is repeated to it, and the calls in progress continue.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from mcp_claims.errors import ClaimsError
from mcp_claims.model.text import one_line
from mcp_claims.server import plain
from mcp_claims.server.apps import BOARD, BOARD_DATA, TOOL, TOOL_META, shows_apps
from mcp_claims.server.arguments import plain_arguments
from mcp_claims.server.calls import Calls, RunningCall, Step, StepRunner, in_thread
from mcp_claims.server.log import logger
from mcp_claims.server.pipes import HostPipes, make_wake_pipe, wait_for
from mcp_claims.server.plain import Id, Message, NotPlainError
from mcp_claims.server.registry import Caller, SessionRegistry, client_label, host_ids
from mcp_claims.server.resource_list import resource_page
from mcp_claims.server.stop import LONGEST_SILENCE, STOPS, leave, stop
from mcp_claims.server.tools import TOOLS, Call, call_tool
from mcp_claims.session.acquire import STILL_HELD, stop_waits
from mcp_claims.stores.threads import start_daemon_thread

if TYPE_CHECKING:
    from mcp_claims.server.board_app import BoardApp

_HANDSHAKE, _MODERN = "handshake", "modern"
_MAX_UNSENT = 8 * 2**20
"""Bytes of unread answers beyond which no message is read: a host that reads none must not fill our memory."""

_MAX_OPEN = 1_024
"""Calls in progress, beyond which no more are read."""

_MAX_LISTENS = 256
_SHORTEST_PAUSE = 0.05  # s
_NEVER = float("inf")
_INTERNAL_ERROR = -32603  # JSON-RPC's number


T = TypeVar("T")

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # `json.dumps` would make one for each answer.


class QuickStage:
    """Serves the host at *pipes* until it sends a message that is not plain."""

    def __init__(self, registry: SessionRegistry, pipes: HostPipes) -> None:
        self._registry, self._lines, self._output = registry, pipes.lines, pipes.output
        self._fixed = plain.fixed_answers()
        self._protocol: str | None = None
        self._client: Mapping[str, str] | None = None
        self._capabilities: Message = {}
        self._handshake: list[Message] = []
        self._probe: Message | None = None
        """The `server/discover` of a client that has sent no other request yet, so its protocol is not known.

        Claude Code sends `initialize` together with it.  Copilot CLI sends `initialize` when it has waited 10 s for the answer,
        as at a first start by a launcher that installs us, and has no tools if it is refused.
        """
        self.listens: dict[Id, Message] = {}
        """The open `subscriptions/listen` requests, by id.  They ask for notices of changed lists; none ever changes."""
        self._board: BoardApp | None = None
        self._woken, self._wake = make_wake_pipe()
        self.calls = Calls(self._wake_up)
        self.send: Callable[[Message], None] = self._send
        self._stopping = self._maintaining = False
        self._due = 0.0

    def run(self, load: Callable[[], T]) -> T:
        """Serve until a message is not plain, and put it back; return what *load*, which imports the SDK, returns.

        *load* runs in a thread while this loop continues, since it takes longer than some claims live; what it raises is
        raised here.  When the client goes or a signal arrives, the process ends instead.
        """
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in STOPS:
            signal.signal(number, self._note_stop)
        self._registry.on_due = self._maintain_now
        try:
            self._serve_until_not_plain()
            loaded = self._load(load)
        except (BrokenPipeError, ConnectionResetError):
            self._end()  # The client has gone, although it may have left stdin open.
        except OSError:
            # The disk of the file that is our stdout may be full.
            logger.exception("serving failed")
            self._end(1)
        signal.set_wakeup_fd(-1)
        for number in STOPS:
            signal.signal(number, lambda *_: stop(self._registry))
        if self._stopping:
            stop(self._registry)
        for message in reversed([*self._handshake, *self.listens.values()]):
            self._lines.put_back(json.dumps(message).encode())
        return loaded

    def _load(self, load: Callable[[], T]) -> T:
        loaded: list[T | BaseException] = []

        def run() -> None:
            made: T | BaseException
            try:
                made = load()
            except BaseException as error:  # noqa: BLE001 - raised again below
                made = error
            self.calls.post(lambda: loaded.append(made))

        start_daemon_thread(run, "mcp-claims load")
        while not loaded:
            self._output.write()
            self._maintain_if_due()
            wait_for(self._pause(), self._woken.fileno(), writable=self._unsent())
            self._run_posted()
        if isinstance(loaded[0], BaseException):
            raise loaded[0]
        return loaded[0]

    def hand_over(self, send: Callable[[Message], None], wake: Callable[[], None]) -> None:
        """Let calls in progress answer by *send*, from another loop; *wake* makes it call `calls.run_posted` soon."""
        self.send = send
        self.calls.set_wake(wake)
        self.close()

    def close(self) -> None:
        """Close the pipe that wakes the loop of this stage."""
        self._woken.close()
        self._wake.close()

    def _serve_until_not_plain(self) -> None:
        while True:
            while not self._full and (line := self._lines.next()) is not None:
                try:
                    self.serve(line)
                except NotPlainError:
                    if self._probe is not None:
                        if plain.VERSION.encode() in line:
                            self._handshake = [self._probe]
                        elif self._protocol == _MODERN:
                            # The SDK's server would refuse a handshake after the probe, as of a client with an icon.
                            self._handshake = []
                    self._lines.put_back(line)
                    return
            self._output.write()
            if not self.wait():
                self._end_of_input()

    def wait(self) -> bool:
        """Wait for input, a result, a signal or maintenance, and read; return false at the end of the input."""
        self._maintain_if_due()
        # The end of the input must not be seen before the lines in front of it are served.
        reading = [] if self._full or self._lines.waiting else [self._lines.fd]
        pause = 0.0 if self._lines.waiting and not self._full else self._pause()
        ready = wait_for(pause, self._woken.fileno(), *reading, writable=self._unsent())
        self._run_posted()
        return self._lines.fd not in ready or self._lines.read()

    def _end_of_input(self) -> None:
        """Answer what was asked before, undo what was cancelled, and end.

        Give up after a second in which nothing was answered and nothing read.
        """
        self._registry.input_ended = True
        stop_waits()
        moved = time.monotonic()
        while (self.calls.open or self._output.size) and time.monotonic() - moved < LONGEST_SILENCE:
            before = len(self.calls.open), self._output.size
            wait_for(LONGEST_SILENCE, self._woken.fileno(), writable=self._unsent())
            self._run_posted()
            self._output.write()
            if (len(self.calls.open), self._output.size) != before:
                moved = time.monotonic()
        for message in self.listens.values():
            self.send({"jsonrpc": "2.0", "id": message["id"], "error": self._fixed["closed"]})
        self._output.write()
        self._end()

    def _pause(self) -> float | None:
        """Return the seconds until the next maintenance, `None` if none is due."""
        return None if self._due == _NEVER else max(_SHORTEST_PAUSE, self._due - time.monotonic())

    @property
    def _full(self) -> bool:
        return self._output.size >= _MAX_UNSENT or len(self.calls.open) >= _MAX_OPEN

    def _unsent(self) -> int | None:
        return self._output.fd if self._output.size else None

    def _end(self, code: int = 0) -> NoReturn:
        self._registry.close()
        leave(code)

    def _run_posted(self) -> None:
        self._woken.read(4096)
        if self._stopping:
            stop(self._registry)
        self.calls.run_posted()

    def _wake_up(self) -> None:
        self._wake.write(b"!")  # Writes nothing if it is full: the loop wakes up anyway.

    def _note_stop(self, *_: object) -> None:
        # Not stopped here: the main thread may be in the middle of a change.
        self._stopping = True

    def _maintain_now(self) -> None:
        self._due = 0.0

    def _maintain_if_due(self) -> None:
        if time.monotonic() >= self._due and not self._maintaining:
            self._due, self._maintaining = _NEVER, True
            self.calls.run(self._maintain())

    async def _maintain(self) -> None:
        ask_store = self._registry.begin_maintenance()
        try:
            seconds = await in_thread(Step(ask_store)) if self._registry.read_only.remote else ask_store()
        except Exception:
            # A defect in one round must not end all renewals.
            logger.exception("the maintenance of the sessions failed")
            seconds = 1.0
        self._maintaining = False
        self._due = min(self._due, time.monotonic() + max(seconds, _SHORTEST_PAUSE))

    def _send(self, message: Message) -> None:
        self._output.put(_encoder.encode(message).encode() + b"\n")

    def serve(self, line: bytes) -> None:
        """Serve the message on *line*; raise `NotPlainError`, before anything has changed, if it is not plain."""
        message = plain.read_message(line)
        if message is None:
            return
        if "id" not in message:
            self._notification(message)
        elif message["method"] == "initialize":
            self._initialize(message)
        else:
            self._request(message)

    def _notification(self, message: Message) -> None:
        if self._protocol is None:
            raise NotPlainError
        if message["method"] == "notifications/cancelled":
            request_id = message.get("params", {}).get("requestId")
            if not plain.is_id(request_id):
                raise NotPlainError
            if not self.calls.cancel(request_id):
                self.listens.pop(plain.canonical_id(request_id), None)
        elif (
            message["method"] == "notifications/initialized"
            and self._protocol == _HANDSHAKE
            and len(self._handshake) == 1
        ):
            plain.check_params(message.get("params", {}))
            self._handshake.append(message)

    def _initialize(self, message: Message) -> None:
        params = message.get("params", {})
        wanted = params.get("protocolVersion")
        if self._protocol == _MODERN and self._probe is None and isinstance(wanted, str):
            # The error is that of the SDK's server.
            error = self._fixed["initialize after discover"]
            refused = {**error, "data": {**error["data"], "requested": wanted}}
            self.send({"jsonrpc": "2.0", "id": message["id"], "error": refused})
            return
        if self._protocol is not None and (self._probe is None or self._protocol == _HANDSHAKE):
            raise NotPlainError
        plain.check_initialize(params)
        versions: list[str] = self._fixed["versions"][_HANDSHAKE]
        version = wanted if wanted in versions else versions[-1]
        self._protocol, self._client = _HANDSHAKE, params["clientInfo"]
        self._capabilities = params["capabilities"]
        self._handshake = [message | {"id": plain.HANDSHAKE_ID}]
        result = self._fixed[_HANDSHAKE]["initialize"] | {"protocolVersion": version}
        self.send({"jsonrpc": "2.0", "id": message["id"], "result": result})

    def _request(self, message: Message) -> None:
        method, params = message["method"], message.get("params", {})
        meta: dict[str, Any] = params.get("_meta", {})
        if not isinstance(meta, dict):
            raise NotPlainError
        protocol = _HANDSHAKE if plain.VERSION not in meta else _MODERN
        if protocol != (self._protocol or _MODERN):
            if self._probe is None or protocol == _HANDSHAKE:
                raise NotPlainError
            self._protocol, self._handshake = _MODERN, [self._probe]
        client = self._client
        if protocol == _MODERN:
            if meta[plain.VERSION] not in self._fixed["versions"][_MODERN]:
                raise NotPlainError
            plain.check_envelope(meta)
            client = meta.get(plain.CLIENT)
        fixed: dict[str, Any] = self._fixed[protocol]
        capabilities = self._capabilities if protocol == _HANDSHAKE else meta[plain.CAPABILITIES]
        extensions = capabilities.get("extensions")
        if method == "tools/call":
            self._call(message["id"], params, fixed[method], client)
        elif method == "resources/list":
            plain.check_params(params)
            self._list_resources(message["id"], fixed[method])
        elif method == "resources/read" and shows_apps(extensions):
            self._read_board(message["id"], params, fixed[method])
        elif method == "subscriptions/listen" and protocol == _MODERN:
            self._listen(message, params)
        elif method in fixed and method != "resources/read":
            plain.check_params(params)
            result = fixed[method]
            if method == "tools/list" and shows_apps(extensions):
                result = result | {"tools": [_with_board(tool) for tool in result["tools"]]}
            self.send({"jsonrpc": "2.0", "id": message["id"], "result": result})
        else:
            raise NotPlainError
        if self._protocol is None:
            self._protocol = _MODERN
            self._probe = {
                "jsonrpc": "2.0",
                "id": plain.HANDSHAKE_ID,
                "method": "server/discover",
                "params": {"_meta": meta},
            }
            self._handshake.append(self._probe)
        if method != "server/discover":
            self._probe = None

    def _call(self, request_id: Id, params: Message, envelope: Message, client: Mapping[str, str] | None) -> None:
        plain.check_params(params, {"name": plain.is_text, "arguments": plain.is_object}, {"name"})
        tool, meta = TOOLS.get(params["name"]), params.get("_meta", {})
        arguments = None if tool is None else plain_arguments(tool.arguments, params.get("arguments", {}))
        if arguments is None:
            raise NotPlainError
        name = None if client is None else f"{client['name']} {client['version']}"
        token = meta.get("progressToken")
        runner = StepRunner(None if token is None else partial(self._report, plain.canonical_id(request_id), token))
        caller = Caller(client=partial(client_label, name, meta), in_host=partial(host_ids, meta))
        call = Call(self._registry, caller, arguments, runner)

        async def work() -> Message:
            answer = await call_tool(params["name"], call)
            return envelope | answer.result()

        self._start(request_id, work(), runner)

    def _list_resources(self, request_id: Id, envelope: Message) -> None:
        runner = StepRunner(None)

        async def work() -> Message:
            return envelope | await resource_page(self._registry.read_only, runner.scan, None)

        self._start(request_id, work(), runner)

    def _read_board(self, request_id: Id, params: Message, envelope: Message) -> None:
        plain.check_params(params, {"uri": (BOARD, BOARD_DATA).__contains__}, {"uri"})
        if self._board is None:
            from mcp_claims.server.board_app import BoardApp  # Imported here: few hosts ever read it.

            self._board = BoardApp(self._registry)
        runner, board = StepRunner(None), self._board

        async def work() -> Message:
            return envelope | {"contents": await board.contents(params["uri"], runner.scan)}

        self._start(request_id, work(), runner)

    def _listen(self, message: Message, params: Message) -> None:
        plain.check_params(params, {"notifications": plain.is_list_changes}, {"notifications"})
        key = plain.canonical_id(message["id"])
        if len(self.listens) >= _MAX_LISTENS or key in self.listens:
            raise NotPlainError
        self.listens[key] = message
        acknowledged = {"notifications": {}, "_meta": {plain.SUBSCRIPTION: message["id"]}}
        self.send({"jsonrpc": "2.0", "method": plain.ACKNOWLEDGED, "params": acknowledged})

    def _start(self, request_id: Id, work: Coroutine[Step, Any, Message], runner: StepRunner) -> None:
        self.calls.start(RunningCall(request_id, work, partial(self._answer, request_id), runner))

    def _answer(self, request_id: Id, result: Message | ClaimsError | None) -> None:
        answer: Message = {"jsonrpc": "2.0", "id": request_id}
        if isinstance(result, dict):
            answer["result"] = result
        else:
            text = "Internal server error" if result is None else one_line(str(result))
            answer["error"] = {"code": _INTERNAL_ERROR, "message": text}
        self.send(answer)

    def _report(self, key: Id, token: Id, waited: float, seconds: float) -> None:
        params = {"progressToken": token, "progress": waited, "total": seconds, "message": STILL_HELD}
        notice = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
        self.calls.post(lambda: self.send(notice) if key in self.calls.running else None)


def _with_board(tool: Message) -> Message:
    return tool | {"_meta": TOOL_META} if tool["name"] == TOOL else tool
