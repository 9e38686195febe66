"""What the history costs: claim and release, and a session on stdio, with it in turns with the same without."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Bar, Effort, Figure, interleaved, medians
from benchmarks.servers import OURS
from benchmarks.sessions import SESSIONS, Side, memory_of_one
from mcp_claims import FileStore, open_session
from mcp_claims.stores.history.history import DAYS_VARIABLE, Limits

KEY = "vercel/next.js#4521:checks_failed"
_WITHOUT = "the same without history"


def measure(effort: Effort) -> Iterator[Figure]:
    """Claim and release one key in a store that keeps a history, and in one that keeps none; then the same of two keys, and sessions."""
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
            yield medians("history", what, "µs", took, floor, _WITHOUT, bar)
    yield from _sessions(effort)


def _sessions(effort: Effort) -> Iterator[Figure]:
    """Start servers, with a history and without, and look at their memory."""
    with tempfile.TemporaryDirectory() as directory:
        noted, silent = (
            Side([*OURS, Path(directory, days)], "try_claim", variables={DAYS_VARIABLE: days}, key=KEY)
            for days in ("30", "0")
        )
        interleaved(1, noted.first_call, silent.first_call)  # Compiles the byte code.
        for what, sides, bar in (
            ("start of a session, to the handshake", (noted.handshake, silent.handshake), Bar(1.03)),
            # What writes the lines is imported with it: 3 ms, once.
            ("start of a session, to its first claim", (noted.first_call, silent.first_call), Bar(1.10)),
        ):
            took, floor = interleaved(effort.of(60), *sides)
            yield medians("history", what, "ms", took, floor, _WITHOUT, bar)
        memory, floor_memory = (memory_of_one(side, effort.of(3, 1)) for side in (noted, silent))
        what = f"PSS of one of {SESSIONS} sessions that have claimed"
        yield Figure("history", what, "MiB", memory, floor_memory, _WITHOUT, Bar(1.05))
