"""Reading the file of a record: its bytes, or the reason why it cannot be a claim.

Anything else in the place of a claim counts as held until it is older than any TTL, so it is returned as `Unreadable`,
never as absent.
"""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from typing import NamedTuple

from mcp_claims.model.records import Unreadable
from mcp_claims.stores.base import NEVER
from mcp_claims.stores.files.filesystem import ERRORS_OF_ONE_FILE, FileSystem, last_change, read_file

MAX_RECORD_BYTES = 64 * 1024
"""A claim with the longest key and note allowed, every character escaped, has under 16 kB."""


class RecordFile(NamedTuple):
    """What the file of a record contained, and its status then."""

    data: bytes
    status: os.stat_result


def read_record_file(fs: FileSystem, path: str) -> RecordFile | Unreadable | None:
    """Read the file at *path*; return `None` if there is none.  Raises `OSError` if the store is at fault."""
    try:
        file = read_file(fs, path, MAX_RECORD_BYTES + 1)
    except OSError as error:
        return not_opened(fs, path, error)
    if file is None:
        return None
    data, status = file
    if not stat.S_ISREG(status.st_mode):
        return unreadable(path, status, "not a file")
    if len(data) > MAX_RECORD_BYTES:
        return unreadable(path, status, f"larger than {MAX_RECORD_BYTES:,} bytes")
    return RecordFile(data, status)


def not_opened(fs: FileSystem, path: str, error: OSError) -> Unreadable | None:
    """Return what is at *path*, which *error* kept from being opened; `None` if it has disappeared since.

    Raises *error* if it is about the store, not about that file.
    """
    if error.errno not in ERRORS_OF_ONE_FILE:
        raise error
    try:
        return unreadable(path, fs.status_of(path), error.strerror or "cannot be opened")
    except FileNotFoundError:
        return None


def unreadable(path: str, status: os.stat_result, problem: str) -> Unreadable:
    """Return the thing at *path*, which *problem* keeps from being a claim."""
    return Unreadable(path, problem, _changed_at(status), fingerprint_of(status))


def fingerprint_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what differs between a file with *status* and whatever takes its place."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _changed_at(status: os.stat_result) -> datetime:
    try:
        return datetime.fromtimestamp(last_change(status), UTC)
    except (OverflowError, ValueError, OSError):
        return NEVER
