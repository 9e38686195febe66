"""Over stdio: the process is the session; handles, fixed sessions and claims that are kept alive."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.support.servers import ENVELOPE, RawServer, raw_server

# Two of Codex, of version 7: they begin with the time.
THREADS = ("01a222f8-4c1e-7d3a-9f10-2b6c5e3a91c7", "01a222f8-4c52-7b08-8e44-91d00b44d2f8")


def record(directory: Path, key: str = "red") -> dict[str, Any]:
    read: dict[str, Any] = json.loads((directory / "default" / f"{key}.json").read_text())
    return read


def test_a_restarted_server_goes_on_with_the_handles_of_the_killed_one(claims_dir: Path) -> None:
    with raw_server(claims_dir) as server:
        handle = server.call("open_session", label="tests")["session"]
        first = server.call("try_claim", key="red", session=handle)
        assert not server.call("try_claim", key="red")["claimed"], "the connection is somebody else"
    with raw_server(claims_dir) as server:
        again = server.call("try_claim", key="red", session=handle)
    assert (again["status"], again["generation"], again["holder"]) == ("renewed", first["generation"], first["holder"])


def test_the_claims_of_handles_end_with_the_connection_they_were_used_on(claims_dir: Path) -> None:
    with raw_server(claims_dir) as server:
        handle = server.call("open_session")["session"]
        server.call("try_claim", key="red", session=handle)
        server.stdin.close()
        assert server.process.wait(timeout=20) == 0
    assert not (claims_dir / "default" / "red.json").exists()


@pytest.mark.rule("I6")
@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_fixed_session_is_the_same_in_every_server_started_for_a_call(claims_dir: Path, how: str) -> None:
    arguments = ["--session", "night shift"] if how == "option" else []
    env = {"MCP_CLAIMS_SESSION": "night shift"} if how == "variable" else {}
    seen = []
    for _ in range(2):
        with raw_server(claims_dir, *arguments, env=env) as server:
            seen.append(server.call("try_claim", key="red"))
            server.stdin.close()
            server.process.wait(timeout=20)
    assert [answer["status"] for answer in seen] == ["acquired", "renewed"]
    assert seen[0]["holder"] == seen[1]["holder"] and seen[0]["holder"].endswith(":session:night shift")
    assert not process_session(FileStore(claims_dir)).try_claim("red").claimed
    with raw_server(claims_dir, *arguments, env=env) as server:
        assert server.call("release", key="red")["released"]


@pytest.mark.rule("I7", "Q5")
def test_what_is_kept_alive_outlives_its_ttl_and_what_is_not_does_not(claims_dir: Path) -> None:
    other = process_session(FileStore(claims_dir))
    with raw_server(claims_dir) as server:
        kept = server.call("try_claim", key="kept", ttl_minutes=1 / 60, keep_alive=True)
        server.call("try_claim", key="not kept", ttl_minutes=1 / 60)
        while not other.try_claim("not kept", ttl_minutes=5).claimed:
            time.sleep(0.05)
        # As long again: the first expiry of what is kept has long passed.
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            inspection = other.inspect("kept")
            assert inspection.claimed_by_other
            time.sleep(0.05)
        assert record(claims_dir, "kept")["generation"] == kept["generation"]
        # A crash frees it all the same.
        server.process.kill()
        server.process.wait()
    assert other.try_claim("kept").claimed


def test_the_next_call_reports_that_a_claim_that_was_kept_alive_was_taken(claims_dir: Path) -> None:
    with raw_server(claims_dir) as server:
        server.call("try_claim", key="red", ttl_minutes=1 / 60, keep_alive=True)
        (claims_dir / "default" / "red.json").unlink()  # As a person may who maintains the claims.
        other = process_session(FileStore(claims_dir))
        assert other.try_claim("red").claimed
        answer = server.call("try_claim", key="red")
    assert (answer["claimed"], answer["holder"]) == (False, other.holder.name)
    assert answer["advice"].startswith('You lost your claim of generation 1 on "red"')
    assert answer["lost"][0]["reason"] == "it was removed before it expired"


def claim_as(server: RawServer, thread: str, key: str) -> dict[str, Any]:
    """Claim *key* as Codex does in *thread*."""
    params = {"name": "try_claim", "arguments": {"key": key}, "_meta": ENVELOPE | {"threadId": thread}}
    server.send_line(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))
    answer: dict[str, Any] = server.receive()["result"]["structuredContent"]
    return answer


@pytest.mark.rule("I1")
def test_the_thread_that_codex_names_is_recorded_for_people_and_is_no_identity(claims_dir: Path) -> None:
    with raw_server(claims_dir) as ada, raw_server(claims_dir) as ben:
        client = claim_as(ada, "0199a213-1b\x1b-c0de", "red")["client"]
        assert client.startswith("raw 1, session …1b -c0de")
        assert claim_as(ben, "0199a213-1b\x1b-c0de", "red")["status"] == "held"


def test_threads_that_began_in_one_minute_are_told_apart(claims_dir: Path) -> None:
    for thread in THREADS:
        with raw_server(claims_dir) as server:
            assert f"session …{thread[-8:]}" in claim_as(server, thread, thread)["client"]


def test_a_session_that_the_environment_alone_names_is_not_recorded_as_clear_makes_it_another(claims_dir: Path) -> None:
    with raw_server(claims_dir, env={"CLAUDE_CODE_SESSION_ID": "4f2a9c1e-aaaa-bbbb-cccc-dddddddddddd"}) as server:
        assert "session" not in server.call("try_claim", key="red")["client"]
