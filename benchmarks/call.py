"""What a tool call costs on stdio, beside a tool of the same server that does nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Bar, Effort, Figure, beside, interleaved, tails
from benchmarks.servers import MINIMAL, WITH_NOOP, peer

_WARM_UP = 50


def measure(effort: Effort) -> Iterator[Figure]:
    """Call the tools of one server in turns; each key is claimed and released, another is somebody else's."""
    with (
        tempfile.TemporaryDirectory() as directory,
        peer(*WITH_NOOP, Path(directory)) as server,
        peer(*WITH_NOOP, Path(directory)) as other,
        peer(*MINIMAL) as minimal,
    ):
        for one in (server, other, minimal):
            one.greet()
        other.call("try_claim", key="held")
        sides = (
            lambda: server.call("noop"),
            lambda: server.call("try_claim", key="red"),
            lambda: server.call("release", key="red"),
            lambda: server.call("try_claim", key="held"),
            lambda: minimal.call("add", a=1, b=2),
        )
        interleaved(effort.of(_WARM_UP), *sides)
        noop, claim, release, refusal, add = interleaved(effort.of(3_000), *sides)
    floor = "no-op tool, same server"
    yield beside("call", "try_claim, granted", "ms", claim, noop, floor, Bar(1.10))
    yield tails("call", "try_claim, granted", "ms", claim, noop, floor, Bar(1.3))
    yield beside("call", "release", "ms", release, noop, floor, Bar(1.05))
    yield tails("call", "release", "ms", release, noop, floor, Bar(1.3))
    yield beside("call", "try_claim, refused", "ms", refusal, noop, floor, Bar(1.10))
    yield tails("call", "try_claim, refused", "ms", refusal, noop, floor, Bar(1.3))
    yield beside("call", "try_claim, granted", "ms", claim, add, "`add` of the minimal server", None)
    yield beside("call", "no-op tool", "ms", noop, add, "`add` of the minimal server", None)
