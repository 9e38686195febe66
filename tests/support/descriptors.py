"""Counting descriptors, to find what was not closed."""

from __future__ import annotations

import os
import stat
from contextlib import suppress


def open_files() -> int:
    """Return how many descriptors are open; no sockets, which other threads of this process may open and close meanwhile."""
    count = 0
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # That of the listing itself.
            count += not stat.S_ISSOCK(os.fstat(int(name)).st_mode)
    return count
