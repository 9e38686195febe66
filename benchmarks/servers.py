"""Servers as a host starts them, and a client on stdio that costs next to nothing itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

OURS = ("-m", "mcp_claims", "serve", "--dir")
WITH_NOOP = ("-m", "benchmarks.noop", "serve", "--dir")
MINIMAL = ("-m", "benchmarks.minimal")
ROOT = Path(__file__).parents[1]
# An installed package has its byte code.  Where none may be written, ours would be compiled anew at each start, and
# that of the SDK, which was installed, would not.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

_HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}


def line(method: str, params: dict[str, Any] | None = None, number: int | None = None) -> bytes:
    """Spell one message of a client, a notice if it has no *number*."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if number is not None:
        message["id"] = number
    if params is not None:
        message["params"] = params
    return json.dumps(message).encode() + b"\n"


def call_line(tool: str, arguments: dict[str, Any], number: int) -> bytes:
    """Spell a call of *tool*."""
    return line("tools/call", {"name": tool, "arguments": arguments}, number)


GREETING = line("initialize", _HELLO, 0) + line("notifications/initialized")


class Peer:
    """A server process and its pipes, greeted as hosts do."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self._to: IO[bytes] = process.stdin
        self._from: IO[bytes] = process.stdout
        self._last = 0

    def greet(self) -> None:
        """Shake hands, as clients of all versions but the newest do."""
        self._to.write(GREETING)
        self._to.flush()
        self._from.readline()

    def send(self, tool: str, arguments: dict[str, Any]) -> None:
        """Send a call; nothing is read."""
        self._last += 1
        self._to.write(call_line(tool, arguments, self._last))
        self._to.flush()

    def receive(self) -> bytes:
        """Read the answer, which has to be one and no error."""
        answer = self._from.readline()
        if b'"result"' not in answer or b'"isError":true' in answer:
            raise RuntimeError(f"the server answered {answer!r}")
        return answer

    def request(self, method: str, params: dict[str, Any]) -> bytes:
        """Send any request and return the answer as it is on the wire."""
        self._last += 1
        self._to.write(line(method, params, self._last))
        self._to.flush()
        return self.receive()

    def receive_any(self) -> bytes:
        """Read what the server says next, be it an answer or a notice."""
        return self._from.readline()

    def call(self, tool: str, **arguments: Any) -> bytes:
        """Call *tool* and return the answer as it is on the wire."""
        self.send(tool, arguments)
        return self.receive()


@contextmanager
def peer(*arguments: str | Path, program: str | Path = sys.executable) -> Iterator[Peer]:
    """Start *program* with *arguments*, a server on stdio; it has ended when this has."""
    with subprocess.Popen(
        [str(program), *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # What servers of others say of themselves there; ours say nothing unless something is wrong.
        stderr=None if program == sys.executable else subprocess.DEVNULL,
    ) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()
