"""Many processes that wait for one key: what they cost while nothing happens, and how soon one has it when it is free."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise

import anyio
import psutil

from benchmarks.measure import Effort, Figure, in_unit
from mcp_claims import FileStore, ScopedKey, Session, process_session
from mcp_claims.session.acquire import acquire_async

_IDLE, _CONTENDING, _RELEASES = 100, 50, 400
_WATCHED = 10.0  # s
_KEY = ScopedKey("ci", "red")


def measure(effort: Effort) -> Iterator[Figure]:
    """Let processes wait for a key that nobody releases, then for one that goes from hand to hand."""
    with tempfile.TemporaryDirectory() as directory:
        holder = process_session(FileStore(directory))
        holder.try_claim(_KEY.key, _KEY.namespace)
        waiters = [_fork(directory) for _ in range(effort.of(_IDLE))]
        seconds = _WATCHED * min(1.0, effort.share)
        time.sleep(min(2.0, seconds))
        before, began = sum(map(_cpu, waiters)), time.perf_counter()
        time.sleep(seconds)
        busy = (sum(map(_cpu, waiters)) - before) / (time.perf_counter() - began) * 100
        _end(waiters)
    yield Figure("crowd", f"CPU of {len(waiters)} who wait for what is held", "% of a core", busy)
    with tempfile.TemporaryDirectory() as directory:
        process_session(FileStore(directory)).try_claim("make", _KEY.namespace)
        reading, writing = os.pipe()
        waiters = [_fork(directory, writing) for _ in range(effort.of(_CONTENDING))]
        grants = [_read(reading) for _ in range(effort.of(_RELEASES))]
        used = sum(map(_cpu, waiters))
        _end(waiters)
        os.close(reading)
        os.close(writing)
    delays = sorted(later["granted"] - earlier["released"] for earlier, later in pairwise(grants))
    what = f"of {len(waiters)} who wait"
    yield Figure("crowd", f"from release to the grant {what}, median", "ms", in_unit("ms", delays[len(delays) // 2]))
    yield Figure("crowd", f"CPU for a grant, {what}", "ms", in_unit("ms", used / len(grants)))


def _fork(directory: str, tell: int | None = None) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        anyio.run(_take_turns, process_session(FileStore(directory)), tell)
    finally:
        os._exit(1)


async def _take_turns(session: Session, tell: int | None) -> None:
    async def unheard(waited: float, of: float, what: str) -> None:
        """Nobody asked to be told."""

    while True:
        await acquire_async(
            session, _KEY, lambda wait: session.try_claim(_KEY.key, _KEY.namespace, lock_timeout=wait), 300, unheard
        )
        granted = time.perf_counter()
        await anyio.sleep(0.002)
        if tell is not None:
            # Written before the release: what is read is in the order of the grants.
            line = json.dumps({"granted": granted, "released": time.perf_counter()})
            os.write(tell, line.ljust(100).encode())
        session.release(_KEY.key, _KEY.namespace)
        await anyio.sleep(0.005)


def _read(reading: int) -> dict[str, float]:
    told: dict[str, float] = json.loads(os.read(reading, 100))
    return told


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _end(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
