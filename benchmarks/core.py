"""What claim, release and refusal cost in the library, without MCP."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from filelock import FileLock

from benchmarks.measure import Bar, Effort, Figure, in_unit, interleaved, medians
from mcp_claims import FileStore, open_session

KEY = "vercel/next.js#4521:checks_failed"


def measure(effort: Effort) -> Iterator[Figure]:
    """Claim and release one key, beside `filelock` around the same write and removal; then try a key that is held."""
    with tempfile.TemporaryDirectory() as name:
        ours, other = (open_session(FileStore(f"{name}/ours")) for _ in range(2))
        other.try_claim("held")
        record = Path(name, "ours", "default", "held.json").read_bytes()
        Path(name, "filelock").mkdir()
        path, lock = Path(name, "filelock", "red.json"), FileLock(f"{name}/filelock/.lock")

        def claim_and_release() -> None:
            ours.try_claim(KEY)
            ours.release(KEY)

        def write_and_remove_under_filelock() -> None:
            with lock:
                new = path.with_suffix(".new")
                new.write_bytes(record)
                new.replace(path)
            with lock:
                path.unlink()

        sides = (claim_and_release, write_and_remove_under_filelock)
        interleaved(effort.of(200), *sides)
        took, floor_took = interleaved(effort.of(3_000), *sides)
        floor_is = "filelock around the same write and removal"
        yield medians("core", "claim + release", "µs", took, floor_took, floor_is, Bar(1.0))

        interleaved(effort.of(200), lambda: ours.try_claim("held"))
        (refused,) = interleaved(effort.of(3_000), lambda: ours.try_claim("held"))
        yield Figure("core", "refusal", "µs", in_unit("µs", median(refused)), bar=Bar(100, "value"))
