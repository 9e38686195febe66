"""Checks whether the history can be written: claims go on without it, and say so only once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from mcp_claims.doctor.finding import Finding, ok, warning
from mcp_claims.errors import shown_path
from mcp_claims.stores.files.directories import unsafe
from mcp_claims.stores.history.files import parse_name
from mcp_claims.stores.history.history import History

_CHECK = "history"
_MEGABYTE = 1 << 20


def check_history(history: History | None) -> Iterator[Finding]:
    """Check the directory of *history* and the files in it; changes nothing."""
    if history is None:
        return
    where = shown_path(history.directory)
    if not history.is_kept:
        yield ok(_CHECK, "none is kept, as the environment says")
        return
    try:
        names = os.listdir(history.directory)
        problem = unsafe(os.lstat(history.directory))
    except FileNotFoundError:
        yield ok(_CHECK, f"{where} does not exist yet; the first change makes it")
        return
    except OSError as error:
        yield warning(_CHECK, f"{where} cannot be read: {error.strerror}; no change is noted", f"Move {where} away.")
        return
    if problem is not None:
        yield warning(_CHECK, f"{where} {problem}; no change is noted", f"chmod 700 {where}, or move it away.")
        return
    files = sorted(file for name in names if (file := parse_name(name)) is not None)
    paths = [os.path.join(history.directory, file.name) for file in files]
    locked = next((path for path in paths if not _is_writable(path)), None)
    if not _is_writable(history.directory) or locked is not None:
        place = where if locked is None else shown_path(locked)
        yield warning(_CHECK, f"{place} cannot be written; no change is noted", f"As its owner: chmod u+rwX {place}")
        return
    size = sum(os.path.getsize(path) for path in paths if os.path.exists(path))
    since = f" since {files[0].day}" if files else ""
    limits = f"{history.limits.days} days and {history.limits.megabytes} MiB"
    yield ok(_CHECK, f"{where}: {size / _MEGABYTE:.1f} MiB{since}; at most {limits} are kept")


def _is_writable(path: str) -> bool:
    return sys.platform == "win32" or os.access(path, os.W_OK)
