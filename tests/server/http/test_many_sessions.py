"""1,000 sessions on one server, at the same time: each claims, renews and releases, and nobody is taken for another.

`-s` shows what a session costs in memory.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest

from tests.support.http_servers import HttpServer, http_server
from tests.support.servers import ENVELOPE

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SESSIONS = 1_000
AT_ONCE = 64
CONTESTED = 20
ACCEPT = {"accept": "application/json, text/event-stream"}


class Agent:
    """One session: its own connection id or its own handle, on connections that all share."""

    def __init__(self, plain: httpx2.AsyncClient, url: str, number: int) -> None:
        self._plain, self._url, self.number = plain, url, number
        self._headers = dict(ACCEPT)
        self._session: dict[str, str] = {}

    async def connect(self) -> None:
        """Get an identity, half of them each way."""
        if self.number % 2:
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}
            opened = await self._post("initialize", hello)
            self._headers["mcp-session-id"] = opened.headers["mcp-session-id"]
        else:
            self._headers["mcp-protocol-version"] = "2026-07-28"
            self._session = {"session": (await self.call("open_session"))["session"]}

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        params: dict[str, Any] = {"name": tool, "arguments": {**arguments, **self._session}}
        if not self.number % 2:
            self._headers |= {"mcp-method": "tools/call", "mcp-name": tool}
            params["_meta"] = ENVELOPE
        answer = await self._post("tools/call", params)
        text = answer.text
        # An event stream of one event, or plain JSON.
        body = text[text.index("{") :] if text.startswith("event") else text
        message: dict[str, Any] = httpx2.Response(200, content=body).json()
        assert "structuredContent" in message["result"], body
        structured: dict[str, Any] = message["result"]["structuredContent"]
        return structured

    async def _post(self, method: str, params: dict[str, Any]) -> httpx2.Response:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = await self._plain.post(self._url, json=message, headers=self._headers)
        assert answer.status_code == 200, answer.text
        return answer


async def run(server: HttpServer) -> tuple[Counter[str], list[str]]:
    """Let all sessions contend for some keys and each claim one of its own; return what they saw."""
    winners: Counter[str] = Counter()
    holders: list[str] = []
    known: list[Agent] = []
    limit = anyio.CapacityLimiter(AT_ONCE)
    connected = anyio.Event()
    async with httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=AT_ONCE)) as plain:
        agents = [Agent(plain, server.url, number) for number in range(SESSIONS)]

        async def live(agent: Agent) -> None:
            async with limit:
                await agent.connect()
                contested = f"event {agent.number % CONTESTED}"
                if (await agent.call("try_claim", key=contested))["claimed"]:
                    winners[contested] += 1
                known.append(agent)
                if len(known) == SESSIONS:
                    connected.set()
            # From here on all of them are there at once.
            await connected.wait()
            async with limit:
                own = await agent.call("try_claim", key=f"own {agent.number}")
                holders.append(own["holder"])
                renewed = await agent.call("try_claim", key=f"own {agent.number}")
                assert (renewed["status"], renewed["holder"]) == ("renewed", own["holder"])
                assert (await agent.call("release", key=f"own {agent.number}"))["released"]

        async with anyio.create_task_group() as together:
            for agent in agents:
                together.start_soon(live, agent)
    return winners, holders


async def test_a_thousand_sessions_are_a_thousand_holders_and_each_key_has_one(claims_dir: Path) -> None:
    with http_server(claims_dir) as server:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        winners, holders = await run(server)
        each = (process.memory_info().rss - before) / SESSIONS / 1024
        print(f"{each:.1f} KiB a session", file=sys.stderr)
    assert set(winners.values()) == {1} and len(winners) == CONTESTED
    assert len(holders) == len(set(holders)) == SESSIONS
    assert len(list((claims_dir / "default").glob("own*.json"))) == 0
