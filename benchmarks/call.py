"""What one `try_claim` costs over stdio, beside the SDK's example tool and beside a server that makes the bare system calls."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measure import Bar, Effort, Figure, interleaved, medians
from benchmarks.servers import FLOOR, OURS, SDK, SDK_IS, client_of

_WARM_UP, _ROUNDS = 100, 2_000


def measure(effort: Effort) -> Iterator[Figure]:
    """Claim and release one key, beside one other server at a time."""
    with (
        tempfile.TemporaryDirectory() as directory,
        client_of(*OURS, Path(directory, "ours")) as ours,
        client_of(*SDK) as sdk,
        client_of(*FLOOR, Path(directory, "floor")) as floor,
    ):
        for client in (ours, sdk, floor):
            client.initialize()

        def alternately(first: Callable[[], object], second: Callable[[], object]) -> list[list[float]]:
            # Each call comes after one to the other server, so that both find the processor's caches equally cold.
            sides = (
                lambda: ours.call("try_claim", key="red"),
                first,
                lambda: ours.call("release", key="red"),
                second,
            )
            interleaved(effort.of(_WARM_UP), *sides)
            return interleaved(effort.of(_ROUNDS), *sides)

        claim, add, release, add_again = alternately(*[lambda: sdk.call("add", a=1, b=2)] * 2)
        add_is = f"`add` of {SDK_IS}"
        yield medians("call", "try_claim, granted", "ms", claim, [*add, *add_again], add_is, Bar(0.75))
        yield medians("call", "release", "ms", release, [*add, *add_again], add_is, Bar(0.55))
        claim, bare_claim, release, bare_release = alternately(
            lambda: floor.call("claim"), lambda: floor.call("release")
        )
        bare_is = "the bare system calls, without the SDK and without checks"
        yield medians("call", "try_claim, granted", "ms", claim, bare_claim, bare_is, Bar(3))
        yield medians("call", "release", "ms", release, bare_release, bare_is, Bar(2.5))
