"""What the history costs: claim and release with it, in turns with the same without."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from benchmarks.measure import Bar, Effort, Figure, interleaved, medians
from mcp_claims import FileStore, open_session
from mcp_claims.stores.history.history import Limits

KEY = "vercel/next.js#4521:checks_failed"


def measure(effort: Effort) -> Iterator[Figure]:
    """Claim and release one key in a store that keeps a history, and in one that keeps none; then the same of two keys."""
    with tempfile.TemporaryDirectory() as name:
        noted = open_session(FileStore(f"{name}/noted", history=Limits()))
        silent = open_session(FileStore(f"{name}/silent", history=Limits(days=0)))
        for what, also in (("claim + release", ()), ("claim + release of two keys", (f"{KEY}:also",))):

            def with_history(also: tuple[str, ...] = also) -> None:
                noted.try_claim(KEY, also=also)
                noted.release(KEY)

            def without_history(also: tuple[str, ...] = also) -> None:
                silent.try_claim(KEY, also=also)
                silent.release(KEY)

            sides = (with_history, without_history)
            interleaved(effort.of(200), *sides)
            took, floor = interleaved(effort.of(4_000), *sides)
            bar = None if also else Bar(1.10)
            yield medians("history", what, "µs", took, floor, "the same without history", bar)
