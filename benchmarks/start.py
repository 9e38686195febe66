"""How long a host waits for a server's first answer, and a hook for `mcp-claims check`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import Bar, Effort, Figure, in_unit, interleaved, medians
from benchmarks.servers import ENVIRONMENT, OURS, SDK, SDK_IS, client_of
from mcp_claims import FileStore, open_session

COMMAND = Path(sys.executable).with_name("mcp-claims")
NODE = os.environ.get("MCP_CLAIMS_NODE")
"""Optional: a directory where npm has installed `@modelcontextprotocol/server-memory` and `node`."""

_NODE_SERVER = "node_modules/@modelcontextprotocol/server-memory/dist/index.js"


def measure(effort: Effort) -> Iterator[Figure]:
    """Start each server until it has answered a call, and each command until it has ended."""
    with tempfile.TemporaryDirectory() as directory:

        def ours() -> None:
            with client_of(*OURS, Path(directory)) as client:
                client.initialize()
                client.call("try_claim", key="red")

        def sdk() -> None:
            with client_of(*SDK) as client:
                client.initialize()
                client.call("add", a=1, b=2)

        def python() -> None:
            subprocess.run([sys.executable, "-c", "pass"], env=ENVIRONMENT, check=True)

        def check() -> None:
            command = [str(COMMAND), "check", "nightly", "--dir", directory]
            done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False)
            if done.returncode != 1:
                raise RuntimeError(f"check returned {done.returncode} for a key that another session holds")

        def node() -> None:
            assert NODE is not None
            with client_of(Path(NODE, _NODE_SERVER), program=Path(NODE, "node_modules/.bin/node")) as client:
                client.initialize()
                client.call("read_graph")

        holder = open_session(FileStore(directory))
        holder.try_claim("nightly")
        sides = (ours, sdk, python, check, *([node] if NODE else []))
        interleaved(1, *sides)  # Compiles the byte code.
        took = interleaved(effort.of(40, 1), *sides)
    python_is = "`python -c pass`"
    yield medians("start", "`mcp-claims check` of a held key", "ms", took[3], took[2], python_is, Bar(5))
    yield Figure("start", "the same", "ms", in_unit("ms", median(took[3])), bar=Bar(100, "value"))
    yield medians("start", "server on stdio, to its first answer", "ms", took[0], took[1], SDK_IS)
    if NODE:
        yield medians("start", "reference server `memory` for Node", "ms", took[4], took[1], SDK_IS)
