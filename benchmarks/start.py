"""How long a hook waits for `mcp-claims check`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import Bar, Effort, Figure, in_unit, interleaved, medians
from benchmarks.servers import ENVIRONMENT
from mcp_claims import FileStore, open_session

COMMAND = Path(sys.executable).with_name("mcp-claims")


def measure(effort: Effort) -> Iterator[Figure]:
    """Run each command until it has ended."""
    with tempfile.TemporaryDirectory() as directory:

        def python() -> None:
            subprocess.run([sys.executable, "-c", "pass"], env=ENVIRONMENT, check=True)

        def check() -> None:
            command = [str(COMMAND), "check", "nightly", "--dir", directory]
            done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False)
            if done.returncode != 1:
                raise RuntimeError(f"check returned {done.returncode} for a key that another session holds")

        holder = open_session(FileStore(directory))
        holder.try_claim("nightly")
        interleaved(1, python, check)  # Compiles the byte code.
        started, checked = interleaved(effort.of(40, 1), python, check)
    yield medians("start", "`mcp-claims check` of a held key", "ms", checked, started, "`python -c pass`", Bar(5))
    yield Figure("start", "the same", "ms", in_unit("ms", median(checked)), bar=Bar(100, "value"))
