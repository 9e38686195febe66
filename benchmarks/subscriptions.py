"""What it costs a server to notify a client of changes: 10,000 claims, twenty changes a second."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil

from benchmarks.measure import Effort, Figure, in_unit
from benchmarks.servers import OURS, StdioClient, client_of
from mcp_claims import FileStore, open_session

_CLAIMS, _SECONDS = 10_000, 20
_PAUSE = 0.05  # s between two changes


def measure(effort: Effort) -> Iterator[Figure]:
    """Change claims while a client is subscribed to all of them; the floor is the same server before that."""
    claims, changes = effort.of(_CLAIMS), effort.of(int(_SECONDS / _PAUSE))
    with tempfile.TemporaryDirectory() as directory, client_of(*OURS, Path(directory)) as client:
        session = open_session(FileStore(directory))
        for number in range(claims):
            session.try_claim(f"event {number}")
        client.initialize()
        client.call("is_claimed_by_other", key="red")
        process = psutil.Process(client.pid)
        memory_before = process.memory_info().rss
        client.request("resources/subscribe", {"uri": "claims://all"})
        notices: list[float] = []
        stopped = threading.Event()
        listener = threading.Thread(target=_listen, args=(client, notices, stopped), daemon=True)
        listener.start()
        cpu_before, began, delays = process.cpu_times(), time.perf_counter(), []
        for number in range(changes):
            changed, seen = time.perf_counter(), len(notices)
            session.try_claim(f"event {number % claims}", ttl_minutes=60 + number / 100)
            while len(notices) == seen and time.perf_counter() - changed < 1:
                time.sleep(0.001)
            delays.append(time.perf_counter() - changed)
            time.sleep(max(0.0, _PAUSE - (time.perf_counter() - changed)))
        took, cpu = time.perf_counter() - began, process.cpu_times()
        stopped.set()
        session.try_claim("last")  # Wakes the listener.
        listener.join()
        # The difference of each by itself: that of their sums can be a rounding error below zero.
        busy = ((cpu.user - cpu_before.user) + (cpu.system - cpu_before.system)) / took
        memory = process.memory_info().rss
    what = f"{claims:,} claims, {changes / took:.0f} changes a second"
    yield Figure("subscriptions", f"CPU of the server, {what}", "% of a core", 100 * busy)
    floor_is = "before the subscription"
    yield Figure("subscriptions", "resident memory", "MiB", memory / 2**20, memory_before / 2**20, floor_is)
    # For 50 ms of it the server collects further changes.
    yield Figure("subscriptions", "from change to notification", "ms", in_unit("ms", median(delays)))


def _listen(client: StdioClient, notices: list[float], stopped: threading.Event) -> None:
    while not stopped.is_set():
        if client.receive_message().get("method") == "notifications/resources/updated":
            notices.append(time.perf_counter())
