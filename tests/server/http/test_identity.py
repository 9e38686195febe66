"""Over HTTP, in both kinds of protocol: who holds the key after each event.

| event | handshake versions | 2026-07-28, with a handle |
|---|---|---|
| two sessions race | one | one |
| the same session repeats | it, renewed | it, renewed |
| sub-agents with handles race on one connection | one | one |
| the client disconnects | it, until idle or its TTL | it, until its TTL |
| DELETE | nobody | it |
| SIGTERM | nobody | it |
| SIGKILL | nobody | it |
| idle | nobody | it, no longer kept alive |
| restart with a handle | it | it |
| two workers behind one port | needs sticky routing | it |
| a forged or stolen handle, or one with another token | nobody gets in | nobody gets in |
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client

from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.support.http_servers import HttpServer, ProtocolVersion, http_client, http_server, two_workers
from tests.support.servers import ENVELOPE, structured_of, text_of

pytestmark = pytest.mark.anyio

PROTOCOL_VERSIONS = pytest.mark.parametrize("protocol_version", ["legacy", "2026-07-28"])
ACCEPT = {"accept": "application/json, text/event-stream"}


def message(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


@pytest.fixture
def server(claims_dir: Path) -> Iterator[HttpServer]:
    with http_server(claims_dir) as running:
        yield running


@pytest.fixture
async def connections() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


class Agent:
    """An agent as its protocol version requires: with the identity of its connection, or with a handle."""

    def __init__(self, client: Client, handle: str | None) -> None:
        self.client, self.handle = client, handle

    async def call(self, tool: str, key: str = "red", **arguments: Any) -> dict[str, Any]:
        session = {} if self.handle is None else {"session": self.handle}
        return structured_of(await self.client.call_tool(tool, {"key": key, **session, **arguments}))


async def connect(url: str, protocol_version: ProtocolVersion, stack: AsyncExitStack, **options: Any) -> Agent:
    client = await stack.enter_async_context(http_client(url, protocol_version, **options))
    handle = None
    if protocol_version == "2026-07-28":
        handle = structured_of(await client.call_tool("open_session", {}))["session"]
    return Agent(client, handle)


def holder(directory: Path, key: str = "red") -> str | None:
    """Return who holds *key*, as any other session sees it."""
    found = process_session(FileStore(directory)).inspect(key).found
    assert found is None or isinstance(found, Claim)
    return found.holder.name if found else None


@PROTOCOL_VERSIONS
async def test_of_sessions_that_race_exactly_one_wins_and_a_repeat_renews(
    server: HttpServer, protocol_version: ProtocolVersion, connections: AsyncExitStack
) -> None:
    agents = [await connect(server.url, protocol_version, connections) for _ in range(6)]
    answers: list[dict[str, Any]] = []

    async def race(agent: Agent) -> None:
        answers.append(await agent.call("try_claim") | {"agent": agent})

    async with anyio.create_task_group() as together:
        for agent in agents:
            together.start_soon(race, agent)
    assert sorted(answer["status"] for answer in answers) == ["acquired"] + ["held"] * 5
    (winner,) = [answer for answer in answers if answer["claimed"]]
    assert {answer["holder"] for answer in answers} == {winner["holder"]}
    again = await winner["agent"].call("try_claim")
    assert (again["status"], again["generation"]) == ("renewed", winner["generation"])


@pytest.mark.rule("I2")
@PROTOCOL_VERSIONS
async def test_sub_agents_with_handles_race_on_one_connection(
    server: HttpServer, protocol_version: ProtocolVersion, connections: AsyncExitStack
) -> None:
    client = (await connect(server.url, protocol_version, connections)).client
    opened = [structured_of(await client.call_tool("open_session", {"label": label})) for label in ("ada", "ben")]
    ada, ben = (Agent(client, answer["session"]) for answer in opened)
    assert (await ada.call("try_claim"))["claimed"]
    refused = await ben.call("try_claim")
    assert (refused["status"], refused["holder"]) == ("held", opened[0]["holder"])
    assert refused["client"].endswith(", ada")
    assert not (await ben.call("release"))["released"]
    assert (await ada.call("release"))["released"]


@pytest.mark.rule("I1")
async def test_without_a_session_2026_07_28_may_read_and_prune_but_must_open_one_to_claim(
    server: HttpServer, claims_dir: Path
) -> None:
    with process_session(FileStore(claims_dir)) as other:
        other.try_claim("red")
        async with http_client(server.url, "2026-07-28") as client:
            for tool in ("try_claim", "release"):
                refused = await client.call_tool(tool, {"key": "red"})
                assert refused.is_error and "Call open_session once" in text_of(refused)
            assert structured_of(await client.call_tool("is_claimed_by_other", {"key": "red"}))["claimed_by_other"]
            assert structured_of(await client.call_tool("prune", {}))["live"] == 1


@PROTOCOL_VERSIONS
async def test_a_client_that_goes_without_a_word_keeps_its_claim(
    server: HttpServer, claims_dir: Path, protocol_version: ProtocolVersion
) -> None:
    async with AsyncExitStack() as stack:
        mine = (await (await connect(server.url, protocol_version, stack, ends=False)).call("try_claim"))["holder"]
    assert holder(claims_dir) == mine


@pytest.mark.rule("I8")
@PROTOCOL_VERSIONS
async def test_a_session_that_is_deleted_has_released_its_claims_and_a_handle_has_not(
    server: HttpServer, claims_dir: Path, protocol_version: ProtocolVersion
) -> None:
    async with AsyncExitStack() as stack:
        mine = (await (await connect(server.url, protocol_version, stack)).call("try_claim"))["holder"]
        assert holder(claims_dir) == mine
    # The client has sent DELETE, where its protocol version has that.
    assert holder(claims_dir) == (None if protocol_version == "legacy" else mine)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@PROTOCOL_VERSIONS
async def test_what_belongs_to_connections_is_free_when_the_server_is_gone_and_what_belongs_to_handles_is_not(
    claims_dir: Path, protocol_version: ProtocolVersion, number: int
) -> None:
    with http_server(claims_dir) as server:
        async with AsyncExitStack() as stack:
            agent = await connect(server.url, protocol_version, stack, ends=False)
            mine = (await agent.call("try_claim"))["holder"]
            server.process.send_signal(number)
            await anyio.to_thread.run_sync(server.process.wait)
            left = FileStore(claims_dir).read(ScopedKey("default", "red"))
    if number != signal.SIGKILL and protocol_version == "legacy":
        assert left is None, "an orderly end releases, it does not just die"
    assert holder(claims_dir) == (None if protocol_version == "legacy" else mine)


@pytest.mark.rule("I8")
@PROTOCOL_VERSIONS
async def test_a_session_without_requests_ends_when_it_is_idle(
    claims_dir: Path, protocol_version: ProtocolVersion
) -> None:
    with http_server(claims_dir, "--idle-minutes", "0.02") as server:
        async with AsyncExitStack() as stack:
            # No stream stays open: that is a request in flight.
            agent = await connect(server.url, protocol_version, stack, ends=False)
            mine = (await agent.call("try_claim"))["holder"]
        path = claims_dir / "default" / "red.json"
        with anyio.move_on_after(20 if protocol_version == "legacy" else 3):
            while path.exists():
                await anyio.sleep(0.05)
        assert holder(claims_dir) == (None if protocol_version == "legacy" else mine)


@pytest.mark.rule("I3")
@PROTOCOL_VERSIONS
async def test_a_restarted_server_knows_the_handles_of_the_one_before(
    claims_dir: Path, protocol_version: ProtocolVersion
) -> None:
    async with AsyncExitStack() as stack:
        with http_server(claims_dir) as server:
            client = (await connect(server.url, protocol_version, stack, ends=False)).client
            handle = structured_of(await client.call_tool("open_session", {}))["session"]
            first = await Agent(client, handle).call("try_claim")
    with http_server(claims_dir) as server:
        async with http_client(server.url, protocol_version) as client:
            again = await Agent(client, handle).call("try_claim")
            assert (again["status"], again["generation"]) == ("renewed", first["generation"])
            assert (await Agent(client, handle).call("release"))["released"]


@pytest.mark.rule("I4")
@PROTOCOL_VERSIONS
async def test_a_forged_a_stolen_and_a_mistyped_handle_are_refused_alike_and_nothing_changes(
    claims_dir: Path, protocol_version: ProtocolVersion, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# two callers\naaaaaaaaaaaaaaaa\nbbbbbbbbbbbbbbbb\n")
    tokens.chmod(0o600)
    with http_server(claims_dir, "--token-file", str(tokens)) as server:
        async with (
            http_client(server.url, protocol_version, token="a" * 16) as ada,
            http_client(server.url, protocol_version, token="b" * 16) as eve,
        ):
            handle = structured_of(await ada.call_tool("open_session", {}))["session"]
            claimed = await Agent(ada, handle).call("try_claim")
            mistyped = handle[:-1] + ("A" if handle[-1] != "A" else "B")
            refusals = []
            for client, tried in ((eve, handle), (ada, mistyped), (ada, "x"), (eve, claimed["holder"])):
                for tool in ("try_claim", "release", "is_claimed_by_other"):
                    refused = await client.call_tool(tool, {"key": "red", "session": tried})
                    assert refused.is_error
                    refusals.append(text_of(refused).partition(": ")[2])
            assert len(set(refusals)) == 1
            assert holder(claims_dir) == claimed["holder"]
            # What is on disk does not reveal the handle.
            for path in claims_dir.rglob("*"):
                assert path.is_dir() or handle.encode() not in path.read_bytes()


@pytest.mark.rule("I1")
async def test_a_session_id_gives_no_identity_in_protocol_versions_without_a_handshake(server: HttpServer) -> None:
    async with httpx2.AsyncClient() as plain:
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "ada", "version": "1"}}
        opened = await plain.post(server.url, json=message("initialize", hello), headers=ACCEPT)
        stolen = {"mcp-session-id": opened.headers["mcp-session-id"]}
        asked = message("tools/call", {"name": "try_claim", "arguments": {"key": "red"}})
        won = await plain.post(server.url, json=asked, headers=ACCEPT | stolen)
        assert '"acquired"' in won.text
        routing = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "release"}
        asked = message("tools/call", {"name": "release", "arguments": {"key": "red"}, "_meta": ENVELOPE})
        refused = await plain.post(server.url, json=asked, headers=ACCEPT | stolen | routing)
        assert "Call open_session once" in refused.text, refused.text


@pytest.mark.rule("I3")
async def test_two_workers_behind_one_port_know_each_others_handles(claims_dir: Path) -> None:
    with two_workers(claims_dir) as url:
        while not await answers(url):
            continue
        processes = set()
        handle = generation = None
        # Each connection is taken by whichever worker is faster: enough of them for both.
        for _ in range(200):
            async with http_client(url, "2026-07-28") as client:
                opened = structured_of(await client.call_tool("open_session", {}))
                processes.add(opened["holder"].split(":")[-2])
                handle = handle or opened["session"]
                mine = await Agent(client, handle).call("try_claim")
                generation = generation or mine["generation"]
                assert (mine["claimed"], mine["generation"]) == (True, generation)
                assert not (await Agent(client, opened["session"]).call("try_claim"))["claimed"] or (
                    opened["session"] == handle
                )
            if len(processes) == 2:
                break
        assert len(processes) == 2


async def answers(url: str) -> bool:
    async with httpx2.AsyncClient() as plain:
        try:
            return (await plain.get(url.replace("/mcp", "/healthz"))).status_code == 200
        except httpx2.TransportError:
            await anyio.sleep(0.05)
            return False
