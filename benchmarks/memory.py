"""The memory of a server after its first tool call."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil

from benchmarks.measure import Effort, Figure
from benchmarks.servers import OURS, SDK, SDK_IS, client_of

_MIB = 2**20


def measure(effort: Effort) -> Iterator[Figure]:
    """Read the resident and the unshared memory of our server and of the SDK's example."""
    ours: list[tuple[int, int]] = []
    sdk: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(effort.of(5, 1)):
            with client_of(*OURS, Path(directory)) as client:
                client.initialize()
                client.call("try_claim", key="red")
                ours.append(_memory_of(client.pid))
            with client_of(*SDK) as client:
                client.initialize()
                client.call("add", a=1, b=2)
                sdk.append(_memory_of(client.pid))
    for index, what in enumerate(("resident", "unshared")):
        yield Figure(
            "memory",
            f"server on stdio, {what}",
            "MiB",
            median(pair[index] for pair in ours) / _MIB,
            median(pair[index] for pair in sdk) / _MIB,
            SDK_IS,
        )


def _memory_of(pid: int) -> tuple[int, int]:
    memory = psutil.Process(pid).memory_full_info()
    return memory.rss, memory.uss
