"""What claiming and releasing costs in the core, without MCP: beside the system calls it needs, and beside filelock."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
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

        sides = (cycle, bare_cycle, filelock_cycle, filelock_held, refusal, read)
        interleaved(effort.of(200), *sides)
        took = interleaved(effort.of(5_000), *sides)
    calls = "the bare system calls"
    yield beside("cycle", "claim + release", "µs", took[0], took[1], calls, Bar(1.5))
    yield tails("cycle", "claim + release", "µs", took[0], took[1], calls, None)
    yield beside("cycle", "claim + release", "µs", took[0], took[2], "filelock around each write", Bar(0.5))
    yield beside("cycle", "claim + release", "µs", took[0], took[3], "filelock held meanwhile", Bar(0.5))
    yield beside("cycle", "refusal", "µs", took[4], took[5], "read and parse the file", Bar(30, "value"))


def _write(path: Path, record: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(record)
    new.replace(path)
