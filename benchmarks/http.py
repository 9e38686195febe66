"""Calls per second over HTTP, beside a tool that does nothing."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.measure import Bar, Effort, Figure
from benchmarks.servers import ENVIRONMENT, FLOOR_HTTP, INITIALIZE, OURS, ROOT, message, tool_call

_SLICE = 0.5  # s
_SLICES = 11
_KEYS = 16
_FLOOR_IS = "a tool that does nothing, JSON answers of the SDK"


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    path: str


def measure(effort: Effort) -> Iterator[Figure]:
    """Let 1, 16 and 64 clients claim and release 16 keys as fast as they can, and call the floor alternately."""
    with (
        tempfile.TemporaryDirectory() as directory,
        http_server(*OURS, directory, "--http", "--port", "0") as ours,
        http_server(*FLOOR_HTTP) as floor,
    ):
        for clients in (1, 16, 64):
            yield asyncio.run(_compare(ours, floor, clients, effort))


async def _compare(ours: Address, floor: Address, count: int, effort: Effort) -> Figure:
    seconds = max(0.1, min(_SLICE, _SLICE * effort.share * 5))
    calls: list[float] = []
    bare: list[float] = []
    async with connected(ours, count) as our_clients, connected(floor, count) as floor_clients:
        for _ in range(effort.of(_SLICES)):
            calls.append(await _rate(our_clients, seconds))
            bare.append(await _rate(floor_clients, seconds))
    what = f"{count} {'client' if count == 1 else 'clients'}: try_claim and release of {_KEYS} keys"
    bar = Bar(0.9, more=True) if count == 64 else None
    return Figure("http", what, "/s", median(calls), median(bare), _FLOOR_IS, bar)


async def _rate(clients: Sequence[HttpClient], seconds: float) -> float:
    began = time.perf_counter()
    calls = (_calls_until(client, f"key-{number % _KEYS}", began + seconds) for number, client in enumerate(clients))
    return sum(await asyncio.gather(*calls)) / (time.perf_counter() - began)


async def _calls_until(client: HttpClient, key: str, end: float) -> int:
    """Claim and release *key* until *end* of the performance counter; return the number of calls."""
    requests = itertools.cycle(tool_call(tool, {"key": key}, 1) for tool in ("try_claim", "release"))
    calls = 0
    while time.perf_counter() < end or calls % 2:
        _, body = await client.post(next(requests))
        if b'"result"' not in body or b'"isError":true' in body:
            raise RuntimeError(f"the server answered {body!r}")
        calls += 1
    return calls


class HttpClient:
    """One session on one connection; it understands as much of HTTP as the server's answers need."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._session = ""

    async def connect(self) -> None:
        """Connect and make the handshake."""
        self._from_server, self._to_server = await asyncio.open_connection(self._address.host, self._address.port)
        headers, _ = await self.post(message("initialize", INITIALIZE, 0))
        self._session = f"mcp-session-id: {headers['mcp-session-id']}\r\nmcp-protocol-version: 2025-06-18\r\n"
        await self.post(message("notifications/initialized"))

    def close(self) -> None:
        """Close the connection; the server ends the session."""
        self._to_server.close()

    async def post(self, body: bytes) -> tuple[dict[str, str], bytes]:
        """Send *body*; return the headers and the body of the answer."""
        host, port, path = self._address
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
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


@asynccontextmanager
async def connected(address: Address, count: int) -> AsyncIterator[list[HttpClient]]:
    """Connect *count* clients."""
    clients = [HttpClient(address) for _ in range(count)]
    await asyncio.gather(*(client.connect() for client in clients))
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


@contextmanager
def http_server(*arguments: str) -> Iterator[Address]:
    """Run Python with *arguments*, a server that prints its URL at last; kill it at the end."""
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            url = urlsplit(process.stderr.readline().split()[-1])
            assert url.hostname is not None and url.port is not None
            yield Address(url.hostname, url.port, url.path)
        finally:
            process.kill()
