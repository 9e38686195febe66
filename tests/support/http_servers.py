"""Real servers over HTTP, and clients of both kinds of protocol with and without tokens."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.support.servers import PYTHON_ENVIRONMENT

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
def http_server(directory: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[HttpServer]:
    """Start `mcp-claims serve --http` on a free port; it is killed at the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_claims", "serve", "--http", "--port", "0", "--dir", str(directory), *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=PYTHON_ENVIRONMENT | (env or {}),
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        output = re.search(r"serving (http://\S+)", line)
        assert output, line + process.stderr.read()
        yield HttpServer(process, output.group(1))
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


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
