"""Waiting for a key over real servers: woken by a release, a death, an expiry; it is the turn of one of those who wait."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from mcp_claims.model.records import Outcome
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.support.http_servers import ProtocolVersion, http_client, http_server
from tests.support.servers import RawServer, in_queue, raw_server, stdio, structured_of, text_of

TIMEOUT = 60


@contextmanager
def waiting(server: RawServer, **arguments: Any) -> Iterator[list[dict[str, Any]]]:
    """Let *server* wait for the key meanwhile; afterwards its answer is in the list."""
    sent = server.send("try_claim", {"key": "red", "wait_seconds": TIMEOUT, **arguments})
    answers: list[dict[str, Any]] = []

    def listen() -> None:
        message = server.receive()
        assert message["id"] == sent
        answers.append({**message["result"]["structuredContent"], "at": time.monotonic()})

    thread = threading.Thread(target=listen)
    thread.start()
    yield answers
    thread.join(TIMEOUT)
    assert answers


def waits(claims_dir: Path, sessions: int = 1) -> None:
    """Return once so many *sessions* have a ticket, and listen to whoever wakes them."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if len(in_queue(claims_dir)) == sessions:
            return
        time.sleep(0.01)
    pytest.fail("they do not wait")


@pytest.mark.rule("V8")
def test_a_release_wakes_a_waiter_long_before_it_would_poll(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    delays = []
    with raw_server(claims_dir) as server:
        for _ in range(9):
            assert holder.try_claim("red").claimed
            with waiting(server) as answers:
                waits(claims_dir)
                holder.release("red")
                released = time.monotonic()
            assert answers[0]["status"] == "your_turn"
            delays.append(answers[0]["at"] - released)
            assert server.call("try_claim", key="red")["status"] == "acquired"
            server.call("release", key="red")
    print(f"released to told: median {statistics.median(delays) * 1000:.1f} ms", file=sys.stderr)
    # Polling would take a second on average.
    assert statistics.median(delays) < 0.5


@pytest.mark.rule("V8")
def test_the_death_of_the_holder_wakes_a_waiter(claims_dir: Path) -> None:
    with raw_server(claims_dir) as holder, raw_server(claims_dir) as server:
        holder.call("try_claim", key="red")
        with waiting(server) as answers:
            waits(claims_dir)
            holder.process.kill()
            killed = time.monotonic()
        assert answers[0]["status"] == "your_turn" and answers[0]["at"] - killed < 1.5
        assert server.call("try_claim", key="red")["previous"]["state"] == "orphaned"


def test_an_expiry_ends_the_wait(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    with raw_server(claims_dir) as server:
        server.call("list_claims")
        holder.try_claim("red", ttl_minutes=1 / 12)
        with waiting(server) as answers:
            pass
        assert answers[0]["status"] == "your_turn"
        assert server.call("try_claim", key="red")["previous"]["state"] == "expired"


def test_work_that_is_done_meanwhile_ends_the_wait_without_a_claim(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    with raw_server(claims_dir) as server, waiting(server) as answers:
        waits(claims_dir)
        holder.release("red", outcome=Outcome.DONE)
    assert (answers[0]["claimed"], answers[0]["status"]) == (False, "done")


def test_when_the_time_is_up_it_is_a_refusal_like_any_other(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    with raw_server(claims_dir) as server:
        began = time.monotonic()
        answers = server.call("try_claim", key="red", wait_seconds=0.5)
        assert time.monotonic() - began >= 0.5
        assert (answers["claimed"], answers["status"], answers["holder"]) == (False, "held", holder.holder.name)


def test_a_wait_keeps_no_other_call_of_the_session_waiting_and_ends_with_it(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    with raw_server(claims_dir) as server:
        server.send("try_claim", {"key": "red", "wait_seconds": TIMEOUT})
        assert server.call("try_claim", key="other")["claimed"]
        server.stdin.close()
        assert server.process.wait(timeout=20) == 0
    assert holder.inspect("red").held_by_you
    assert not holder.inspect("other").claimed_by_other


@pytest.mark.rule("V1")
@pytest.mark.skipif(sys.platform != "linux", reason="the limits of another process can be changed on Linux alone")
@pytest.mark.parametrize("stage", [(), ("--no-quick",)], ids=["quick", "sdk"])
def test_waits_leave_other_calls_the_files_that_they_need(claims_dir: Path, stage: tuple[str, ...]) -> None:
    import resource

    process_session(FileStore(claims_dir)).try_claim("red")
    with raw_server(claims_dir, *stage) as server:
        server.call("try_claim", key="mine")
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (256, 256))
        for _ in range(100):
            server.send("try_claim", {"key": "red", "wait_seconds": TIMEOUT})
        refused = [server.receive()["result"]["structuredContent"]["status"] for _ in range(100 - (256 - 96) // 5)]
        assert set(refused) == {"held"}
        for key in ("other", "another"):
            assert server.call("try_claim", key=key)["claimed"]
            assert server.call("release", key=key)["released"]


@pytest.mark.rule("V1")
@pytest.mark.skipif(sys.platform != "linux", reason="the limits of another process can be read on Linux alone")
def test_a_server_asks_for_the_files_that_its_waits_need(claims_dir: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        with raw_server(claims_dir) as server:
            server.call("try_claim", key="mine")
            limit, _ = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert limit == min(4_096, hard)


@pytest.mark.rule("V8")
@pytest.mark.anyio
async def test_a_wait_that_is_cancelled_leaves_nothing_behind(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    async with Client(stdio(claims_dir)) as client:
        with anyio.move_on_after(0.5):
            await client.call_tool("try_claim", {"key": "red", "wait_seconds": TIMEOUT})
        # An answer means that the server has read the cancellation, which was sent before.
        await client.call_tool("is_claimed_by_other", {"key": "other"})
        holder.release("red")
        for _ in range(10):
            assert structured_of(await client.call_tool("is_claimed_by_other", {"key": "red"}))["held_by_you"] is False
            await anyio.sleep(0.02)


@pytest.mark.anyio
@pytest.mark.parametrize("protocol_version", ["legacy", "2026-07-28"])
async def test_sessions_of_one_http_server_wait_for_each_other_and_for_others(
    claims_dir: Path, protocol_version: ProtocolVersion
) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    with http_server(claims_dir) as server:
        async with (
            http_client(server.url, protocol_version) as ada,
            http_client(server.url, protocol_version) as ben,
            anyio.create_task_group() as tasks,
        ):
            answers: list[str] = []

            async def take_a_turn(client: Client, name: str) -> None:
                handle = structured_of(await client.call_tool("open_session", {}))["session"]
                arguments = {"key": "red", "session": handle}
                told = structured_of(await client.call_tool("try_claim", {**arguments, "wait_seconds": TIMEOUT}))
                got = structured_of(await client.call_tool("try_claim", arguments))
                answers.append(f"{name} {told['status']} {got['status']}")
                await client.call_tool("release", arguments)

            tasks.start_soon(take_a_turn, ada, "ada")
            tasks.start_soon(take_a_turn, ben, "ben")
            with anyio.fail_after(TIMEOUT):
                while len(lines := in_queue(claims_dir)) < 2:
                    await anyio.sleep(0.01)
            assert len(lines) == 2 and not answers
            holder.release("red")
    assert sorted(answers) == ["ada your_turn acquired", "ben your_turn acquired"]


@pytest.mark.anyio
async def test_a_waiter_gets_progress(claims_dir: Path) -> None:
    process_session(FileStore(claims_dir)).try_claim("red")
    answers: list[tuple[float, float | None, str | None]] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        answers.append((progress, total, message))

    async with Client(stdio(claims_dir)) as client:
        arguments = {"key": "red", "wait_seconds": 7}
        answer = await client.call_tool("try_claim", arguments, progress_callback=progress)
    assert structured_of(answer)["status"] == "held"
    assert answers and answers[0][1:] == (7, "still held by another session")


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [-1, 301, "soon", True])
async def test_a_wait_out_of_range_is_refused(claims_dir: Path, seconds: object) -> None:
    async with Client(stdio(claims_dir)) as client:
        refused = await client.call_tool("try_claim", {"key": "red", "wait_seconds": seconds})
    assert refused.is_error and "wait_seconds" in text_of(refused)


@pytest.mark.rule("V9")
def test_each_release_is_got_by_exactly_one_of_those_who_wait_and_all_get_it_in_the_end(claims_dir: Path) -> None:
    holder = process_session(FileStore(claims_dir))
    holder.try_claim("red")
    with ExitStack() as stack:
        servers = [stack.enter_context(raw_server(claims_dir)) for _ in range(6)]
        answers: list[dict[str, Any]] = []
        active = [0]

        def take_a_turn(server: RawServer) -> None:
            assert server.call("try_claim", key="red", wait_seconds=TIMEOUT)["status"] == "your_turn"
            answer = server.call("try_claim", key="red")
            assert answer["status"] == "acquired"
            active[0] += 1
            assert active[0] == 1, "two have it"
            time.sleep(0.01)
            active[0] -= 1
            answers.append(answer)
            server.call("release", key="red")

        threads = [threading.Thread(target=take_a_turn, args=(server,)) for server in servers]
        for thread in threads:
            thread.start()
        waits(claims_dir, len(servers))
        holder.release("red")
        for thread in threads:
            thread.join(TIMEOUT)
    generations = [answer["generation"] for answer in answers]
    assert len(generations) == 6 and generations == sorted(set(generations))
