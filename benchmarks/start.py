"""What a host waits for: from starting the server to the answer to its first tool call."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Bar, Effort, Figure, beside, interleaved
from benchmarks.servers import MINIMAL, OURS, peer


def measure(effort: Effort) -> Iterator[Figure]:
    """Start servers, ours and the minimal one of the SDK, until each has answered a call."""
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
            subprocess.run([sys.executable, "-c", "pass"], check=True)

        interleaved(1, ours, minimal, nothing)  # Byte code is there from now on.
        took = interleaved(effort.of(40), ours, minimal, nothing)
    floor = "minimal server of the SDK"
    yield beside("start", "to the first answered call on stdio", "ms", took[0], took[1], floor, Bar(0.95))
    yield beside("start", "the minimal server itself", "ms", took[1], took[2], "Python that does nothing", None)
