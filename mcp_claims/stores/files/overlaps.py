"""Which records of a namespace are about file keys that overlap with one.

A claim on a file looks at those above it by their names, and at the keys with wildcards, which stand in a list of their own;
one on a directory, or with wildcards, looks at the names of all records as well.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator, Sequence

from mcp_claims.model import keys
from mcp_claims.model.records import Claim, Found, ScopedKey, Unreadable, is_place
from mcp_claims.stores.base import without_head
from mcp_claims.stores.files.filenames import SUFFIX, escaped, key_of, may_begin_with, namespace_directory, record_path
from mcp_claims.stores.files.filesystem import FileSystem, read_file

PATTERNS_FILE = ".patterns"
"""The list of the file keys with wildcards that may have a record.  No claim's file name begins with a dot."""

_MAX_BYTES = 16 * 1024 * 1024


Read = Callable[[str, ScopedKey | None], Found]
"""Reads the record at a path, which must be about the key, or about any key with that file name."""


def overlapping(
    fs: FileSystem, claims_directory: str, scoped: ScopedKey, patterns: list[str], read: Read
) -> Iterator[Claim | Unreadable]:
    """Yield the records of file keys that overlap with *scoped*, but for its own; *patterns* are those with wildcards.

    Of a key that several hold, these are its members.  Raises `OSError` as the system does, and what *read* raises.
    """
    directory = namespace_directory(claims_directory, scoped.namespace)

    def read_all(places: Sequence[ScopedKey]) -> list[Found]:
        return [read(record_path(claims_directory, place)[1], place) for place in places]

    named = [*keys.above(scoped.key), *(key for key in patterns if key != scoped.key and keys.overlap(key, scoped.key))]
    for key in named:
        other = scoped._replace(key=key)
        if (found := read(record_path(claims_directory, other)[1], other)) is not None:
            yield from without_head(found, read_all)
    if _is_regular_file(fs, scoped.key):
        return  # Nothing is below it.
    seen = {scoped.key, *named, *patterns}
    beginning = escaped(keys.literal_beginning(scoped.key) + "/")
    for name in fs.names(directory):
        if not name.endswith(SUFFIX) or not may_begin_with(name, beginning):
            continue
        known = key_of(name, SUFFIX)
        if known is not None and (is_place(known) or known in seen or not keys.overlap(known, scoped.key)):
            continue
        found = read(f"{directory}/{name}", None)
        if isinstance(found, Claim):
            key = found.scoped.key
            if found.scoped.member or key in seen or not keys.overlap(key, scoped.key):
                continue
        if found is not None:
            yield from without_head(found, read_all)


def _is_regular_file(fs: FileSystem, key: str) -> bool:
    path = keys.local_path(key)
    if path is None or keys.is_pattern(key) or key.endswith("/"):
        return False
    try:
        return stat.S_ISREG(fs.status_of(path).st_mode)
    except (OSError, ValueError):
        return False


def read_patterns(fs: FileSystem, directory: str) -> list[str] | None:
    """Return the list of file keys with wildcards that may have a record in *directory*; `None` if there is none to read."""
    try:
        file = read_file(fs, f"{directory}/{PATTERNS_FILE}", _MAX_BYTES)
        listed = None if file is None else json.loads(file[0])
    except (OSError, ValueError, RecursionError):
        return None
    return listed if isinstance(listed, list) and all(isinstance(key, str) for key in listed) else None


def find_patterns(fs: FileSystem, directory: str, read: Read) -> list[str]:
    """Return the file keys with wildcards that have a record in *directory*, by the names there; cut names are read."""
    found: list[str] = []
    for name in fs.names(directory):
        if not name.endswith(SUFFIX):
            continue
        key = key_of(name, SUFFIX)
        if key is None and isinstance(claim := read(f"{directory}/{name}", None), Claim):
            key = claim.scoped.key
        found += [key] if key is not None and keys.is_pattern(key) and not is_place(key) else []
    return found


def patterns_to_json(patterns: list[str]) -> bytes:
    """Return what `read_patterns` reads."""
    return json.dumps(patterns, ensure_ascii=False).encode()
