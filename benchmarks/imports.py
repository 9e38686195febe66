"""What the import of the server costs, by the packages that its modules belong to."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.measure import Effort, Figure, in_unit
from benchmarks.servers import ENVIRONMENT, ROOT

_IMPORT = "import gc; gc.disable(); import mcp_claims.server.stdio"
_NAMED = ("mcp_types", "mcp", "pydantic", "pydantic_core", "anyio", "starlette", "httpx2", "uvicorn", "mcp_claims")
_SHOWN_FROM = 0.01


def measure(effort: Effort) -> Iterator[Figure]:
    """Import the server as `serve` does, some times, and add up what each package takes for itself."""
    runs = [_seconds_by_package() for _ in range(effort.of(15))]
    whole = median(sum(run.values()) for run in runs)
    shares = {package: median(run[package] for run in runs) for package in runs[0]}
    for package, seconds in sorted(shares.items(), key=lambda share: -share[1]):
        if seconds >= whole * _SHOWN_FROM:
            yield Figure("imports", package, "ms", in_unit("ms", seconds), in_unit("ms", whole), "all of it")


def _seconds_by_package() -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", _IMPORT],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    return by_package(done.stderr.splitlines())


def by_package(lines: Sequence[str]) -> dict[str, float]:
    """Add up what `-X importtime` says of the modules themselves, in seconds."""
    seconds: dict[str, float] = defaultdict(float)
    for line in lines:
        own, _, rest = line.removeprefix("import time:").partition("|")
        if own.strip().isdigit():
            package = rest.rpartition("|")[2].strip().partition(".")[0]
            seconds[package if package in _NAMED else "the standard library and others"] += int(own) / 1e6
    return seconds
