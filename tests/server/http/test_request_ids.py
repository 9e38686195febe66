"""Two requests of one session with one JSON-RPC id: each caller gets the answer to its own question.

A real connector numbers every request 1.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.files.store import FileStore
from tests.support.http_servers import http_server

pytestmark = pytest.mark.anyio

ACCEPT = {"accept": "application/json, text/event-stream"}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "ada", "version": "1"}}
RequestId = int | str

# The stream of a request without an answer is kept open by comments, so nothing else would end the test.
ANSWERED_WITHIN = 40.0


class Connection:
    """One session over HTTP, and another one that holds `blue` and `red`."""

    def __init__(self, plain: httpx2.AsyncClient, url: str, session: str, other: Session) -> None:
        self._plain, self._url, self.other = plain, url, other
        self._headers = ACCEPT | {"mcp-session-id": session}

    @asynccontextmanager
    async def waiting_for(self, key: str, number: RequestId) -> AsyncIterator[httpx2.Response]:
        """Ask for *key*, which is held, with the id *number*; the answer is open in the block."""
        call = {"name": "try_claim", "arguments": {"key": key, "wait_seconds": 300}}
        async with self._plain.stream(
            "POST", self._url, json=message("tools/call", call, number), headers=self._headers
        ) as response:
            yield response

    async def notify(self, method: str, **params: Any) -> None:
        sent = {"jsonrpc": "2.0", "method": method, "params": params}
        assert (await self._plain.post(self._url, json=sent, headers=self._headers)).status_code == 202

    async def get(self, **headers: str) -> int:
        """Open the stream of the server's own messages; return the status."""
        async with self._plain.stream("GET", self._url, headers=self._headers | headers) as response:
            return response.status_code

    async def ping(self, number: RequestId) -> None:
        answer = (await self._plain.post(self._url, json=message("ping", {}, number), headers=self._headers)).json()
        assert answer == {"jsonrpc": "2.0", "id": number, "result": {}}


def message(method: str, params: dict[str, Any], number: RequestId = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


async def answer_in(response: httpx2.Response) -> dict[str, Any]:
    """Return the first message in the event stream *response*."""
    with anyio.fail_after(ANSWERED_WITHIN):
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                found: dict[str, Any] = json.loads(line.removeprefix("data: "))
                return found
    raise AssertionError("no answer")


def key_of(answer: dict[str, Any]) -> str:
    structured = answer["result"]["structuredContent"]
    # On a busy machine the key may be free before the call has begun to wait.
    assert structured["status"] in ("your_turn", "acquired")
    return str(structured["key"])


@pytest.fixture
async def connection(claims_dir: Path) -> AsyncIterator[Connection]:
    with process_session(FileStore(claims_dir)) as other, http_server(claims_dir) as server:
        other.try_claim("blue")
        other.try_claim("red")
        async with httpx2.AsyncClient(timeout=30) as plain:
            opened = await plain.post(server.url, json=message("initialize", HELLO), headers=ACCEPT)
            yield Connection(plain, server.url, opened.headers["mcp-session-id"], other)


@pytest.mark.rule("V12")
@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, "1"), ('é"\\', 'é"\\')])
async def test_two_requests_at_once_with_one_id_are_each_answered_with_their_own_key(
    connection: Connection, first: RequestId, second: RequestId
) -> None:
    async with connection.waiting_for("blue", first) as blue, connection.waiting_for("red", second) as red:
        connection.other.release("red")
        about_red = await answer_in(red)
        connection.other.release("blue")
        about_blue = await answer_in(blue)
    assert (about_red["id"], key_of(about_red)) == (second, "red")
    assert (about_blue["id"], key_of(about_blue)) == (first, "blue")
    assert type(about_red["id"]) is type(second)


@pytest.mark.rule("V12")
async def test_the_answer_to_a_request_that_its_client_has_given_up_reaches_nobody(connection: Connection) -> None:
    """A client that leaves has not cancelled its request, which ends later, while another one has its number."""
    async with connection.waiting_for("blue", 1):
        await connection.ping(2)
    async with connection.waiting_for("red", 1) as red:
        await connection.ping(3)
        connection.other.release("blue")
        with anyio.fail_after(ANSWERED_WITHIN):
            while not connection.other.inspect("blue").claimed_by_other:
                await anyio.sleep(0.01)
        connection.other.release("red")
        assert key_of(await answer_in(red)) == "red"


async def test_a_request_is_cancelled_by_the_id_that_its_client_gave_it(connection: Connection) -> None:
    async with connection.waiting_for("blue", 7) as blue:
        await connection.notify("notifications/cancelled", requestId=7)
        answer = await answer_in(blue)
    assert (answer["id"], answer["error"]["code"]) == (7, -32800)


async def test_a_client_that_resumes_after_an_event_gets_a_stream_although_no_event_has_an_id(
    connection: Connection,
) -> None:
    for headers in ({}, {"mcp-protocol-version": "2025-11-25"}):
        assert await connection.get(**headers, **{"last-event-id": "7"}) == 200
