"""The files of a history: `<day>.<part>.<namespace>.jsonl`, in `.history` of the claims directory.

The namespace stands under its injective file name, so no two share a file.  A day has more than one part only if it is so busy
that one would take an eighth of all the room.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mcp_claims.stores.files.filenames import file_name

_NAME = r"(\d{4}-\d{2}-\d{2})\.(\d{1,9})\.([a-z0-9%_~.-]+)\.jsonl"
"""Compiled when a file is made, not for the first claim of each session."""


class HistoryFile(NamedTuple):
    """One file: in this order they are written, and read."""

    day: str
    part: int
    namespace: str

    @property
    def name(self) -> str:
        """Its name in the directory."""
        return f"{self.day}.{self.part}.{self.namespace}.jsonl"


def file_of(day: str, namespace: str, part: int = 0) -> HistoryFile:
    """Return the file of *namespace* for a *day*, as ISO 8601 has it, in UTC."""
    return HistoryFile(day, part, file_name(namespace))


def parse_name(name: str) -> HistoryFile | None:
    """Return the file of which *name* is the name; `None` if it is none of a history."""
    match = re.fullmatch(_NAME, name)
    return None if match is None else HistoryFile(match[1], int(match[2]), match[3])
