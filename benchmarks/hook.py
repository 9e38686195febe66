"""What a hook of a host costs: from its start to its answer, before an edit of a file that nobody has, for a session at work."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import Bar, Effort, Figure, in_unit, interleaved, medians, p99
from benchmarks.servers import ENVIRONMENT
from mcp_claims import FileStore, open_session

COMMAND = [sys.executable, "-P", "-m", "mcp_claims", "hook", "guard", "--host", "claude-code"]


def _hook(directory: str, number: int, event: str = "PreToolUse", *options: str) -> str:
    described = {
        "hook_event_name": event,
        "session_id": "0f4c2c7e-5a0e-4d57-9a51-3c9c9a0b8a11",
        "cwd": directory,
        "tool_name": "Edit",
        "tool_input": {"file_path": f"{directory}/src/file{number}.py", "old_string": "a", "new_string": "b"},
        "tool_use_id": f"toolu_{number}",
    }
    done = subprocess.run(
        [*COMMAND, "--dir", directory, *options],
        env=ENVIRONMENT,
        input=json.dumps(described),
        text=True,
        capture_output=True,
        check=True,
    )
    return done.stdout


def measure(effort: Effort) -> Iterator[Figure]:
    """Run hooks in alternation with `python -c pass`, in an empty store and among others' claims; then with the lock held."""
    for others in (0, 1_000, 10_000):
        with tempfile.TemporaryDirectory() as directory:
            session = open_session(FileStore(directory))
            for number in range(others):
                session.try_claim(f"event {number}")
            files = iter(range(1_000_000))

            def python() -> None:
                subprocess.run([sys.executable, "-c", "pass"], env=ENVIRONMENT, check=True)

            def edit(directory: str = directory, files: Iterator[int] = files) -> None:
                if _hook(directory, next(files)):
                    raise RuntimeError("the edit of a file that nobody has is denied")

            interleaved(1, python, edit)  # Compiles the byte code.
            started, answered = interleaved(effort.of(100 if not others else 20, 2), python, edit)
        among = f", among {others:,} claims" if others else ""
        bar = None if others else Bar(5)
        yield medians("hook", f"before an edit{among}", "ms", answered, started, "`python -c pass`", bar)
        if not others:
            yield Figure("hook", "the same, 99th percentile", "ms", in_unit("ms", p99(answered)))
    yield from _in_trouble(effort)


def _in_trouble(effort: Effort) -> Iterator[Figure]:
    """Measure how long an edit waits while another process has the lock of the store."""
    with tempfile.TemporaryDirectory() as directory:
        open_session(FileStore(directory)).try_claim("file:/elsewhere")
        (lock,) = Path(directory, "places").glob("*lock*")
        with lock.open("rb+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            waited, denied = [], []
            for number in range(effort.of(10, 2)):
                began = time.perf_counter()
                if _hook(directory, number):
                    raise RuntimeError("a store in trouble has denied an edit")
                waited.append(time.perf_counter() - began)
                denied.append(_hook(directory, number, "PreToolUse", "--strict"))
            if not all("strict" in answer for answer in denied):
                raise RuntimeError("a strict guard has let an edit through")
    yield Figure(
        "hook", "before an edit while the store is locked", "ms", in_unit("ms", median(waited)), bar=Bar(1_000, "value")
    )
