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
        # Among themselves: whichever is called right after another server finds the processor cold, half as slow again.
        sides = (
            lambda: server.call("noop"),
            lambda: server.call("noop_at_length"),
            lambda: server.call("try_claim", key="red"),
            lambda: server.call("release", key="red"),
            lambda: server.call("try_claim", key="held"),
            lambda: server.call("bare_claim"),
            lambda: server.call("bare_release"),
            lambda: server.call("bare_refusal"),
            lambda: server.call("bare_put"),
            lambda: server.call("bare_drop"),
        )
        interleaved(effort.of(_WARM_UP), *sides)
        noop, at_length, claim, release, refusal, *bare, put, drop = interleaved(effort.of(3_000), *sides)
        # Beside another server, each after the other one.
        turns = (
            lambda: server.call("try_claim", key="red"),
            lambda: minimal.call("add", a=1, b=2),
            lambda: server.call("release", key="red"),
            lambda: minimal.call("add", a=1, b=2),
            lambda: server.call("noop"),
            lambda: minimal.call("add", a=1, b=2),
        )
        interleaved(effort.of(_WARM_UP), *turns)
        claim_in_turn, _, _, _, noop_in_turn, add = interleaved(effort.of(1_000), *turns)
    floor = "no-op tool, same server"
    yield beside("call", "try_claim, granted", "ms", claim, noop, floor, Bar(1.20))
    yield tails("call", "try_claim, granted", "ms", claim, noop, floor, Bar(1.3))
    yield beside("call", "release", "ms", release, noop, floor, Bar(1.10))
    yield tails("call", "release", "ms", release, noop, floor, Bar(1.3))
    yield beside("call", "try_claim, refused", "ms", refusal, noop, floor, Bar(1.20))
    yield tails("call", "try_claim, refused", "ms", refusal, noop, floor, Bar(1.3))
    yield beside("call", "try_claim, granted", "ms", claim, at_length, "no-op tool that answers as much", None)
    calls = "no-op tool with the bare system calls"
    for what, ours, least in zip(
        ("try_claim, granted", "release", "try_claim, refused"), (claim, release, refusal), bare, strict=True
    ):
        yield beside("call", what, "ms", ours, least, calls, None)
        yield beside("call", f"{calls}: {what}", "ms", least, noop, floor, None)
    yield beside("call", "no-op tool that writes a file and does nothing else", "ms", put, noop, floor, None)
    yield beside("call", "no-op tool that removes it", "ms", drop, noop, floor, None)
    yield beside("call", "try_claim, granted", "ms", claim_in_turn, add, "`add` of the minimal server", None)
    yield beside("call", "no-op tool", "ms", noop_in_turn, add, "`add` of the minimal server", None)
