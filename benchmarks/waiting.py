"""How soon a client that waits for a key gets it, and what many waiting sessions cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.measure import Effort, Figure, in_unit, medians
from benchmarks.servers import OURS, StdioClient, client_of
from mcp_claims import FileStore, open_session

_SETTLED = 0.05  # s until a call that was sent waits
_SESSIONS = 50
_IDLE = 5.0  # s


def measure(effort: Effort) -> Iterator[Figure]:
    """Let one client wait, then 50 sessions of one server."""
    yield _one_client(effort)
    yield from _many_sessions(effort)


def _one_client(effort: Effort) -> Figure:
    waited: list[float] = []
    free: list[float] = []
    with tempfile.TemporaryDirectory() as directory, client_of(*OURS, Path(directory)) as client:
        client.initialize()
        holder = open_session(FileStore(directory))
        for _ in range(effort.of(200)):
            holder.try_claim("red")
            client.send("try_claim", key="red", wait_seconds=60)
            time.sleep(_SETTLED)
            began = time.perf_counter()
            holder.release("red")
            client.receive()
            waited.append(time.perf_counter() - began)
            client.call("release", key="red")
            began = time.perf_counter()
            client.call("try_claim", key="red")
            free.append(time.perf_counter() - began)
            client.call("release", key="red")
    return medians(
        "waiting", "from a release to the waiting client's answer", "ms", waited, free, "try_claim of a free key"
    )


def _many_sessions(effort: Effort) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as directory, client_of(*OURS, Path(directory)) as client:
        client.initialize()
        handles = [client.call("open_session")["structuredContent"]["session"] for _ in range(effort.of(_SESSIONS))]
        holder = open_session(FileStore(directory))
        holder.try_claim("red")
        waiting = {client.send("try_claim", key="red", wait_seconds=300, session=handle): handle for handle in handles}
        time.sleep(1)
        process, seconds = psutil.Process(client.pid), max(0.2, _IDLE * min(1.0, effort.share))
        before = _cpu_seconds(process)
        time.sleep(seconds)
        idle = (_cpu_seconds(process) - before) / seconds
        what = f"{len(handles)} waiting sessions of one server"
        yield Figure("waiting", f"CPU of {what}", "% of a core", 100 * idle)

        delays: list[float] = []
        released = time.perf_counter()
        holder.release("red")
        while waiting:
            granted, _ = _next_answer(client, set(waiting))
            delays.append(time.perf_counter() - released)
            releasing = client.send("release", key="red", session=waiting.pop(granted))
            released = time.perf_counter()
            if not waiting:
                _next_answer(client, {releasing})
    yield Figure("waiting", f"from a release to the next grant, {what}", "ms", in_unit("ms", median(delays)))


def _next_answer(client: StdioClient, ids: set[int]) -> tuple[int, dict[str, Any]]:
    """Return the next answer to one of *ids*; those to releases come in between."""
    while True:
        answered, result = client.receive()
        if answered in ids:
            return answered, result


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
