"""What is on the wire: stdout is protocol only, stderr is quiet, and waiting for one thing blocks nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client

from tests.support.servers import BOTH_STAGES, raw_server, stdio, structured_of

posix = pytest.mark.skipif(sys.platform == "win32", reason="flock of POSIX")


@pytest.mark.rule("V3")
def test_neither_keys_nor_notes_appear_in_the_log(claims_dir: Path) -> None:
    with raw_server(claims_dir, stderr=subprocess.PIPE) as server:
        server.call("try_claim", key="secret-key", note="secret-note")
        for arguments in ({"key": "secret-key\n"}, {"key": "k", "note": "secret-note" * 100}, {"secret-arg": 1}):
            server.send("try_claim", arguments)
            assert server.receive()["result"]["isError"]
        server.stdin.close()
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""


@pytest.mark.rule("V1")
@posix
@BOTH_STAGES
def test_a_stopped_process_in_one_namespace_keeps_neither_other_calls_nor_other_namespaces_waiting(
    claims_dir: Path, options: list[str]
) -> None:
    with raw_server(claims_dir, *options) as server:
        server.call("try_claim", key="red")
        lock = os.open(claims_dir / "default" / ".lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            waiting = server.send("try_claim", {"key": "green"})
            # Each is the next message, before the answer to the call that waits.
            assert server.call("try_claim", key="green", namespace="elsewhere")["claimed"]
            assert server.call("is_claimed_by_other", key="red")["held_by_you"]
            # Its own turn comes to an end too, with an error that says what to do.
            message = server.receive()
        finally:
            os.close(lock)
        assert message["id"] == waiting
        assert message["result"]["isError"]
        text = message["result"]["content"][0]["text"]
        assert ".lock for 5.0 s" in text and "do not act" in text and "Other namespaces are not affected" in text
        assert server.call("try_claim", key="green")["claimed"], "it recovers when the lock is free"


@posix
def test_a_call_gets_its_claim_when_the_lock_is_freed_while_it_waits(claims_dir: Path) -> None:
    with raw_server(claims_dir) as server:
        server.call("try_claim", key="red")
        lock = os.open(claims_dir / "default" / ".lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = server.send("try_claim", {"key": "green"})
        assert server.call("is_claimed_by_other", key="red")["held_by_you"]
        os.close(lock)
        message = server.receive()
        assert message["id"] == waiting
        assert message["result"]["structuredContent"]["status"] == "acquired"


@pytest.mark.anyio
@pytest.mark.parametrize("protocol_version", ["legacy", "auto", "2026-07-28"])
async def test_the_sdks_client_claims_in_every_era(claims_dir: Path, protocol_version: str) -> None:
    async with Client(stdio(claims_dir), mode=protocol_version) as client:
        assert client.instructions is not None or protocol_version == "2026-07-28"
        assert [tool.name for tool in (await client.list_tools()).tools] == [
            "try_claim",
            "is_claimed_by_other",
            "release",
            "list_claims",
            "open_session",
            "prune",
        ]
        assert structured_of(await client.call_tool("try_claim", {"key": "red"}))["claimed"]
        record = json.loads((claims_dir / "default" / "red.json").read_text())
        assert record["client"].startswith("mcp ")


@pytest.mark.rule("V3")
def test_a_line_that_is_no_message_is_answered_with_an_error_and_its_id_where_it_has_one(claims_dir: Path) -> None:
    """A host waits for the answer to its request until its time-out: 330 s, where `install` wrote the entry."""
    surrogate = '{"name": "try_claim", "arguments": {"key": "k", "note": "\\ud83d"}}'
    lines: dict[str, list[tuple[int | str | None, int]]] = {
        f'{{"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {surrogate}}}': [(2, -32600)],
        "no JSON": [(None, -32700)],
        '[{"jsonrpc": "2.0", "id": 3, "method": "ping"}, {"jsonrpc": "2.0", "id": "x", "method": "ping"}]': [
            (3, -32600),
            ("x", -32600),
        ],
        '{"id": 5}': [(5, -32600)],
        '{"jsonrpc": "2.0", "id": 6, "method": 7}': [(6, -32600)],
        "7": [(None, -32600)],
        "[]": [(None, -32600)],
        "\x00": [(None, -32700)],
        "é" * 10_000: [(None, -32700)],
    }
    with raw_server(claims_dir) as server:
        for line, expected in lines.items():
            server.send_line(line)
            errors = [server.receive() for _ in expected]
            assert [(error["id"], error["error"]["code"]) for error in errors] == expected
        server.send_line("")
        assert server.call("try_claim", key="k")["claimed"], "the server goes on, and a blank line is nothing"
