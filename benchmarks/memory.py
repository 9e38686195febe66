"""What one session keeps in memory: a server after its first tool call."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil

from benchmarks.measure import Bar, Effort, Figure
from benchmarks.servers import MINIMAL, OURS, peer

_MIB = 2**20


def measure(effort: Effort) -> Iterator[Figure]:
    """Weigh our server and the minimal one of the SDK, in turns."""
    ours: list[tuple[int, int]] = []
    floor: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(effort.of(5)):
            with peer(*OURS, Path(directory)) as server:
                server.greet()
                server.call("try_claim", key="red")
                ours.append(_weigh(server.pid))
            with peer(*MINIMAL) as server:
                server.greet()
                server.call("add", a=1, b=2)
                floor.append(_weigh(server.pid))
    for index, what in enumerate(("resident", "its own, unshared")):
        yield Figure(
            "memory",
            f"after the first call, {what}",
            "MiB",
            median(pair[index] for pair in ours) / _MIB,
            median(pair[index] for pair in floor) / _MIB,
            "minimal server of the SDK",
            Bar(1.05),
        )


def _weigh(pid: int) -> tuple[int, int]:
    memory = psutil.Process(pid).memory_full_info()
    return memory.rss, memory.uss
