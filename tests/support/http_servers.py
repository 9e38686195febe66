"""Real servers over HTTP, and clients of both kinds of protocol with and without tokens."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.support.servers import ENVELOPE, PYTHON_ENVIRONMENT, mcp_claims

ProtocolVersion = Literal["legacy", "2026-07-28"]


@dataclass(frozen=True)
class HttpServer:
    """A server process and where it listens."""

    process: subprocess.Popen[str]
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].partition("/")[0])


@contextmanager
def http_server(
    directory: Path | None,
    *arguments: str,
    env: dict[str, str] | None = None,
    constants: Mapping[str, object] | None = None,
) -> Iterator[HttpServer]:
    """Start `mcp-claims serve --http` on a free port; it is killed at the end if it is still there.

    Without a *directory* the store is chosen by *arguments*.

    *constants* are those of `mcp_claims`.
    """
    place = [] if directory is None else ["--dir", str(directory)]
    process = subprocess.Popen(
        [*mcp_claims(constants), "serve", "--http", "--port", "0", *place, *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=PYTHON_ENVIRONMENT | (env or {}),
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        output = re.search(r"serving (https?://\S+)", line)
        assert output, line + process.stderr.read()
        yield HttpServer(process, output.group(1))
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


class RawHttp:
    """A client of the server at *url* whose every request has a connection of its own; *modern* speaks 2026-07-28."""

    def __init__(self, url: str, *, modern: bool) -> None:
        self._url, self._modern = urlsplit(url), modern
        self._headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if modern:
            self._headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call"}
            return
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
        with closing(self.post({"id": 0, "method": "initialize", "params": hello})) as connection:
            self._headers["mcp-session-id"] = connection.getresponse().headers["mcp-session-id"]

    def send(self, tool: str, arguments: dict[str, Any], *, token: int | None = None) -> HTTPConnection:
        """Send a call, of number 1, with a progress *token* by choice; nothing is read."""
        meta = (ENVELOPE if self._modern else {}) | ({} if token is None else {"progressToken": token})
        call = {"name": tool, "arguments": arguments, "_meta": meta}
        return self.post({"id": 1, "method": "tools/call", "params": call}, **{"mcp-name": tool})

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call *tool* and return its structured answer."""
        return structured_in(self.send(tool, arguments))

    def post(self, message: dict[str, Any], **headers: str) -> HTTPConnection:
        """Send *message*; nothing is read."""
        return self._request("POST", json.dumps({"jsonrpc": "2.0", **message}), headers)

    def notify(self, method: str, **params: object) -> None:
        """Send a notification."""
        with closing(self.post({"method": method, "params": params})) as connection:
            assert connection.getresponse().status == 202

    def end(self) -> None:
        """End the session, of a version that has any."""
        with closing(self._request("DELETE", None, {})) as connection:
            assert connection.getresponse().status == 200

    def _request(self, method: str, body: str | None, headers: dict[str, str]) -> HTTPConnection:
        assert self._url.hostname is not None
        connection = HTTPConnection(self._url.hostname, self._url.port, timeout=120)
        connection.request(method, self._url.path, body, self._headers | headers)
        return connection


def structured_in(connection: HTTPConnection) -> dict[str, Any]:
    """Return the structured answer that comes on *connection*, as JSON or as a stream."""
    with closing(connection):
        text = connection.getresponse().read().decode()
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    structured: dict[str, Any] = json.loads(events[-1] if events else text)["result"]["structuredContent"]
    return structured


@contextmanager
def two_workers(directory: Path) -> Iterator[str]:
    """Start an ASGI server with two worker processes behind one port; yields the URL, where they will answer soon."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
    command = ["-m", "uvicorn", "--factory", "mcp_claims.server.http:create_app", "--workers", "2", "--port", port]
    env = PYTHON_ENVIRONMENT | {"MCP_CLAIMS_DIR": str(directory)}
    workers = subprocess.Popen([sys.executable, *command], env=env, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        workers.terminate()
        workers.wait()


@asynccontextmanager
async def http_client(
    url: str, protocol_version: ProtocolVersion, *, token: str | None = None, ends: bool = True, **headers: str
) -> AsyncIterator[Client]:
    """Connect to *url*; `ends=False` leaves without saying so, as a client that dies does.

    Further arguments are headers, with `_` for `-` in their names.
    """
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    async with create_mcp_http_client(headers=headers) as plain:
        transport = streamable_http_client(url, http_client=plain, terminate_on_close=ends)
        async with Client(transport, mode=protocol_version) as client:
            yield client
