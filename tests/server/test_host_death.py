"""The host dies while something else, a child of it, keeps the server's pipe open: the server ends and releases."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcp_claims.model.records import ScopedKey
from mcp_claims.stores.files.store import FileStore
from tests.support.servers import ENVELOPE, PYTHON_ENVIRONMENT

if sys.platform == "win32":
    pytest.skip("pipes and signals of POSIX", allow_module_level=True)

TIMEOUT = 60.0
RED = ScopedKey("default", "red")

# Starts a server behind *wrapper*, over pipes or sockets, and a child that has its ends of them too.  Then it passes lines
# on: to the server what it reads, and back what the server writes.  It prints the PIDs of the wrapper and of the child.
HOST = """
import json, os, socket, subprocess, sys
directory, kind, *wrapper = sys.argv[1:]
def pair():
    if kind == "pipes":
        return os.pipe()
    ours, theirs = socket.socketpair()
    return theirs.detach(), ours.detach()
theirs_in, to_server = pair()
if kind == "pipes":
    from_server, theirs_out = os.pipe()
else:
    theirs_out, from_server = pair()
command = [*wrapper, sys.executable, "-m", "mcp_claims", "serve", "--dir", directory]
server = subprocess.Popen(command, stdin=theirs_in, stdout=theirs_out)
child = subprocess.Popen(["sleep", "600"], pass_fds=(to_server, from_server))
os.close(theirs_in), os.close(theirs_out)
print(server.pid, child.pid, flush=True)
with os.fdopen(to_server, "w") as sending, os.fdopen(from_server) as receiving:
    for line in sys.stdin:
        print(line, end="", file=sending, flush=True)
        print(receiving.readline(), end="", flush=True)
"""
# A wrapper that stays, such as `uv run` or `npx`: it waits for the server, which has its stdin and stdout.
WRAPPER = [sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"]


class Host:
    """A host process; `wrapper` is what it has started, and `child` the process that keeps its ends of the pipes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.wrapper, self.child = map(int, process.stdout.readline().split())

    def call(self, tool: str) -> dict[str, object]:
        call = {"name": tool, "arguments": {"key": "red"}, "_meta": ENVELOPE}
        assert self.process.stdin is not None and self.process.stdout is not None
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        print(json.dumps(message), file=self.process.stdin, flush=True)
        structured: dict[str, object] = json.loads(self.process.stdout.readline())["result"]["structuredContent"]
        return structured


@contextmanager
def host(directory: Path, kind: str, *wrapper: str) -> Iterator[Host]:
    with subprocess.Popen(
        [sys.executable, "-c", HOST, str(directory), kind, *wrapper],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=PYTHON_ENVIRONMENT,
        start_new_session=True,
    ) as process:
        try:
            yield Host(process)
        finally:
            # The whole group, as the server has been orphaned.
            os.killpg(process.pid, signal.SIGKILL)


def ended(pidfd: int) -> bool:
    """Wait until the process of *pidfd* has ended; return whether it did so in time."""
    try:
        return bool(select.select([pidfd], [], [], TIMEOUT)[0])
    finally:
        os.close(pidfd)


def server_below(pid: int) -> int:
    """Return the PID of the server: *pid*, or the last of its descendants."""
    while True:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return pid
        pid = int(children[0])


@pytest.mark.rule("V14")
@pytest.mark.parametrize("kind", ["pipes", "sockets"])
@pytest.mark.parametrize("wrapper", [[], ["sh", "-c", '"$@"; exit', "sh"], WRAPPER], ids=["direct", "shell", "wrapper"])
def test_when_the_host_is_killed_the_server_ends_and_its_claims_are_released(
    claims_dir: Path, kind: str, wrapper: list[str]
) -> None:
    with host(claims_dir, kind, *wrapper) as running:
        assert running.call("try_claim")["claimed"]
        server = os.pidfd_open(server_below(running.wrapper))
        running.process.kill()
        assert ended(server)
        os.kill(running.child, 0)
        # Removed, not just orphaned.
        assert FileStore(claims_dir).read(RED) is None


@pytest.mark.rule("V14")
@pytest.mark.parametrize("kind", ["pipes", "sockets"])
def test_when_only_a_wrapper_is_killed_the_server_goes_on(claims_dir: Path, kind: str) -> None:
    with host(claims_dir, kind, *WRAPPER) as running:
        assert running.call("try_claim")["claimed"]
        server = server_below(running.wrapper)
        os.kill(running.wrapper, signal.SIGKILL)
        wrapper_end = os.pidfd_open(running.wrapper)
        assert ended(wrapper_end)
        again = os.pidfd_open(server)
        # A server whose host has ended is gone long before this.
        assert not select.select([again], [], [], 1)[0]
        assert running.call("is_claimed_by_other")["held_by_you"]
        running.process.kill()
        assert ended(again)
        assert FileStore(claims_dir).read(RED) is None
