"""A server whose store is over a network: no call keeps the others waiting, whatever the cluster does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from threading import Event

import anyio
import anyio.to_thread
import pytest
from mcp import Client, StdioServerParameters
from mcp_types import ResourceUpdatedNotification

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, ScopedKey, Ticket
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.server.app import build_server
from mcp_claims.server.registry import Caller, SessionRegistry
from mcp_claims.session import acquire, offload
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.offload import acquire_async, run_read
from mcp_claims.session.results import ClaimResult
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Change, Swaps, deadline_in
from mcp_claims.stores.etcd import store as etcd_store
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.etcd.tickets import Alarm
from tests.server.test_subscriptions import subscribe
from tests.support.etcd import config_at, fresh_config, fresh_store, one_node
from tests.support.proxy import Proxy
from tests.support.servers import PYTHON_ENVIRONMENT, RawServer, structured_of, text_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy(one_node().clients[0])
    yield made
    made.close()


@pytest.mark.rule("E9")
async def test_while_the_cluster_does_not_answer_other_calls_go_on_and_the_server_recovers(proxy: Proxy) -> None:
    store = EtcdStore(EtcdConfig((("127.0.0.1", proxy.port),), fresh_config().prefix), local_machine())
    server = build_server(lambda: SessionRegistry(store, own=process_session(store)))
    order: list[str] = []
    async with Client(server) as client:
        assert structured_of(await client.call_tool("try_claim", {"key": "warm"}))["claimed"]
        proxy.cut()
        began = time.monotonic()

        async def claim() -> None:
            answer = await client.call_tool("try_claim", {"key": "red"})
            order.append("claim")
            assert answer.is_error and "no endpoint of etcd answered in time" in text_of(answer)

        async with anyio.create_task_group() as calls:
            calls.start_soon(claim)
            await anyio.sleep(0.1)
            await client.list_tools()
            order.append("list")
        assert order == ["list", "claim"]
        assert time.monotonic() - began < 10, "4 s, on a machine that is not busy with other things"
        proxy.mend()
        assert structured_of(await client.call_tool("try_claim", {"key": "red"}))["claimed"]
        handle = structured_of(await client.call_tool("open_session", {}))["session"]
        assert not structured_of(await client.call_tool("try_claim", {"key": "red", "session": handle}))["claimed"]


@pytest.mark.rule("E11")
async def test_a_subscription_outlives_an_outage(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    config, uris = fresh_config(), {"claims://all", "claims://default", "claims://default/red"}
    store = EtcdStore(config_at(proxy.port, config.prefix), local_machine())
    other = named_session(EtcdStore(config, local_machine()), "other")
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 1.0)
    notified, all_notified = set[str](), anyio.Event()

    async def receive_notice(message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            notified.add(message.params.uri)
            if notified == uris:
                all_notified.set()

    server = build_server(lambda: SessionRegistry(store, own=process_session(store)))
    async with Client(server, mode="legacy", message_handler=receive_notice) as client:
        for uri in uris:
            await subscribe(client, uri)
        proxy.cut()
        assert (await anyio.to_thread.run_sync(other.try_claim, "red")).claimed
        assert (await client.call_tool("try_claim", {"key": "blue"})).is_error
        assert not notified
        proxy.mend()
        with anyio.fail_after(60):
            await all_notified.wait()


@pytest.mark.rule("E8")
@pytest.mark.parametrize("tool", ["list_claims", "prune"])
async def test_many_lists_of_a_cluster_that_does_not_answer_fail_together(tool: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as silent:
        store = EtcdStore(EtcdConfig((silent.getsockname(),), "/p"), local_machine())
        async with Client(build_server(lambda: SessionRegistry(store, own=process_session(store)))) as client:
            began = time.monotonic()

            async def ask() -> None:
                answer = await client.call_tool(tool, {})
                # Each has asked, instead of waiting for a thread until no time was left to.
                assert answer.is_error and "no answer in time" in text_of(answer)

            async with anyio.create_task_group() as calls:
                for _ in range(10):
                    calls.start_soon(ask)
    assert time.monotonic() - began < 15, "4 s; 20 s where they go two by two"


@pytest.mark.rule("E8")
async def test_a_call_that_had_to_wait_for_a_thread_has_so_much_less_time_for_its_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = anyio.CapacityLimiter(1)
    monkeypatch.setattr(offload, "_calling", threads)
    claims = process_session(fresh_store())
    under_way, let_go = Event(), Event()

    def be_slow() -> None:
        under_way.set()
        assert let_go.wait(10)

    async with anyio.create_task_group() as calls:
        calls.start_soon(run_read, claims, be_slow)
        await anyio.to_thread.run_sync(under_way.wait)
        second: list[float] = []

        async def ask() -> None:
            second.append(await run_read(claims, lambda: deadline_in(1_000.0)))

        calls.start_soon(ask)
        asked = time.monotonic()
        while not threads.statistics().tasks_waiting:
            await anyio.sleep(0.01)
        waited = time.monotonic()
        let_go.set()
    assert asked < second[0] <= waited + 5


@pytest.mark.rule("E8")
def test_prune_ends_with_the_first_request_that_no_endpoint_answers(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EtcdStore(EtcdConfig((("127.0.0.1", proxy.port),), fresh_config().prefix), local_machine())
    monkeypatch.setattr(store, "min_claim_lease", 60)
    session = named_session(store, "ci")
    for number in range(3):
        assert session.try_claim(f"red {number}", ttl_minutes=1 / 60).claimed
    while any(listed.state is not ClaimState.EXPIRED for listed in session.list_claims().claims):
        time.sleep(0.05)
    asked: list[object] = []
    swap_all = store.swap_all

    def nobody_answers(changes: Sequence[Change]) -> Swaps:
        asked.append(changes)
        proxy.cut()
        return swap_all(changes)

    monkeypatch.setattr(store, "swap_all", nobody_answers)
    with pytest.raises(StoreUnavailableError):
        session.prune()
    assert len(asked) == 1


@pytest.mark.rule("E8")
def test_sessions_that_ended_while_the_cluster_is_gone_have_one_time_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = SessionRegistry(fresh_store(), own=None)
    for connection in ("one", "two"):
        caller = Caller(connection=connection)
        assert sessions.session_for(caller, None).session.try_claim(connection).claimed
        sessions.end_connection(connection)
    wanted: list[float] = []
    monkeypatch.setattr(Session, "close", lambda *_, **__: wanted.append(deadline_in(1_000.0)))
    sessions.release_ended()
    assert len(wanted) == 2 and wanted[0] == wanted[1]


@pytest.mark.parametrize("end", ["EOF", "SIGTERM"])
async def test_the_end_of_a_server_frees_what_it_held_at_once(end: str) -> None:
    store = fresh_store()
    serve = ["-m", "mcp_claims", "serve", "--store", str(store.config)]
    async with Client(StdioServerParameters(command=sys.executable, args=serve, env=PYTHON_ENVIRONMENT)) as client:
        for number in range(30):
            assert structured_of(await client.call_tool("try_claim", {"key": f"key {number}"}))["claimed"]
        (holder, *_) = {found.holder for found in store.scan() if isinstance(found, Claim)}
        if end == "SIGTERM":
            died = os.pidfd_open(holder.pid)
            os.kill(holder.pid, signal.SIGTERM)
            await anyio.wait_readable(died)
            os.close(died)
            assert list(store.scan()) == []
    assert list(store.scan()) == []


@pytest.mark.rule("E9")
@pytest.mark.parametrize("end", ["EOF", "SIGTERM"])
def test_a_server_whose_cluster_is_gone_ends_in_time_however_many_sessions_hold_something(
    proxy: Proxy, end: str
) -> None:
    url = str(EtcdConfig((("127.0.0.1", proxy.port),), fresh_config().prefix))
    command = [sys.executable, "-m", "mcp_claims", "serve", "--store", url]
    with subprocess.Popen(
        command, text=True, env=PYTHON_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        server = RawServer(process)
        for number in range(5):
            handle = server.call("open_session")["session"]
            assert server.call("try_claim", key=f"key {number}", session=handle)["claimed"]
        proxy.cut()
        server.stdin.close()
        if end == "SIGTERM":
            process.terminate()
        # One after the other they would take 20 s.
        assert process.wait(10) == 0


async def test_a_waiter_is_woken_by_a_release_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for interval in ("_POLL_INTERVAL", "_LONG_POLL_INTERVAL"):
        monkeypatch.setattr(acquire, interval, 600.0)  # Not by polling.
    store = fresh_store()
    watched = Event()
    aim = Alarm.aim

    def noticed(alarm: Alarm, blocking: Claim | Ticket) -> bool:
        aimed = aim(alarm, blocking)
        watched.set()
        return aimed

    monkeypatch.setattr(Alarm, "aim", noticed)
    holder, waiter = process_session(EtcdStore(store.config, local_machine())), process_session(store)
    server = build_server(lambda: SessionRegistry(store, own=waiter))
    assert holder.try_claim("red").claimed
    async with Client(server) as client, anyio.create_task_group() as calls:

        async def wait() -> None:
            answer = await client.call_tool("try_claim", {"key": "red", "wait_seconds": 200})
            assert structured_of(answer)["status"] == "your_turn"

        calls.start_soon(wait)
        assert await anyio.to_thread.run_sync(watched.wait, 100)
        await anyio.to_thread.run_sync(holder.release, "red")


@pytest.mark.rule("E9")
async def test_a_grant_to_a_call_that_was_cancelled_meanwhile_is_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = fresh_store()
    session = process_session(store)
    asked, cancelled = Event(), Event()

    try_request = session.try_request

    def answer_late(request: ClaimRequest, *, lock_timeout: float) -> ClaimResult:
        asked.set()
        assert cancelled.wait(20)
        return try_request(request, lock_timeout=lock_timeout)

    monkeypatch.setattr(session, "try_request", answer_late)
    async with anyio.create_task_group() as calls:
        calls.start_soon(acquire_async, session, ClaimRequest.parse("red"))
        await anyio.to_thread.run_sync(asked.wait)
        calls.cancel_scope.cancel()
        cancelled.set()
    assert store.read(ScopedKey("default", "red")) is None
    assert not session.holds_anything
