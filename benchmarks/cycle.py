"""What claiming and releasing costs in the core, without MCP: beside the system calls it needs, and beside filelock."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from benchmarks.bare import Bare
from benchmarks.measure import Bar, Effort, Figure, beside, interleaved, tails
from mcp_claims import FileStore, process_session

KEY = "vercel/next.js#4521:checks_failed"


def measure(effort: Effort) -> Iterator[Figure]:
    """Claim and release one key, and be refused another, in one process."""
    with tempfile.TemporaryDirectory() as name:
        ours, other = (process_session(FileStore(f"{name}/ours")) for _ in range(2))
        other.try_claim("held")
        held = Path(name, "ours", "default", "held.json")
        record = held.read_bytes()
        Path(name, "bare").mkdir()
        bare = Bare(Path(name, "bare"), record)
        Path(name, "filelock").mkdir()
        written, lock = Path(name, "filelock", "red.json"), FileLock(f"{name}/filelock/.lock")

        def cycle() -> None:
            ours.try_claim(KEY)
            ours.release(KEY)

        def bare_cycle() -> None:
            # Looked at before it is locked, as by everybody: most who ask are refused, and that takes no lock.
            bare.look("red")
            bare.try_once("red")
            bare.release("red")

        def filelock_cycle() -> None:
            # The same: one lock to write the file, one to remove it.
            with lock:
                _write(written, record)
            with lock:
                written.unlink()

        def filelock_held() -> None:
            # The lock held as long as the file is there.
            with lock:
                _write(written, record)
                written.unlink()

        def refusal() -> None:
            ours.try_claim("held")

        def read() -> None:
            fd = os.open(held, os.O_RDONLY)
            os.fstat(fd)
            json.loads(os.read(fd, 1 << 16))
            os.close(fd)

        floors: list[tuple[str, Callable[[], None], Callable[[], None], str, Bar]] = [
            ("claim + release", cycle, bare_cycle, "the bare system calls", Bar(1.5)),
            ("claim + release", cycle, filelock_cycle, "filelock around each write", Bar(0.5)),
            ("claim + release", cycle, filelock_held, "filelock held meanwhile", Bar(0.5)),
            ("refusal", refusal, read, "read and parse the file", Bar(30, "value")),
        ]
        for what, side, floor, floor_is, bar in floors:
            interleaved(effort.of(200), side, floor)
            ours_took, floor_took = interleaved(effort.of(3_000), side, floor)
            yield beside("cycle", what, "µs", ours_took, floor_took, floor_is, bar)
            yield tails("cycle", what, "µs", ours_took, floor_took, floor_is, None)


def _write(path: Path, record: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(record)
    new.replace(path)
