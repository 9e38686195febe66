"""How soon who waits for a key has it: from the release by another process to the answer."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Effort, Figure, beside, tails
from benchmarks.servers import OURS, peer
from mcp_claims import FileStore, process_session

_SETTLED = 0.05  # s, after which a call that was sent waits


def measure(effort: Effort) -> Iterator[Figure]:
    """Release a key that a client of a server waits for; beside it, the same call when the key is free."""
    waited: list[float] = []
    free: list[float] = []
    with tempfile.TemporaryDirectory() as directory, peer(*OURS, Path(directory)) as server:
        server.greet()
        holder = process_session(FileStore(directory))
        for _ in range(effort.of(200)):
            holder.try_claim("red")
            server.send("try_claim", {"key": "red", "wait_seconds": 60})
            time.sleep(_SETTLED)
            began = time.perf_counter()
            holder.release("red")
            server.receive()
            waited.append(time.perf_counter() - began)
            server.call("release", key="red")
            began = time.perf_counter()
            server.call("try_claim", key="red")
            free.append(time.perf_counter() - began)
            server.call("release", key="red")
    floor = "try_claim of a free key, same server"
    yield beside("waiting", "from release to the waiting client's answer", "ms", waited, free, floor, None)
    yield tails("waiting", "from release to the waiting client's answer", "ms", waited, free, floor, None)
