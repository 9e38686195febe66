"""Hosts that open a connection for each call: the model is told before it acts on a claim that ends with the call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from mcp_claims.liveness import local_machine
from mcp_claims.render.answers import Fleeting
from mcp_claims.server.brief_connections import BriefConnections, host_of
from mcp_claims.server.registry import Caller, SessionRegistry
from mcp_claims.session.identity import process_session
from mcp_claims.stores.config import StoreChoice
from mcp_claims.stores.memory import MemoryStore
from tests.support.machines import World
from tests.support.servers import ENVELOPE, PYTHON_ENVIRONMENT, raw_server, stdio, structured_of, text_of

STORE = StoreChoice("directory", directory="/claims")
NOBODY = Caller()
ADA = Caller("a" * 32, None, lambda: "ada 1")
BEN = Caller("b" * 32, None, lambda: "ben 1")


class Rig:
    """Servers on one store, started by hosts, on one machine."""

    def __init__(self, directory: Path) -> None:
        self.world, self.store = World(), MemoryStore()
        self.brief = BriefConnections(STORE, directory)

    def stdio(self, host: str | None = "host", *, lasting: bool = False) -> SessionRegistry:
        machine = self.world.process()
        own = process_session(self.store, machine)
        return SessionRegistry(self.store, own=own, lasting=lasting, machine=machine, brief=self.brief, host=host)

    def http(self) -> SessionRegistry:
        return SessionRegistry(self.store, own=None, machine=self.world.process(), brief=self.brief)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "brief")


def grant(server: SessionRegistry, caller: Caller = NOBODY, key: str = "red", handle: str | None = None) -> Any:
    """Claim *key*; return what the answer says about how long that lasts."""
    entry = server.session_for(caller, handle)
    result = entry.session.try_claim(key)
    assert result.claimed
    return server.note_grant(caller, entry, result.now)


@pytest.mark.rule("V13")
def test_a_host_that_has_closed_a_connection_after_at_most_one_call_is_told(rig: Rig) -> None:
    rig.stdio().close()  # It has listed the tools.
    server = rig.stdio()
    assert grant(server) is Fleeting.PER_CALL
    rig.world.pass_time(30)
    server.close()
    other = rig.stdio("another host")
    assert grant(other, key="other") is None
    server = rig.stdio()
    assert grant(server, key="green") is Fleeting.PER_CALL
    assert grant(server, key="blue") is None, "a host that calls again on a connection keeps it"
    assert grant(rig.stdio(lasting=True), key="white") is None, "what is named outlives the connection"
    assert grant(rig.stdio(None), key="black") is None


@pytest.mark.rule("V13")
def test_a_handle_of_such_a_connection_ends_with_it_too(rig: Rig) -> None:
    first = rig.stdio()
    handle, _ = first.open(None, NOBODY)
    first.close()
    second = rig.stdio()
    assert grant(second, handle=handle) is Fleeting.PER_CALL
    sub_agent, _ = second.open(None, NOBODY)
    assert grant(second, key="green", handle=sub_agent) is None, "the connection has lasted"


@pytest.mark.rule("V13")
@pytest.mark.parametrize("how", ["two calls", "an hour", "a signal"])
def test_a_connection_that_was_used_is_not_taken_for_such_a_one(rig: Rig, how: str) -> None:
    server = rig.stdio()
    if how == "two calls":
        for key in ("red", "green"):
            grant(server, key=key)
            rig.world.pass_time(2)
    elif how == "an hour":
        rig.world.pass_time(3_600)
    server.close(dying=how == "a signal")
    assert grant(rig.stdio(), key="blue") is None


@pytest.mark.rule("V13")
def test_a_claim_that_ends_just_after_its_grant_is_enough(rig: Rig) -> None:
    server = rig.stdio()
    for key in ("red", "green"):
        grant(server, key=key)
    rig.world.pass_time(0.9)
    server.close()
    assert grant(rig.stdio()) is Fleeting.PER_CALL


@pytest.mark.rule("V13")
def test_over_http_a_client_whose_connection_ended_just_after_a_grant_is_told(rig: Rig) -> None:
    server = rig.http()
    assert grant(server, ADA) is None
    server.end_connection("a" * 32)
    assert grant(server, BEN) is None, "another client"
    again = Caller("c" * 32, None, ADA.client)
    assert grant(server, again, "green") is Fleeting.PER_CALL_OVER_HTTP
    _, opened = server.open(None, again)
    result = opened.session.try_claim("blue")
    assert result.claimed and server.note_grant(again, opened, result.now) is None, "what belongs to a handle stays"


@pytest.mark.rule("V13")
def test_what_is_granted_after_the_end_of_the_input_says_so(rig: Rig) -> None:
    server, named = rig.stdio(), rig.stdio(lasting=True)
    server.input_ended = named.input_ended = True
    assert grant(server) is Fleeting.INPUT_ENDED
    assert grant(named, key="green") is None


def test_what_is_remembered_is_forgotten_after_an_hour_and_swept_by_the_next(tmp_path: Path) -> None:
    brief = BriefConnections(STORE, tmp_path / "brief")
    brief.remember("host")
    assert brief.remembers("host") and not brief.remembers("another")
    assert not BriefConnections(StoreChoice("url", "etcd://elsewhere"), tmp_path / "brief").remembers("host")
    (file,) = (tmp_path / "brief").iterdir()
    os.utime(file, (0, time.time() - 3_700))
    assert not brief.remembers("host")
    brief.remember("another")
    assert file not in (tmp_path / "brief").iterdir()


def test_the_file_of_a_host_over_stdio_needs_no_hash(tmp_path: Path) -> None:
    host = host_of(local_machine())
    assert host is not None
    brief = BriefConnections(StoreChoice("directory", directory="/a long way" * 20), tmp_path / "brief")
    brief.remember(host)
    (file,) = (tmp_path / "brief").iterdir()
    assert brief.remembers(host) and "~" not in file.name  # The sign of a name that is cut and hashed.


def replace_by_a_link(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))
    directory.symlink_to("elsewhere")


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.parametrize("change", [lambda path: path.chmod(0o777), replace_by_a_link])
def test_a_directory_that_others_may_have_made_is_not_used(tmp_path: Path, change: Callable[[Path], None]) -> None:
    brief = BriefConnections(STORE, tmp_path / "brief")
    brief.remember("host")
    change(tmp_path / "brief")
    brief.remember("another")
    assert not brief.remembers("host") and not brief.remembers("another")


def test_where_nothing_can_be_written_nothing_is_remembered_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    brief = BriefConnections(STORE, tmp_path / "file" / "brief")
    brief.remember("host")
    assert not brief.remembers("host")


@pytest.mark.anyio
@pytest.mark.rule("V13")
async def test_with_a_connection_for_each_call_the_first_grant_already_warns(claims_dir: Path) -> None:
    """As LangChain does: one connection lists the tools, and one more serves each call."""
    async with Client(stdio(claims_dir)) as client:
        await client.list_tools()
    async with Client(stdio(claims_dir)) as client:
        granted = await client.call_tool("try_claim", {"key": "red"})
    answer = structured_of(granted)
    assert answer["claimed"]
    for part in (text_of(granted), answer["advice"]):
        assert "Do not act yet." in part and "generation=1" in part and "serve --session NAME" in part
        assert "You act" not in part
    async with Client(stdio(claims_dir)) as client:
        checked = structured_of(await client.call_tool("is_claimed_by_other", {"key": "red", "generation": 1}))
    assert checked["in_force"] is False


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")
async def test_a_program_that_only_starts_the_server_is_not_taken_for_the_host(
    claims_dir: Path, tmp_path: Path
) -> None:
    """With `uvx mcp-claims serve` as the command each server has a new process above it."""
    uv = tmp_path / "uv"
    uv.symlink_to(os.path.realpath(sys.executable))
    start = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    server = stdio(claims_dir)
    started = server.model_copy(update={"command": str(uv), "args": ["-Sc", start, server.command, *server.args]})
    async with Client(started) as client:
        await client.list_tools()
    async with Client(started) as client:
        assert "Do not act yet." in text_of(await client.call_tool("try_claim", {"key": "red"}))


# A host of its own, which starts a server and keeps it for two calls.
HOST = """
import json, subprocess, sys
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for line in sys.argv[1].splitlines():
    server.stdin.write(line + "\\n"); server.stdin.flush()
    print(server.stdout.readline(), end="", flush=True)
server.stdin.close(); server.wait()
"""


@pytest.mark.rule("V13")
def test_neither_another_host_nor_a_second_connection_beside_the_first_is_warned(claims_dir: Path) -> None:
    with raw_server(claims_dir) as first, raw_server(claims_dir) as second:
        for server, key in ((first, "red"), (second, "green")):
            assert "You act" in server.call("try_claim", key=key)["advice"]
        second.stdin.close()
        second.process.wait(timeout=60)
        params = {"name": "try_claim", "arguments": {"key": "blue"}, "_meta": ENVELOPE}
        line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        command = [sys.executable, "-m", "mcp_claims", "serve", "--dir", str(claims_dir)]
        done = subprocess.run(
            [sys.executable, "-c", HOST, line, *command],
            capture_output=True,
            env=PYTHON_ENVIRONMENT,
            check=True,
            timeout=60,
        )
    assert "You act" in json.loads(done.stdout)["result"]["structuredContent"]["advice"]
