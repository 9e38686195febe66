"""Changes made by any process reach those who watch, over stdio and HTTP, in both kinds of protocol."""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import ResourceUpdatedNotification

from mcp_claims.server.subscriptions import MAX_URIS
from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.files.store import FileStore
from tests.support.http_servers import ProtocolVersion, http_server
from tests.support.servers import stdio

pytestmark = pytest.mark.anyio

TIMEOUT = 20
PROTOCOL_VERSIONS: list[ProtocolVersion] = ["legacy", "2026-07-28"]
TRANSPORTS = ["stdio", "http"]


class Watchers:
    """Clients of one server, or over stdio of one each, that are notified of changes."""

    def __init__(self, directory: Path, protocol_version: ProtocolVersion, url: str | None) -> None:
        self.directory, self.protocol_version, self.url = directory, protocol_version, url

    @asynccontextmanager
    async def client(self, notify: Callable[[str], None] | None = None) -> AsyncIterator[Client]:
        async def receive_notice(message: object) -> None:
            if notify is not None and isinstance(message, ResourceUpdatedNotification):
                notify(message.params.uri)

        server = stdio(self.directory) if self.url is None else streamable_http_client(self.url)
        async with Client(server, mode=self.protocol_version, message_handler=receive_notice) as client:
            yield client

    @asynccontextmanager
    async def watching(self, *uris: str) -> AsyncIterator[MemoryObjectReceiveStream[str]]:
        """Watch *uris* as the protocol version does; yields the URIs that are notified of."""
        send, receive = anyio.create_memory_object_stream[str](1_000)
        with send, receive:
            async with self._notifying(send, *uris):
                yield receive

    @asynccontextmanager
    async def _notifying(self, send: MemoryObjectSendStream[str], *uris: str) -> AsyncIterator[None]:
        # In the newer version the same notice comes on the stream, too.
        async with self.client(send.send_nowait if self.protocol_version == "legacy" else None) as client:
            if self.protocol_version == "legacy":
                for uri in uris:
                    await subscribe(client, uri)
                yield
            else:
                async with client.listen(resource_subscriptions=uris) as answer, anyio.create_task_group() as tasks:

                    async def pass_on() -> None:
                        async for event in answer:
                            assert isinstance(event, ResourceUpdated)
                            send.send_nowait(event.uri)

                    tasks.start_soon(pass_on)
                    yield
                    tasks.cancel_scope.cancel()


async def subscribe(client: Client, uri: str, *, no_more: bool = False) -> None:
    with warnings.catch_warnings():
        # The older way is deprecated for clients that can speak the newer version.
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        await (client.unsubscribe_resource(uri) if no_more else client.subscribe_resource(uri))


@contextmanager
def serving(directory: Path, transport: str, protocol_version: ProtocolVersion) -> Iterator[Watchers]:
    """Serve *directory* over HTTP if that is the *transport*; over stdio each client has a server of its own."""
    if transport == "http":
        with http_server(directory) as server:
            yield Watchers(directory, protocol_version, server.url)
    else:
        yield Watchers(directory, protocol_version, None)


@pytest.fixture(
    params=[(transport, protocol_version) for transport in TRANSPORTS for protocol_version in PROTOCOL_VERSIONS],
    ids=lambda each: "-".join(each),
)
def watchers(request: pytest.FixtureRequest, claims_dir: Path) -> Iterator[Watchers]:
    with serving(claims_dir, *request.param) as watchers:
        yield watchers


def somebody(claims_dir: Path) -> Session:
    """Return a session of another process, as the server sees it."""
    return process_session(FileStore(claims_dir))


async def next_uris(notices: MemoryObjectReceiveStream[str], number: int) -> set[str]:
    """Return the URIs of the next *number* notices."""
    with anyio.fail_after(TIMEOUT):
        return {await notices.receive() for _ in range(number)}


def message(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def silent(notices: MemoryObjectReceiveStream[str]) -> bool:
    """Return whether no notice comes for longer than one would be held back."""
    with anyio.move_on_after(0.4):
        await notices.receive()
        return False
    return True


async def connected(notices: MemoryObjectReceiveStream[str], other: Session, key: str, namespace: str) -> None:
    """Return once a first change got through: a client opens the stream of its notices in its own time."""
    with anyio.fail_after(TIMEOUT):
        while True:
            other.try_claim(key, namespace)
            with anyio.move_on_after(1):
                await notices.receive()
                break
    while not await silent(notices):
        pass


@pytest.mark.rule("V10")
async def test_each_watcher_is_notified_of_what_it_watches_and_of_nothing_else(
    watchers: Watchers, claims_dir: Path
) -> None:
    other = somebody(claims_dir)
    other.try_claim("first", "ci")
    one, namespace, everything = "claims://ci/red", "claims://ci", "claims://all"
    async with watchers.watching(one, namespace, everything) as notices:
        await connected(notices, other, "red", "ci")
        other.try_claim("red", "ci", ttl_minutes=60)
        assert await next_uris(notices, 3) == {one, namespace, everything}
        other.release("first", "ci")
        assert await next_uris(notices, 2) == {namespace, everything}
        other.try_claim("red", "deploy")
        assert await next_uris(notices, 1) == {everything}
        other.inspect("red", "ci")
        assert await silent(notices)


@pytest.mark.rule("V10")
async def test_a_burst_of_changes_makes_one_or_two_notices(watchers: Watchers, claims_dir: Path) -> None:
    other = somebody(claims_dir)
    async with watchers.watching("claims://all") as notices:
        await connected(notices, other, "red", "ci")
        for number in range(50):
            other.try_claim(f"event {number}")
        await next_uris(notices, 1)
        more = 0
        while not await silent(notices):
            more += 1
        # How many depends on how long this process took for the burst; 50 would be one for each change.
        assert more < 10


@pytest.mark.rule("V10")
async def test_a_directory_that_is_not_there_yet_is_watched_as_soon_as_it_is(
    watchers: Watchers, claims_dir: Path
) -> None:
    async with watchers.watching("claims://all") as notices:
        other = somebody(claims_dir)
        assert not claims_dir.exists()
        other.try_claim("red")
        assert await next_uris(notices, 1) == {"claims://all"}


async def test_notices_of_changes_come_within_a_fraction_of_a_second(watchers: Watchers, claims_dir: Path) -> None:
    other, delays = somebody(claims_dir), []
    async with watchers.watching("claims://ci/red") as notices:
        await connected(notices, other, "red", "ci")
        for minutes in range(60, 69):
            other.try_claim("red", "ci", ttl_minutes=minutes)
            changed = time.monotonic()
            await next_uris(notices, 1)
            delays.append(time.monotonic() - changed)
    print(f"change to notice: median {statistics.median(delays) * 1000:.1f} ms", file=sys.stderr)
    # Polling would take a second on average.
    assert statistics.median(delays) < 0.6


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_older_client_that_unsubscribes_gets_no_more_notices(claims_dir: Path, transport: str) -> None:
    other = somebody(claims_dir)
    other.try_claim("first", "ci")
    send, notices = anyio.create_memory_object_stream[str](100)
    with serving(claims_dir, transport, "legacy") as watchers, send, notices:
        async with watchers.client(send.send_nowait) as client:
            await subscribe(client, "claims://all")
            await subscribe(client, "claims://all")
            await connected(notices, other, "red", "ci")
            await subscribe(client, "claims://all", no_more=True)
            await subscribe(client, "claims://all", no_more=True)
            other.release("red", "ci")
            assert await silent(notices)
            with pytest.raises(MCPError, match="no resource"):
                await subscribe(client, "file:///etc/passwd")


async def test_one_too_many_is_refused_and_the_others_stay(claims_dir: Path) -> None:
    somebody(claims_dir).try_claim("red")
    uris = [f"claims://ci/{number}" for number in range(MAX_URIS)]
    with serving(claims_dir, "stdio", "2026-07-28") as new:
        async with new.client() as client:
            with pytest.raises(MCPError, match="At most"):
                async with client.listen(resource_subscriptions=[*uris, "claims://all"]):
                    pass
        async with new.watching(*uris) as notices:
            somebody(claims_dir).try_claim("255", "ci")
            assert await next_uris(notices, 1) == {"claims://ci/255"}


@pytest.mark.rule("V10")
async def test_a_client_that_goes_is_no_longer_watched_for(claims_dir: Path) -> None:
    """What a server watches is seen in its file descriptors."""
    somebody(claims_dir).try_claim("red")
    with http_server(claims_dir) as server:

        def watches() -> int:
            number = 0
            for fd in Path(f"/proc/{server.process.pid}/fdinfo").iterdir():
                with suppress(FileNotFoundError):  # It may be closed meanwhile.
                    number += fd.read_text().count("inotify wd:")
            return number

        for protocol_version in PROTOCOL_VERSIONS:
            async with Watchers(claims_dir, protocol_version, server.url).watching(
                "claims://all", "claims://default/red"
            ):
                assert watches() > 0
            with anyio.fail_after(TIMEOUT):
                while watches():
                    await anyio.sleep(0.01)


@pytest.mark.rule("V10")
async def test_a_client_that_does_not_read_delays_no_other_notice(claims_dir: Path) -> None:
    other = somebody(claims_dir)
    with serving(claims_dir, "http", "legacy") as watchers:
        assert watchers.url is not None
        # It subscribes by requests of its own and never opens the stream of its notices.
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        async with create_mcp_http_client(headers=headers) as deaf:
            hello = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "deaf", "version": "1"},
            }
            opened = await deaf.post(watchers.url, json=message("initialize", hello))
            deaf.headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
            asked = await deaf.post(watchers.url, json=message("resources/subscribe", {"uri": "claims://all"}))
            assert asked.status_code == 200 and '"result":{}' in asked.text
            async with watchers.watching("claims://all") as notices:
                await connected(notices, other, "red", "ci")
                for number in range(30):
                    other.try_claim(f"event {number}")
                    assert await next_uris(notices, 1) == {"claims://all"}
