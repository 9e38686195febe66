"""A server whose store is over a network: no call keeps the others waiting, whatever the cluster does."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp import Client, StdioServerParameters

from mcp_claims import patience
from mcp_claims.answers import Attempt
from mcp_claims.machine import local_machine
from mcp_claims.patience import claim_patiently
from mcp_claims.record import Claim, ScopedKey
from mcp_claims.server.app import build_server
from mcp_claims.sessions import Sessions, process_session
from mcp_claims.stores.etcd.address import Address
from mcp_claims.stores.etcd.store import EtcdStore
from tests.support.etcd import fresh_address, fresh_store, one_node
from tests.support.proxy import Proxy
from tests.support.servers import PYTHON_ENVIRONMENT, facts, words

pytestmark = pytest.mark.anyio


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy(one_node().clients[0])
    yield made
    made.close()


async def test_while_the_cluster_does_not_answer_other_calls_go_on_and_the_server_recovers(proxy: Proxy) -> None:
    store = EtcdStore(Address((("127.0.0.1", proxy.port),), fresh_address().prefix), local_machine())
    server = build_server(lambda: Sessions(store, own=process_session(store)))
    order: list[str] = []
    async with Client(server) as client:
        assert facts(await client.call_tool("try_claim", {"key": "warm"}))["claimed"]
        proxy.cut()
        began = time.monotonic()

        async def claim() -> None:
            answer = await client.call_tool("try_claim", {"key": "red"})
            order.append("claim")
            assert answer.is_error and "no endpoint of etcd has answered in time" in words(answer)

        async with anyio.create_task_group() as calls:
            calls.start_soon(claim)
            await anyio.sleep(0.1)
            await client.list_tools()
            order.append("list")
        assert order == ["list", "claim"]
        assert time.monotonic() - began < 10, "4 s, on a machine that is not busy with other things"
        proxy.mend()
        assert facts(await client.call_tool("try_claim", {"key": "red"}))["claimed"]
        handle = facts(await client.call_tool("open_session", {}))["session"]
        assert not facts(await client.call_tool("try_claim", {"key": "red", "session": handle}))["claimed"]


@pytest.mark.parametrize("end", ["EOF", "SIGTERM"])
async def test_the_end_of_a_server_frees_what_it_held_at_once(end: str) -> None:
    store = fresh_store()
    serve = ["-m", "mcp_claims", "serve", "--store", str(store.address)]
    async with Client(StdioServerParameters(command=sys.executable, args=serve, env=PYTHON_ENVIRONMENT)) as client:
        for number in range(30):
            assert facts(await client.call_tool("try_claim", {"key": f"key {number}"}))["claimed"]
        (holder, *_) = {found.holder for found in store.scan() if isinstance(found, Claim)}
        if end == "SIGTERM":
            died = os.pidfd_open(holder.pid)
            os.kill(holder.pid, signal.SIGTERM)
            await anyio.wait_readable(died)
            os.close(died)
            assert list(store.scan()) == []
    assert list(store.scan()) == []


async def test_whoever_waits_is_woken_by_a_release_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_LOOK_AGAIN", 60.0)  # Not by looking again.
    store = fresh_store()
    watched = Event()
    watch = EtcdStore.watch

    @contextmanager
    def noticed(*arguments: Any) -> Iterator[bool]:
        with watch(*arguments) as can_be:
            watched.set()
            yield can_be

    monkeypatch.setattr(EtcdStore, "watch", noticed)
    holder, waiter = process_session(EtcdStore(store.address, local_machine())), process_session(store)
    server = build_server(lambda: Sessions(store, own=waiter))
    assert holder.try_claim("red").claimed
    async with Client(server) as client, anyio.create_task_group() as calls:

        async def wait() -> None:
            answer = await client.call_tool("try_claim", {"key": "red", "wait_seconds": 20})
            assert facts(answer)["claimed"]

        calls.start_soon(wait)
        assert await anyio.to_thread.run_sync(watched.wait, 20)
        await anyio.to_thread.run_sync(holder.release, "red")


async def test_what_is_granted_to_a_call_that_was_cancelled_meanwhile_is_given_back() -> None:
    store = fresh_store()
    session = process_session(store)
    asked, cancelled = Event(), Event()

    def attempt_once(wait: float) -> Attempt:
        asked.set()
        assert cancelled.wait(20)
        return session.try_claim("red", wait=wait)

    async def unheard(waited: float, of: float, what: str) -> None:
        """Nobody asked to be told."""

    async with anyio.create_task_group() as calls:
        calls.start_soon(claim_patiently, session, ScopedKey("default", "red"), attempt_once, 0.0, unheard)
        await anyio.to_thread.run_sync(asked.wait)
        calls.cancel_scope.cancel()
        cancelled.set()
    assert store.read(ScopedKey("default", "red")) is None
    assert not session.holds_anything
