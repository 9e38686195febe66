"""What it costs a server to tell a client of changes: 10,000 claims, twenty changes a second."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.measure import Effort, Figure, in_unit
from benchmarks.servers import OURS, Peer, peer
from mcp_claims import FileStore, process_session

_CLAIMS, _SECONDS = 10_000, 20
_PAUSE = 0.05  # s, between two changes


def measure(effort: Effort) -> Iterator[Figure]:
    """Change claims while a client of a server is subscribed to all of them; beside it, the server before that."""
    claims, changes = effort.of(_CLAIMS), effort.of(int(_SECONDS / _PAUSE))
    with tempfile.TemporaryDirectory() as directory, peer(*OURS, Path(directory)) as server:
        session = process_session(FileStore(directory))
        for number in range(claims):
            session.try_claim(f"event {number}", f"namespace {number % 10}")
        server.greet()
        server.call("is_claimed_by_other", key="red")
        process = psutil.Process(server.pid)
        idle = process.memory_info().rss
        server.request("resources/subscribe", {"uri": "claims://all"})
        told: list[float] = []
        stop = threading.Event()
        thread = threading.Thread(target=_listen, args=(server, told, stop), daemon=True)
        thread.start()
        used, began, delays = process.cpu_times(), time.perf_counter(), []
        for number in range(changes):
            key, namespace = f"event {number % claims}", f"namespace {number % claims % 10}"
            changed, heard = time.perf_counter(), len(told)
            session.try_claim(key, namespace, ttl_minutes=60 + number / 100)
            while len(told) == heard and time.perf_counter() - changed < 1:
                time.sleep(0.001)
            delays.append(time.perf_counter() - changed)
            time.sleep(max(0.0, _PAUSE - (time.perf_counter() - changed)))
        took, now = time.perf_counter() - began, process.cpu_times()
        stop.set()
        session.try_claim("the last one")
        thread.join()
        # Each by itself: the sum of all four can be a rounding error below nothing.
        busy = ((now.user - used.user) + (now.system - used.system)) / took * 100
        resident = process.memory_info().rss
    what = f"{claims:,} claims, {changes / took:.0f} changes a second"
    yield Figure("watching", f"CPU of the server, {what}", "% of a core", busy)
    yield Figure(
        "watching", "resident memory", "MiB", resident / 2**20, idle / 2**20, "the same server, nobody subscribed"
    )
    delays.sort()
    # 50 ms of it the server waits for more changes.
    yield Figure("watching", "from change to notice, median", "ms", in_unit("ms", delays[len(delays) // 2]))


def _listen(server: Peer, told: list[float], stop: threading.Event) -> None:
    while not stop.is_set():
        message = json.loads(server.receive_any())
        if message.get("method") == "notifications/resources/updated":
            told.append(time.perf_counter())
