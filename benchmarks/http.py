"""Calls per second over HTTP, beside `ping` on the same connections."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks.measure import Effort, Figure
from benchmarks.servers import INITIALIZE, OURS, ROOT, message, tool_call

_SLICE = 0.5  # s
_SLICES = 11


def measure(effort: Effort) -> Iterator[Figure]:
    """Let 1, 16 and 64 clients call as fast as they can: `ping`, and claim and release, alternately."""
    with tempfile.TemporaryDirectory() as directory, _server(Path(directory)) as (host, port, path):
        for clients in sorted({effort.of(count, 1) for count in (1, 16, 64)}):
            yield asyncio.run(_compare(host, port, path, clients, effort))


async def _compare(host: str, port: int, path: str, count: int, effort: Effort) -> Figure:
    clients = [_Client(host, port, path) for _ in range(count)]
    await asyncio.gather(*(client.connect() for client in clients))
    seconds = max(0.1, min(_SLICE, _SLICE * effort.share * 5))
    pings: list[float] = []
    calls: list[float] = []
    for _ in range(effort.of(_SLICES)):
        pings.append(await _rate(clients, seconds, claiming=False))
        calls.append(await _rate(clients, seconds, claiming=True))
    for client in clients:
        client.close()
    what = f"{count} {'client' if count == 1 else 'clients'}: try_claim and release"
    return Figure("http", what, "/s", median(calls), median(pings), "`ping`, same server")


async def _rate(clients: list[_Client], seconds: float, *, claiming: bool) -> float:
    began = time.perf_counter()
    counts = await asyncio.gather(*(client.call_until(began + seconds, claiming=claiming) for client in clients))
    return sum(counts) / (time.perf_counter() - began)


class _Client:
    """One session on one connection; it understands as much of HTTP as the server's answers need."""

    _numbers = itertools.count(1)

    def __init__(self, host: str, port: int, path: str) -> None:
        self._host, self._port, self._path = host, port, path
        self._key = f"key-{next(self._numbers)}"
        self._session = ""

    async def connect(self) -> None:
        """Connect and make the handshake."""
        self._from_server, self._to_server = await asyncio.open_connection(self._host, self._port)
        headers, _ = await self._post(message("initialize", INITIALIZE, 0))
        self._session = f"mcp-session-id: {headers['mcp-session-id']}\r\nmcp-protocol-version: 2025-06-18\r\n"
        await self._post(message("notifications/initialized"))

    def close(self) -> None:
        """Close the connection; the server ends the session."""
        self._to_server.close()

    async def call_until(self, end: float, *, claiming: bool) -> int:
        """Call until *end* of the performance counter; return the number of calls."""
        ping = message("ping", request_id=1)
        claim, release = (tool_call(tool, {"key": self._key}, 1) for tool in ("try_claim", "release"))
        requests = itertools.cycle((claim, release) if claiming else (ping,))
        calls = 0
        while time.perf_counter() < end or (claiming and calls % 2):
            _, body = await self._post(next(requests))
            if b'"result"' not in body or b'"isError":true' in body:
                raise RuntimeError(f"the server answered {body!r}")
            calls += 1
        return calls

    async def _post(self, body: bytes) -> tuple[dict[str, str], bytes]:
        head = (
            f"POST {self._path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: application/json\r\n"
            f"accept: application/json, text/event-stream\r\n{self._session}content-length: {len(body)}\r\n\r\n"
        )
        self._to_server.write(head.encode() + body)
        lines = (await self._from_server.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        if "content-length" in headers:
            return headers, await self._from_server.readexactly(int(headers["content-length"]))
        answer = b""
        while headers.get("transfer-encoding") == "chunked":
            size = int(await self._from_server.readuntil(b"\r\n"), 16)
            answer += (await self._from_server.readexactly(size + 2))[:size]
            if not size:
                break
        return headers, answer


@contextmanager
def _server(directory: Path) -> Iterator[tuple[str, int, str]]:
    """Start our server; yields its host, port and path."""
    command = [sys.executable, *OURS, str(directory), "--http", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = urlsplit(process.stderr.readline().split()[-1])
            assert url.hostname is not None and url.port is not None
            yield url.hostname, url.port, url.path
        finally:
            process.kill()
