"""What is there but is no claim, as stores in files tell of it."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime

from mcp_claims.record import Unreadable
from mcp_claims.stores.kernel import Kernel, last_change

# What opening tells about one file, not about the store: no permission, a link (Linux; FreeBSD says EMLINK).
THE_FILES_OWN_FAULT = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.EMLINK, errno.ENXIO})

NEVER = datetime.max.replace(tzinfo=UTC)
"""The time of what no calendar has: in doubt it was written a moment ago, for ever."""


def unreadable(path: str, status: os.stat_result, problem: str) -> Unreadable:
    """Return what to say of the thing at *path*, which is not a claim for the reason *problem*."""
    fingerprint = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return Unreadable(path, problem, changed_at(status), fingerprint)


def not_opened(kernel: Kernel, path: str, error: OSError) -> Unreadable | None:
    """Return what to say of the thing at *path*, which *error* kept from being opened; `None` if it has gone since.

    Raises *error* if that tells of the store, not of the one file.
    """
    if error.errno not in THE_FILES_OWN_FAULT:
        raise error
    try:
        return unreadable(path, kernel.status_of(path), error.strerror or "cannot be opened")
    except FileNotFoundError:
        return None


def changed_at(status: os.stat_result) -> datetime:
    """Return the latest time at which a file can have been written."""
    try:
        return datetime.fromtimestamp(last_change(status), UTC)
    except (OverflowError, ValueError, OSError):
        return NEVER
