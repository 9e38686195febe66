"""Calls per second over HTTP, beside a tool of the same server that does nothing."""

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
from typing import Any
from urllib.parse import urlsplit

from benchmarks.measure import Bar, Effort, Figure
from benchmarks.servers import ROOT, WITH_NOOP, call_line, line

_HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
_SLICE = 0.5  # s
_SLICES = 21


def measure(effort: Effort) -> Iterator[Figure]:
    """Let 1, 16 and 64 clients call as fast as they can: the no-op, and claim and release, in turns."""
    with tempfile.TemporaryDirectory() as directory, _server(Path(directory)) as (host, port, path):
        for clients in (1, 16, 64):
            yield asyncio.run(_compare(host, port, path, effort.of(clients, 1), effort))


async def _compare(host: str, port: int, path: str, count: int, effort: Effort) -> Figure:
    clients = [_Client(host, port, path) for _ in range(count)]
    await asyncio.gather(*(client.connect() for client in clients))
    seconds = max(0.1, min(_SLICE, _SLICE * effort.share * 5))
    noop: list[float] = []
    ours: list[float] = []
    for _ in range(effort.of(_SLICES)):
        noop.append(await _rate(clients, seconds, claiming=False))
        ours.append(await _rate(clients, seconds, claiming=True))
    for client in clients:
        client.close()
    what = f"{count} {'client' if count == 1 else 'clients'}: try_claim and release"
    bar = Bar(0.85, at_least=True) if count >= 64 else None
    return Figure("http", what, "/s", median(ours), median(noop), "no-op tool, same server", bar)


async def _rate(clients: list[_Client], seconds: float, *, claiming: bool) -> float:
    began = time.perf_counter()
    counts = await asyncio.gather(*(client.work(began + seconds, claiming) for client in clients))
    return sum(counts) / (time.perf_counter() - began)


class _Client:
    """One session on one connection, which is kept; of HTTP only what our server's answers need."""

    _numbers = itertools.count(1)

    def __init__(self, host: str, port: int, path: str) -> None:
        self._host, self._port, self._path = host, port, path
        self._key = f"key-{next(self._numbers)}"
        self._session = ""

    async def connect(self) -> None:
        """Connect and shake hands."""
        self._from, self._to = await asyncio.open_connection(self._host, self._port)
        headers, _ = await self._post(line("initialize", _HELLO, 0))
        self._session = f"mcp-session-id: {headers['mcp-session-id']}\r\nmcp-protocol-version: 2025-06-18\r\n"
        await self._post(line("notifications/initialized"))

    def close(self) -> None:
        """Hang up; the session is left to the server's end."""
        self._to.close()

    async def work(self, until: float, claiming: bool) -> int:
        """Call until the time is up; return how often."""
        calls = 0
        while time.perf_counter() < until:
            if claiming:
                await self._call("try_claim", key=self._key)
                await self._call("release", key=self._key)
            else:
                await self._call("noop")
                await self._call("noop")
            calls += 2
        return calls

    async def _call(self, tool: str, **arguments: Any) -> None:
        _, body = await self._post(call_line(tool, arguments, 1))
        if b'"structuredContent"' not in body or b'"isError":true' in body:
            raise RuntimeError(f"the server answered {body!r}")

    async def _post(self, body: bytes) -> tuple[dict[str, str], bytes]:
        head = (
            f"POST {self._path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: application/json\r\n"
            f"accept: application/json, text/event-stream\r\n{self._session}content-length: {len(body)}\r\n\r\n"
        )
        self._to.write(head.encode() + body)
        lines = (await self._from.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines[1:])}
        if "content-length" in headers:
            return headers, await self._from.readexactly(int(headers["content-length"]))
        answer = b""
        while headers.get("transfer-encoding") == "chunked":
            size = int(await self._from.readuntil(b"\r\n"), 16)
            answer += (await self._from.readexactly(size + 2))[:size]
            if not size:
                break
        return headers, answer


@contextmanager
def _server(directory: Path) -> Iterator[tuple[str, int, str]]:
    """Start our server, with the no-op tool; yield where it is."""
    command = [sys.executable, *WITH_NOOP, str(directory), "--http", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = urlsplit(process.stderr.readline().split()[-1])
            assert url.hostname is not None and url.port is not None
            yield url.hostname, url.port, url.path
        finally:
            process.kill()
