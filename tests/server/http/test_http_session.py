"""What streams is an event stream, anything else is JSON; a call that is cut off leaves nothing held."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.files.store import FileStore
from tests.support.http_servers import HttpServer, ProtocolVersion, http_client, http_server
from tests.support.servers import ENVELOPE, in_queue, structured_of

if sys.platform != "win32":
    import fcntl

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")]

JSON, EVENTS = "application/json", "text/event-stream"
BOTH = f"{JSON}, {EVENTS}"
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "ada", "version": "1"}}
WITHIN = 40.0  # s


class Raw:
    """A client that shows how each request is answered."""

    def __init__(self, plain: httpx2.AsyncClient, url: str, modern: bool) -> None:
        self._plain, self._url, self._modern = plain, url, modern
        self._headers: dict[str, str] = {}

    async def connect(self) -> httpx2.Response:
        opened = await self.post("initialize", HELLO)
        self._headers = {"mcp-session-id": opened.headers["mcp-session-id"]}
        return opened

    def request(
        self, method: str, params: dict[str, Any] | None = None, *, number: object = 1, **headers: str
    ) -> httpx2.Request:
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": number, "method": method}
        if params is not None:
            body["params"] = params
        sent = {"accept": BOTH, **self._headers, **headers}
        if self._modern:
            body["params"] = {**(params or {}), "_meta": {**ENVELOPE, **(params or {}).get("_meta", {})}}
            sent |= {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
            if name := (params or {}).get("name") or (params or {}).get("uri"):
                sent["mcp-name"] = name
        return self._plain.build_request("POST", self._url, json=body, headers=sent)

    async def post(
        self, method: str, params: dict[str, Any] | None = None, *, number: object = 1, **headers: str
    ) -> httpx2.Response:
        return await self._plain.send(self.request(method, params, number=number, **headers))

    async def call(self, tool: str, *, number: object = 1, **arguments: Any) -> httpx2.Response:
        return await self.post("tools/call", {"name": tool, "arguments": arguments}, number=number)

    async def notify(self, method: str, params: dict[str, Any]) -> int:
        body = {"jsonrpc": "2.0", "method": method, "params": params}
        return (await self._plain.post(self._url, json=body, headers={"accept": BOTH, **self._headers})).status_code


def media_type(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.headers["content-type"].partition(";")[0])


def result_of(response: httpx2.Response) -> dict[str, Any]:
    """Return the result in an answer of either kind."""
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    result: dict[str, Any] = json.loads(events[-1] if events else response.text)["result"]
    return result


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    with http_server(tmp_path_factory.mktemp("claims") / "claims") as started:
        yield started


@pytest.fixture
async def raw(server: HttpServer) -> AsyncIterator[Raw]:
    async with httpx2.AsyncClient(timeout=WITHIN) as plain:
        client = Raw(plain, server.url, modern=False)
        assert media_type(await client.connect()) == JSON
        yield client


@pytest.fixture
async def modern(server: HttpServer) -> AsyncIterator[Raw]:
    async with httpx2.AsyncClient(timeout=WITHIN) as plain:
        yield Raw(plain, server.url, modern=True)


PLAIN: list[tuple[str, dict[str, Any] | None]] = [
    ("ping", None),
    ("tools/list", None),
    ("tools/list", {}),
    ("resources/list", {}),
    ("resources/templates/list", {}),
    ("resources/read", {"uri": "claims://all"}),
    ("resources/subscribe", {"uri": "claims://all"}),
    ("resources/unsubscribe", {"uri": "claims://all"}),
    ("prompts/list", {}),
    ("tools/call", {"name": "list_claims"}),
    ("tools/call", {"name": "prune", "arguments": {}}),
    ("tools/call", {"name": "is_claimed_by_other", "arguments": {"key": "red"}}),
]


@pytest.mark.rule("V15")
@pytest.mark.parametrize(("method", "params"), PLAIN, ids=lambda value: str(value))
async def test_what_cannot_stream_is_answered_as_json(raw: Raw, method: str, params: dict[str, Any] | None) -> None:
    response = await raw.post(method, params)
    assert media_type(response) == JSON
    assert response.json().keys() == {"jsonrpc", "id", "result"}
    assert int(response.headers["content-length"]) == len(response.content)


@pytest.mark.rule("V15")
@pytest.mark.parametrize(
    ("wait", "kind"),
    [(None, JSON), (0, JSON), ("0", JSON), ("", JSON), (0.05, EVENTS), (1, EVENTS), ("1", EVENTS), ("0.05", EVENTS)],
    ids=repr,
)
async def test_a_call_that_waits_streams_and_one_that_does_not_is_json(raw: Raw, wait: object, kind: str) -> None:
    response = await raw.call("try_claim", key=f"wait {wait!r}", wait_seconds=wait)
    assert media_type(response) == kind
    claimed = result_of(response)["structuredContent"]
    assert claimed["claimed"] and claimed["client"] == "ada 1"


@pytest.mark.rule("V15")
async def test_a_call_with_a_progress_token_streams(raw: Raw) -> None:
    params = {"name": "try_claim", "arguments": {"key": "token"}, "_meta": {"progressToken": 7}}
    assert media_type(await raw.post("tools/call", params)) == EVENTS


async def test_in_2026_a_call_that_ends_soon_is_json(modern: Raw) -> None:
    for arguments in ({"name": "prune", "arguments": {}}, {"name": "list_claims", "_meta": {"progressToken": 7}}):
        assert media_type(await modern.post("tools/call", arguments)) == JSON


@pytest.mark.parametrize("number", [1, -3, "1", 'é"\\', 10**15, 2**60])
async def test_the_answer_has_the_id_of_its_request(raw: Raw, number: int | str) -> None:
    for response in (await raw.post("ping", number=number), await raw.call("release", key="nothing", number=number)):
        answer = response.json()
        assert answer["id"] == number and type(answer["id"]) is type(number)


async def test_an_error_is_that_of_the_sdk(raw: Raw) -> None:
    unknown = (await raw.post("tools/give", {})).json()
    assert (unknown["id"], unknown["error"]["code"]) == (1, -32601)
    invalid = (await raw.post("tools/call", {"name": 7})).json()
    assert invalid["error"] == {"code": -32602, "message": "Invalid request parameters", "data": ""}
    no_tool = (await raw.post("tools/call", {"name": "give"})).json()
    assert no_tool["error"]["code"] == -32602 and "There is no tool 'give'" in no_tool["error"]["message"]
    refused = (await raw.call("try_claim", key="")).json()
    assert refused["result"]["isError"] and "key" in refused["result"]["content"][0]["text"]


@pytest.mark.parametrize(
    ("accept", "at_once", "waiting"),
    [(BOTH, 200, 200), ("*/*", 200, 200), (JSON, 200, 406), (EVENTS, 406, 406), ("text/html", 406, 406)],
)
async def test_a_client_has_to_accept_what_it_may_get(raw: Raw, accept: str, at_once: int, waiting: int) -> None:
    call = {"name": "try_claim", "arguments": {"key": f"accept {accept}"}}
    assert (await raw.post("tools/call", call, accept=accept)).status_code == at_once
    call["arguments"]["wait_seconds"] = 1  # type: ignore[index]
    assert (await raw.post("tools/call", call, accept=accept)).status_code == waiting


async def test_other_than_json_is_refused(raw: Raw) -> None:
    assert (await raw.post("ping", None, **{"content-type": "text/plain"})).status_code in (400, 415)


@contextmanager
def locked(claims_dir: Path) -> Iterator[None]:
    """Hold the lock of the default namespace, as a process does that was stopped."""
    with open(claims_dir / "default" / ".lock", "rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def holder(claims_dir: Path) -> Session:
    session = process_session(FileStore(claims_dir))
    assert session.try_claim("red").claimed
    return session


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(WITHIN):
        while not condition():
            await anyio.sleep(0.01)


@pytest.mark.rule("V15")
async def test_a_call_without_a_wait_is_cancelled_while_it_waits_for_the_lock(
    claims_dir: Path, holder: Session
) -> None:
    with http_server(claims_dir) as server:
        async with httpx2.AsyncClient(timeout=WITHIN) as plain, anyio.create_task_group() as tasks:
            raw = Raw(plain, server.url, modern=False)
            await raw.connect()
            answers: list[dict[str, Any]] = []

            async def claim() -> None:
                answers.append((await raw.call("try_claim", key="blue", number=7)).json())

            with locked(claims_dir):
                tasks.start_soon(claim)
                # The cancellation counts only for a request that has begun, so it is sent until there is an answer.
                with anyio.fail_after(WITHIN):
                    while not answers:
                        assert await raw.notify("notifications/cancelled", {"requestId": 7}) == 202
                        await anyio.sleep(0.01)
            assert (answers[0]["id"], answers[0]["error"]["code"]) == (7, -32800)
            assert (await raw.call("list_claims", mine=True)).json()["result"]["structuredContent"]["claims"] == []
    assert not holder.inspect("blue").claimed_by_other


@pytest.mark.rule("V8")
@pytest.mark.parametrize("protocol_version", ["legacy", "2026-07-28"])
async def test_a_wait_sends_progress_and_then_its_answer(
    claims_dir: Path, holder: Session, protocol_version: ProtocolVersion
) -> None:
    told: list[float | None] = []

    async def release(progress: float, total: float | None, message: str | None) -> None:
        told.append(total)
        holder.release("red")

    with http_server(claims_dir) as server:
        async with http_client(server.url, protocol_version) as client:
            handle = structured_of(await client.call_tool("open_session", {}))["session"]
            call = {"key": "red", "wait_seconds": 60, "session": handle}
            answer = structured_of(await client.call_tool("try_claim", call, progress_callback=release))
    assert told == [60] and answer["status"] == "your_turn"


@pytest.mark.rule("V8")
@pytest.mark.parametrize("protocol_version", ["legacy"])
async def test_a_wait_that_is_cancelled_leaves_nothing_held(
    claims_dir: Path, holder: Session, protocol_version: ProtocolVersion
) -> None:
    with http_server(claims_dir) as server:
        async with http_client(server.url, protocol_version) as client:
            handle = structured_of(await client.call_tool("open_session", {}))["session"]
            async with anyio.create_task_group() as tasks:
                call = {"key": "red", "wait_seconds": 300, "session": handle}
                tasks.start_soon(client.call_tool, "try_claim", call)
                await until(lambda: in_queue(claims_dir))
                tasks.cancel_scope.cancel()
            await until(lambda: not in_queue(claims_dir))
            holder.release("red")
            mine = structured_of(await client.call_tool("list_claims", {"mine": True, "session": handle}))
    assert mine["claims"] == []
    assert not holder.inspect("red").claimed_by_other
