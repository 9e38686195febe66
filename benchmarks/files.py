"""Grants of files among many others, claimed one by one and by patterns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Bar, Effort, Figure, in_unit, interleaved
from mcp_claims import Claim, FileStore, Session, open_session
from mcp_claims.model.codec import to_json
from mcp_claims.model.keys import PLACES
from mcp_claims.model.records import ScopedKey
from mcp_claims.stores.files.filenames import record_path

_FILES, _PATTERNS = 10_000, 100


def measure(effort: Effort) -> Iterator[Figure]:
    """Let one session hold thousands of files and a hundred patterns; claim what overlaps with none of them."""
    files = effort.of(_FILES, 10)
    with tempfile.TemporaryDirectory() as name:
        project = Path(name, "project").resolve()
        (project / "free" / "src").mkdir(parents=True)
        (project / "free" / "src" / "a.py").touch()
        directory = Path(name, "claims")
        _fill(directory, open_session(FileStore(directory)), project, files)
        ours = open_session(FileStore(directory))
        wanted = {
            "a file": ("free/src/a.py", 2.0),
            "a file that does not exist": ("free/src/b.py", None),
            "a directory": ("free/src/", 60.0),
            "a pattern": ("free/**/*.md", 60.0),
        }
        sides: list[Callable[[], object]] = [
            partial(_claim_and_release, ours, f"file:{project}/{path}") for path, _ in wanted.values()
        ]
        interleaved(effort.of(20), *sides)
        for (what, (_, bar)), took in zip(wanted.items(), interleaved(effort.of(300), *sides), strict=True):
            ms, limit = in_unit("ms", median(took)), None if bar is None else Bar(bar, "value")
            yield Figure("files", f"{what}, among {files:,} files and {_PATTERNS} patterns", "ms", ms, bar=limit)


def _claim_and_release(session: Session, key: str) -> None:
    assert session.try_claim(key).claimed
    session.release(key)


def _fill(directory: Path, holder: Session, project: Path, files: int) -> None:
    for number in range(_PATTERNS):
        assert holder.try_claim(f"file:{project}/held/{number}/*.c").claimed
    granted = holder.try_claim(f"file:{project}/held/src/0").found
    assert isinstance(granted, Claim)
    # Through the session it would take a minute.
    for number in range(files):
        scoped = ScopedKey(PLACES, f"file:{project}/held/src/{number % 100}/file-{number}.py")
        Path(record_path(str(directory), scoped)[1]).write_bytes(to_json(granted._replace(scoped=scoped)))
