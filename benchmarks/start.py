"""What a host waits for, from starting the server to the answer to its first call; and what a hook does, for `check`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Bar, Effort, Figure, beside, interleaved
from benchmarks.servers import ENVIRONMENT, MINIMAL, OURS, peer
from mcp_claims import FileStore, process_session
from mcp_claims.stores.config import DIRECTORY_VARIABLE

COMMAND = Path(sys.executable).with_name("mcp-claims")
# A reference server of the protocol for Node, in a directory where npm has installed it and a `node` to run it.
NODE = os.environ.get("MCP_CLAIMS_NODE")
_MEMORY = "node_modules/@modelcontextprotocol/server-memory/dist/index.js"
_EVENT = b'{"tool_name": "Bash", "tool_input": {"command": "make nightly"}}'


def measure(effort: Effort) -> Iterator[Figure]:
    """Start servers, ours and the minimal one of the SDK, until each has answered a call, and commands until they end."""
    with tempfile.TemporaryDirectory() as directory:

        def ours() -> None:
            with peer(*OURS, Path(directory)) as server:
                server.greet()
                server.call("try_claim", key="red")

        def minimal() -> None:
            with peer(*MINIMAL) as server:
                server.greet()
                server.call("add", a=1, b=2)

        def nothing() -> None:
            subprocess.run([sys.executable, "-c", "pass"], env=ENVIRONMENT, check=True)

        def node() -> None:
            assert NODE is not None
            with peer(Path(NODE, _MEMORY), program=Path(NODE, "node_modules/.bin/node")) as server:
                server.greet()
                server.call("read_graph")

        claims = ENVIRONMENT | {DIRECTORY_VARIABLE: directory}

        def check() -> None:
            done = subprocess.run([COMMAND, "check", "nightly"], env=claims, capture_output=True, check=False)
            if done.returncode != 1:
                raise RuntimeError(f"check answered {done.returncode} for a key that somebody else holds")

        def guard() -> None:
            done = subprocess.run([COMMAND, "hook", "guard"], env=claims, input=_EVENT, capture_output=True, check=True)
            if b"deny" not in done.stdout:
                raise RuntimeError("the guard lets a command through that is about what somebody else holds")

        other = process_session(FileStore(directory))
        other.try_claim("nightly")
        sides = (ours, minimal, nothing, check, guard, *([node] if NODE else []))
        interleaved(1, *sides)  # Byte code is there from now on.
        took = interleaved(effort.of(40), *sides)
    floor = "minimal server of the SDK"
    yield beside("start", "to the first answered call on stdio", "ms", took[0], took[1], floor, Bar(0.95))
    if NODE:
        yield beside("start", "the reference server `memory` for Node", "ms", took[5], took[1], floor, None)
    nothing_is = "Python that does nothing"
    yield beside("start", "the minimal server itself", "ms", took[1], took[2], nothing_is, None)
    yield beside("start", "`mcp-claims check` of a held key", "ms", took[3], took[2], nothing_is, Bar(2.5))
    yield beside("start", "`mcp-claims hook guard` of one", "ms", took[4], took[2], nothing_is, Bar(2.5))
