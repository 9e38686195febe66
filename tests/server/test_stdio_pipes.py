"""The pipes of a server on stdio: whole lines either way, whatever the host does, and nothing else on stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import anyio
import psutil
import pytest

from mcp_claims.model.records import ScopedKey
from mcp_claims.server.pipes import HostPipes, Lines, Output
from mcp_claims.server.stdio import as_files
from mcp_claims.session.identity import process_session
from mcp_claims.stores.files.store import FileStore
from tests.support.servers import ENVELOPE, PYTHON_ENVIRONMENT, RawServer, raw_server

if sys.platform == "win32":
    pytest.skip("the SDK's threads serve there", allow_module_level=True)

import fcntl
import termios

CALLS = 40
LEAST_PIPE = 4096

# A tool that prints in three ways, served as `mcp-claims` serves.
STRAY = """
import os, subprocess, sys
from mcp_claims.cli.main import main
from mcp_claims.render.answers import Rendered
from mcp_claims.server.tools import TOOLS

async def stray(*_):
    print("stray print", flush=True)
    os.write(1, b"stray write\\n")
    subprocess.run("cat; echo stray child", shell=True, check=True)
    return Rendered({"printed": True, "advice": ""}, "printed")

TOOLS["stray"] = TOOLS["prune"]._replace(run=stray)
sys.exit(main(sys.argv[1:]))
"""


def call_line(number: int, tool: str, **arguments: object) -> bytes:
    params = {"name": tool, "arguments": arguments, "_meta": ENVELOPE}
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()


def unread(server: RawServer) -> None:
    """Send more calls than the pipe has room for the answers of, and read none, until the server waits for us."""
    fcntl.fcntl(server.stdout, fcntl.F_SETPIPE_SZ, LEAST_PIPE)
    for number in range(CALLS):
        server.send_line(call_line(1_000 + number, "is_claimed_by_other", key="red").decode())
    process = psutil.Process(server.process.pid)
    while waiting_in(server.stdin) or not waiting_in(server.stdout) or process.status() != psutil.STATUS_SLEEPING:
        time.sleep(0.001)


def waiting_in(pipe: IO[str]) -> int:
    """Return how many bytes nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.rule("V11")
def test_a_client_that_stops_reading_gets_every_answer_whole_when_it_reads_again(claims_dir: Path) -> None:
    with raw_server(claims_dir) as server:
        assert server.call("try_claim", key="red")["claimed"]
        unread(server)
        answers = [server.receive() for _ in range(CALLS)]
    assert sorted(answer["id"] for answer in answers) == [1_000 + number for number in range(CALLS)]
    assert all(answer["result"]["structuredContent"]["held_by_you"] for answer in answers)


@pytest.mark.rule("V11")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_client_that_stops_reading_delays_neither_the_end_nor_the_release(
    claims_dir: Path, number: signal.Signals
) -> None:
    with raw_server(claims_dir) as server:
        assert server.call("try_claim", key="red")["claimed"]
        unread(server)
        server.process.send_signal(number)
        assert server.process.wait(timeout=10) == 0
    assert FileStore(claims_dir).read(ScopedKey("default", "red")) is None


@pytest.mark.rule("V11")
def test_what_tools_and_their_children_print_goes_to_stderr_and_stdin_is_empty_for_them(claims_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STRAY, "serve", "--dir", str(claims_dir)],
        input=call_line(1, "stray") + b"\n" + call_line(2, "try_claim", key="red") + b"\n",
        capture_output=True,
        env=PYTHON_ENVIRONMENT,
        timeout=60,
        check=True,
    )
    assert done.stderr.decode().split("\n") == ["stray print", "stray write", "stray child", ""]
    assert sorted(json.loads(line)["id"] for line in done.stdout.splitlines()) == [1, 2]


@pytest.mark.rule("V11")
def test_lines_arrive_whole_however_they_are_cut(claims_dir: Path) -> None:
    # Two in one write, one in two, one of a megabyte, with the line ends of Windows, and a last one without any.
    long = call_line(3, "try_claim", key="é" * 500_000)
    written = (call_line(1, "prune") + b"\r\n" + call_line(2, "prune") + b"\n" + long[:7], long[7:] + b"\n\n")
    with raw_server(claims_dir) as server:
        for part in (*written, call_line(4, "prune")):
            server.stdin.buffer.write(part)  # type: ignore[attr-defined]
            server.stdin.flush()
        answers = dict.fromkeys((1, 2, 3))
        while None in answers.values():
            message = server.receive()
            if "id" in message:
                answers[message["id"]] = message["result"].get("isError", False)
        server.stdin.close()
        rest = server.stdout.read()
    assert answers == {1: False, 2: False, 3: True}
    assert json.loads(rest)["id"] == 4


HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
HANDSHAKE = [
    {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
]


@pytest.mark.rule("V2")
@pytest.mark.parametrize("source", ["a file", "a pipe"])
@pytest.mark.parametrize("protocol_version", ["2025-11-25", "2026-07-28"])
def test_every_request_before_the_end_of_the_input_is_answered(
    claims_dir: Path, tmp_path: Path, source: str, protocol_version: str
) -> None:
    """Of a client that does not wait, as a script that pipes its requests: the SDK drops what is in progress."""
    tools = [("try_claim", {"key": "red"}), ("is_claimed_by_other", {"key": "red"}), ("list_claims", {})]
    lines = [call_line(number, tool, **arguments) for number, (tool, arguments) in enumerate(tools * 7, start=1)]
    if protocol_version == "2025-11-25":
        # The envelope is what tells the protocol versions apart.
        lines = [line.replace(b"_meta", b"_other") for line in lines]
        lines = [json.dumps(message).encode() for message in HANDSHAKE] + lines
    asked = tmp_path / "asked"
    asked.write_bytes(b"\n".join(lines))
    command = [sys.executable, "-m", "mcp_claims", "serve", "--dir", str(claims_dir)]
    with asked.open() as file, (tmp_path / "answers").open("w+") as answers:
        given: dict[str, Any] = {"stdin": file} if source == "a file" else {"input": asked.read_bytes()}
        subprocess.run(command, stdout=answers, env=PYTHON_ENVIRONMENT, timeout=60, check=True, **given)
        answers.seek(0)
        found = {message["id"]: message["result"] for message in map(json.loads, answers) if "id" in message}
    assert set(found) >= set(range(1, 22))
    assert not any(result.get("isError") for result in found.values())
    assert FileStore(claims_dir).read(ScopedKey("default", "red")) is None, "and its claims are released"


@pytest.mark.rule("V2")
def test_a_call_that_waits_for_a_holder_is_answered_when_the_input_ends(claims_dir: Path) -> None:
    with process_session(FileStore(claims_dir)) as other, raw_server(claims_dir) as server:
        other.try_claim("red")
        waiting = server.send("try_claim", {"key": "red", "wait_seconds": 300})
        assert server.call("is_claimed_by_other", key="red")["claimed_by_other"], "it waits, or is about to"
        server.stdin.close()
        answer = server.receive()
        assert (answer["id"], answer["result"]["structuredContent"]["status"]) == (waiting, "held")
        assert server.process.wait(timeout=20) == 0


def test_without_stderr_stray_prints_go_nowhere(claims_dir: Path) -> None:
    command = f"exec {sys.executable} -c \"$STRAY\" serve --dir '{claims_dir}' 2>&-"
    with subprocess.Popen(
        ["sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=PYTHON_ENVIRONMENT | {"STRAY": STRAY},
    ) as process:
        server = RawServer(process)
        server.send("stray", {})
        assert server.receive()["result"]["structuredContent"] == {"printed": True, "advice": ""}
        server.stdin.close()
        assert server.stdout.read() == ""


@pytest.mark.anyio
async def test_several_tasks_can_wait_for_a_host_that_does_not_read() -> None:
    (unused, ours), (reading, writing) = os.pipe(), os.pipe()
    try:
        output = Output(writing)
        _, file = as_files(HostPipes(Lines(unused), output))
        await file.write("x" * 1_000_000)
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(file.flush)
            await anyio.wait_all_tasks_blocked()
            read = 0
            while read < 1_000_000:
                await anyio.wait_readable(reading)
                read += len(os.read(reading, 65_536))
        assert output.size == 0
    finally:
        for fd in (unused, ours, reading, writing):
            os.close(fd)
