"""The pipes of a server on stdio: whole lines either way, whatever the host does, and nothing else on stdout."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import psutil
import pytest

from mcp_claims.model.records import ScopedKey
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
    assert rest == "" or json.loads(rest)["id"] == 4


@pytest.mark.rule("V11")
def test_a_file_as_stdin_and_another_as_stdout_are_served_too(claims_dir: Path, tmp_path: Path) -> None:
    asked, reply = tmp_path / "asked", tmp_path / "reply"
    asked.write_bytes(call_line(1, "is_claimed_by_other", key="red") + b"\n")
    with asked.open() as stdin, reply.open("w") as stdout:
        command = [sys.executable, "-m", "mcp_claims", "serve", "--dir", str(claims_dir)]
        subprocess.run(command, stdin=stdin, stdout=stdout, env=PYTHON_ENVIRONMENT, timeout=60, check=True)
    # At the end of a file a server ends at once, maybe before it has answered.
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in reply.read_text().splitlines())


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
