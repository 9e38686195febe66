"""From the quick stage of stdio to the SDK's server in one process: no answer is lost or doubled, and nothing starts anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcp_claims.model.records import ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.server.test_quick import HANDSHAKE, INITIALIZE, LATE, MODERN, RECORDED, Message, request
from tests.support.servers import ENVELOPE, PYTHON_ENVIRONMENT, RawServer, has_imported_the_sdk, raw_server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the quick stage needs pipes that can be polled")

# The quick stage does not know this method, and neither server supports it.
NOT_PLAIN = {
    _protocol: request("not plain", "logging/setLevel", {"level": "info"} | meta)
    for _protocol, meta in (("handshake", {}), ("modern", {"_meta": ENVELOPE}))
}
WITHIN = 30.0
HELD = ScopedKey("default", "red")


def send(server: RawServer, *messages: Message) -> None:
    server.stdin.write("".join(f"{json.dumps(message)}\n" for message in messages))
    server.stdin.flush()


def answer_to(server: RawServer, request_id: int | str) -> Message:
    """Read until the answer to that request."""
    while True:
        message = server.receive()
        if message.get("id") == request_id:
            return message


def call(number: int, tool: str, **arguments: Any) -> Message:
    return request(
        number, "tools/call", {"name": tool, "arguments": arguments, "_meta": ENVELOPE | {"progressToken": 1}}
    )


def hand_over(server: RawServer) -> None:
    assert not has_imported_the_sdk(server.process.pid)
    send(server, NOT_PLAIN["modern"])
    assert "error" in answer_to(server, "not plain")
    assert has_imported_the_sdk(server.process.pid)


@pytest.mark.rule("Q1")
@pytest.mark.skipif(sys.platform != "linux", reason="reads what the server has mapped")
@pytest.mark.parametrize("session", RECORDED, ids=lambda path: path.stem)
def test_a_session_of_a_real_host_never_imports_the_sdk(claims_dir: Path, session: Path) -> None:
    messages = [json.loads(line) for line in session.read_bytes().splitlines()]
    extra = [
        request(
            "last", *(("ping",) if "protocolVersion" in messages[0]["params"] else ("tools/list", {"_meta": ENVELOPE}))
        )
    ]
    with raw_server(claims_dir) as server:
        send(server, *messages, *extra)
        answer_to(server, "last")
        assert not has_imported_the_sdk(server.process.pid)


@pytest.mark.rule("Q4")
@pytest.mark.parametrize("position", [0, 1, 2, 3, 8, 99])
@pytest.mark.parametrize("protocol", ["handshake", "modern", "late"])
def test_a_hand_over_at_any_message_loses_and_doubles_no_answer(claims_dir: Path, protocol: str, position: int) -> None:
    messages = [*{"handshake": HANDSHAKE, "modern": MODERN, "late": LATE}[protocol]]
    messages.insert(min(position, len(messages)), NOT_PLAIN["modern" if protocol == "modern" else "handshake"])
    with raw_server(claims_dir) as server:
        send(server, *messages)
        server.stdin.close()
        answers = [json.loads(line) for line in server.stdout]
        assert server.process.wait(WITHIN) == 0
    asked = Counter(message["id"] for message in messages if "id" in message and message["id"] != 50)
    assert Counter(answer["id"] for answer in answers if "id" in answer) == asked
    acknowledged = sum(answer.get("method", "") == "notifications/subscriptions/acknowledged" for answer in answers)
    if protocol == "modern" and position < len(MODERN):
        # The SDK's server gets the request and its cancellation at once, and need not acknowledge it any more.
        assert acknowledged <= 1
    else:
        assert acknowledged == (protocol == "modern")


@pytest.mark.rule("Q4")
def test_the_session_keeps_its_holder_and_its_claims(claims_dir: Path) -> None:
    with raw_server(claims_dir) as server:
        before = server.call("try_claim", key="red", ttl_minutes=1 / 30, keep_alive=True)
        hand_over(server)
        time.sleep(2.5)
        after = server.call("try_claim", key="red")
        assert (after["status"], after["holder"], after["generation"]) == ("renewed", before["holder"], 1)


@pytest.mark.rule("Q4")
def test_the_sdks_server_gets_the_handshake(claims_dir: Path) -> None:
    claim = {"name": "try_claim", "arguments": {"key": "red"}}
    with raw_server(claims_dir) as server:
        send(server, *HANDSHAKE[:2], request(1, "tools/call", claim), NOT_PLAIN["handshake"])
        send(server, request(2, "tools/call", claim))
        before = answer_to(server, 1)["result"]["structuredContent"]
        answer = answer_to(server, 2)["result"]["structuredContent"]
        assert before["client"].startswith("host 1, ")
        assert (answer["status"], answer["client"]) == ("renewed", before["client"])


@pytest.mark.rule("Q2", "Q4")
@pytest.mark.parametrize("protocol", ["handshake", "modern"])
def test_a_client_that_has_probed_and_greeted_goes_on_by_either_protocol(claims_dir: Path, protocol: str) -> None:
    meta = {"_meta": ENVELOPE} if protocol == "modern" else {}
    with raw_server(claims_dir) as server:
        send(server, *LATE[:2], request(1, "tools/list", meta), request(2, "tools/list", meta | {"no field": 1}))
        for number in ("probe", 0, 1):
            assert "result" in answer_to(server, number)
        # The first of them that is not plain.
        assert "result" in answer_to(server, 2)
    with raw_server(claims_dir) as server:
        send(server, *LATE[:2], request(2, "tools/list", meta | {"no field": 1}), request(3, "tools/list", meta))
        for number in ("probe", 0, 2, 3):
            assert "result" in answer_to(server, number)


@pytest.mark.rule("Q4")
@pytest.mark.parametrize(
    "params",
    [
        {"clientInfo": {"name": "host", "version": "1", "icons": [{"src": "https://host.test/icon.png"}]}},
        {"capabilities": {"tasks": {}}},
    ],
)
def test_a_client_that_has_probed_may_greet_in_a_way_that_is_not_plain(
    claims_dir: Path, params: dict[str, Any]
) -> None:
    with raw_server(claims_dir) as server:
        send(server, LATE[0], request(0, "initialize", INITIALIZE | params), *LATE[2:3], request(1, "tools/list"))
        for number in ("probe", 0, 1):
            assert "result" in answer_to(server, number)


@contextmanager
def waiting(claims_dir: Path) -> Iterator[tuple[RawServer, Any]]:
    """A server after its hand-over, during which call 7 waited for a key that the session holds."""
    with process_session(FileStore(claims_dir)) as session, raw_server(claims_dir) as server:
        session.try_claim("red")
        send(server, call(7, "try_claim", key="red", wait_seconds=300))
        hand_over(server)
        yield server, session


@pytest.mark.rule("Q4")
def test_a_wait_continues_and_is_reported_and_answered(claims_dir: Path) -> None:
    with waiting(claims_dir) as (server, session):
        progress = server.receive()
        assert (progress["method"], progress["params"]["progressToken"]) == ("notifications/progress", 1)
        session.release("red")
        assert answer_to(server, 7)["result"]["structuredContent"]["status"] == "your_turn"
        assert server.call("try_claim", key="red")["status"] == "acquired"


@pytest.mark.rule("Q4")
def test_a_wait_can_be_cancelled_and_then_holds_nothing(claims_dir: Path) -> None:
    with waiting(claims_dir) as (server, session):
        send(server, {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})
        server.call("list_claims")
        session.release("red")
        with process_session(FileStore(claims_dir)).claim("red", wait=WITHIN):
            assert server.call("is_claimed_by_other", key="red")["claimed_by_other"]
        server.stdin.close()
        assert '"id":7' not in server.stdout.read()


@pytest.mark.rule("Q4", "V2")
def test_a_wait_is_answered_when_the_input_ends(claims_dir: Path) -> None:
    with waiting(claims_dir) as (server, _):
        server.stdin.close()
        assert answer_to(server, 7)["result"]["structuredContent"]["status"] == "held"
        assert server.process.wait(WITHIN) == 0


@pytest.mark.rule("V2")
@pytest.mark.parametrize("handed_over", [True, False])
def test_a_signal_ends_both_stages_and_frees_what_they_hold(claims_dir: Path, handed_over: bool) -> None:
    with raw_server(claims_dir) as server:
        assert server.call("try_claim", key="red")["claimed"]
        if handed_over:
            hand_over(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WITHIN) == 0
    assert FileStore(claims_dir).read(HELD) is None


@pytest.mark.rule("Q4")
def test_a_stream_of_changes_is_acknowledged_once_and_closed_once(claims_dir: Path) -> None:
    listen = request(9, "subscriptions/listen", {"notifications": {"toolsListChanged": True}, "_meta": ENVELOPE})
    with raw_server(claims_dir) as server:
        send(server, listen)
        acknowledged = server.receive()
        assert acknowledged["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 9}
        send(server, NOT_PLAIN["modern"])
        server.stdin.close()
        rest = [json.loads(line) for line in server.stdout]
    assert [each.get("id") for each in rest] == ["not plain", 9]
    assert rest[1]["error"]["message"] == "Connection closed"


@pytest.mark.rule("Q6")
# 8 MiB of answers of 750 bytes; 1,024 calls, and as many as a pipe has room for.
@pytest.mark.parametrize(("arguments", "most"), [([], 16_000), (["--no-quick"], 2_500)], ids=["quick", "sdk"])
def test_a_host_that_reads_no_answers_costs_no_more_memory_and_gets_all_of_them(
    claims_dir: Path, arguments: list[str], most: int
) -> None:
    with raw_server(claims_dir, *arguments) as server:
        server.call("try_claim", key="red")
        before = psutil.Process(server.process.pid).memory_info().rss
        os.set_blocking(server.stdin.fileno(), False)
        sent = stuck = 0
        while stuck < 50 and sent <= most:
            line = f"{json.dumps(call(sent, 'is_claimed_by_other', key='red'))}\n".encode()
            try:
                os.write(server.stdin.fileno(), line)
                sent += 1
                stuck = 0
            except BlockingIOError:
                stuck += 1
                time.sleep(0.02)
        grown = psutil.Process(server.process.pid).memory_info().rss - before
        assert sent <= most, "the server reads on although nobody reads its answers"
        assert grown < 60 * 2**20
        os.set_blocking(server.stdin.fileno(), True)
        server.stdin.close()
        assert sorted(json.loads(line)["id"] for line in server.stdout) == list(range(sent))


@pytest.mark.rule("Q7")
def test_on_a_terminal_the_sdks_server_serves_alone(claims_dir: Path) -> None:
    ours, terminal = os.openpty()
    with (
        open(ours, "wb", buffering=0) as typing,
        subprocess.Popen(
            [sys.executable, "-m", "mcp_claims", "serve", "--dir", str(claims_dir)],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=PYTHON_ENVIRONMENT,
        ) as process,
    ):
        os.close(terminal)
        try:
            typing.write(json.dumps(request(0, "initialize", INITIALIZE)).encode() + b"\n")
            assert process.stdout is not None and b'"result"' in process.stdout.readline()
            assert has_imported_the_sdk(process.pid)
        finally:
            process.kill()


@pytest.mark.rule("Q7")
def test_no_quick_leaves_everything_to_the_sdks_server(claims_dir: Path) -> None:
    with raw_server(claims_dir, "--no-quick") as server:
        send(server, request(0, "initialize", INITIALIZE))
        answer_to(server, 0)
        assert has_imported_the_sdk(server.process.pid)


def test_what_was_answered_before_a_message_without_an_answer_is_not_kept_back(claims_dir: Path) -> None:
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1.5}}
    with raw_server(claims_dir) as server:
        send(server, request(0, "initialize", INITIALIZE), cancelled)
        assert server.receive()["id"] == 0


def test_a_claim_is_kept_alive_while_the_sdk_is_imported(claims_dir: Path) -> None:
    """The import takes longer than this claim lives."""
    with raw_server(claims_dir) as server, process_session(FileStore(claims_dir)) as rival:
        assert server.call("try_claim", key="red", ttl_minutes=1 / 60, keep_alive=True)["claimed"]
        send(server, NOT_PLAIN["modern"])
        while not has_imported_the_sdk(server.process.pid):
            assert not rival.try_claim("red").claimed
        answer_to(server, "not plain")
        assert not rival.try_claim("red").claimed


def test_what_is_nested_too_deeply_for_the_sdk_is_left_to_it(claims_dir: Path) -> None:
    deep = json.loads("[" * 180 + "]" * 180)
    with raw_server(claims_dir) as server:
        send(server, request(0, "initialize", INITIALIZE | {"capabilities": {"experimental": {"a": {"b": deep}}}}))
        answer_to(server, 0)
        assert has_imported_the_sdk(server.process.pid)


def test_answers_that_the_host_has_not_read_at_the_hand_over_wait_for_it(claims_dir: Path) -> None:
    # More than a pipe holds, and then a notice to which nobody answers.
    lists = [request(number, "tools/list") for number in range(1, 60)]
    malformed = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1.5}}
    with raw_server(claims_dir) as server:
        send(server, request(0, "initialize", INITIALIZE), *lists, malformed, request(60, "ping"))
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(3)
        server.stdin.close()
        assert [json.loads(line)["id"] for line in server.stdout] == list(range(61))


def test_calls_that_share_an_id_are_all_answered_when_the_input_ends(claims_dir: Path) -> None:
    with process_session(FileStore(claims_dir)) as session, raw_server(claims_dir) as server:
        session.try_claim("red")
        send(server, *(call(number, "try_claim", key="red", wait_seconds=300) for number in (7, 7, 8)))
        hand_over(server)
        server.stdin.close()
        answers = [json.loads(line) for line in server.stdout]
        assert sorted(answer["id"] for answer in answers if "id" in answer) == [7, 7, 8]
