"""Servers started as a host starts them, and a client over stdio that costs next to nothing itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

OURS = ("-m", "mcp_claims", "serve", "--dir")
FLOOR = ("-m", "benchmarks.floor_server")
FLOOR_HTTP = ("-m", "benchmarks.floor_http_server")
SDK = ("-m", "benchmarks.sdk_server")
SDK_IS = "the server of the SDK's README"
ROOT = Path(__file__).parents[1]
# Installed packages have byte code.  With this variable set, ours would be compiled at each start, and the SDK not.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}


def message(method: str, params: dict[str, Any] | None = None, request_id: int | None = None) -> bytes:
    """Return one line of JSON-RPC: a request, or a notification if it has no *request_id*."""
    fields: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if request_id is not None:
        fields["id"] = request_id
    if params is not None:
        fields["params"] = params
    return json.dumps(fields).encode() + b"\n"


def tool_call(tool: str, arguments: dict[str, Any], request_id: int) -> bytes:
    """Return a call of *tool* as one line of JSON-RPC."""
    return message("tools/call", {"name": tool, "arguments": arguments}, request_id)


class StdioClient:
    """A client of a server process; each call waits for the answer."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self._to_server: IO[bytes] = process.stdin
        self._from_server: IO[bytes] = process.stdout
        self._last_id = 0

    def initialize(self) -> None:
        """Make the handshake of protocol version 2025-06-18."""
        self._to_server.write(message("initialize", INITIALIZE, 0) + message("notifications/initialized"))
        self._to_server.flush()
        self._from_server.readline()

    def begin(self, tool: str, **arguments: Any) -> None:
        """Send the handshake and a call in one go, whose answers are two messages."""
        handshake = message("initialize", INITIALIZE, 0) + message("notifications/initialized")
        self._to_server.write(handshake + tool_call(tool, arguments, 1))
        self._to_server.flush()

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call *tool* and return the result."""
        self.send(tool, **arguments)
        return self.receive()[1]

    def send(self, tool: str, **arguments: Any) -> int:
        """Send a call and return its id, without waiting for the answer."""
        return self._send("tools/call", {"name": tool, "arguments": arguments})

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send any request and return the result."""
        self._send(method, params)
        return self.receive()[1]

    def receive(self) -> tuple[int, dict[str, Any]]:
        """Return the id and the result of the next answer; raises `RuntimeError` if it is an error."""
        answer = self.receive_message()
        result = answer.get("result")
        if result is None or result.get("isError"):
            raise RuntimeError(f"the server answered {answer!r}")
        return answer["id"], result

    def receive_message(self) -> dict[str, Any]:
        """Return the next message, an answer or a notification."""
        received: dict[str, Any] = json.loads(self._from_server.readline())
        return received

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._last_id += 1
        self._to_server.write(message(method, params, self._last_id))
        self._to_server.flush()
        return self._last_id


@contextmanager
def client_of(
    *arguments: str | Path, program: str | Path = sys.executable, variables: Mapping[str, str] | None = None
) -> Iterator[StdioClient]:
    """Start *program* with *arguments*, a server on stdio, and *variables* in its environment; kill it at the end."""
    with subprocess.Popen(
        [str(program), *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT | dict(variables or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Other servers print a greeting there; ours print only errors.
        stderr=None if program == sys.executable else subprocess.DEVNULL,
    ) as process:
        try:
            yield StdioClient(process)
        finally:
            process.kill()
