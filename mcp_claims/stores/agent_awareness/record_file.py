"""What is in a record's file: a claim of ours, one of the original's, or neither."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.codec import RecordError, from_json, is_original, original_from_json
from mcp_claims.model.records import Found, ScopedKey
from mcp_claims.stores.agent_awareness.filenames import place
from mcp_claims.stores.agent_awareness.filesystem import LayoutFileSystem
from mcp_claims.stores.files.filesystem import READ, last_change
from mcp_claims.stores.files.record_file import MAX_RECORD_BYTES, not_opened, unreadable


class Content(NamedTuple):
    """What was found at a path; the open file, where there is one, tells later what has become of it."""

    found: Found
    data: bytes = b""
    fd: int | None = None


@contextmanager
def opened(fs: LayoutFileSystem, directory: str, path: str, scoped: ScopedKey) -> Iterator[Content]:
    """Read the record at *path* in the claims directory *directory*, and keep the file open.

    A record of the original does not say for which key it is, so it is about *scoped*, whatever that is.  One of ours
    for another key that has the same path is returned as it is: it holds the file.
    """
    try:
        fd = fs.open(path, READ)
    except FileNotFoundError:
        yield Content(None)
        return
    except OSError as error:
        yield Content(not_opened(fs, path, error))
        return
    try:
        status = fs.status(fd)
        if not stat.S_ISREG(status.st_mode):
            yield Content(unreadable(path, status, "not a file"))
        else:
            data = read_up_to(fs, fd, MAX_RECORD_BYTES + 1)
            yield Content(_parsed(directory, path, scoped, status, data), data, fd)
    finally:
        with suppress(OSError):
            fs.close(fd)


def read_up_to(fs: LayoutFileSystem, fd: int, size: int) -> bytes:
    """Read what an open file has from where it stands, *size* bytes at most."""
    data = b""
    while len(data) < size and (part := fs.read(fd, size - len(data))):
        data += part
    return data


def _parsed(directory: str, path: str, scoped: ScopedKey, status: os.stat_result, data: bytes) -> Found:
    if len(data) > MAX_RECORD_BYTES:
        return unreadable(path, status, f"larger than {MAX_RECORD_BYTES:,} bytes")
    try:
        # One that lacks a field of ours is none of the original's: it is a damaged one of ours.
        claim = original_from_json(data, scoped) if is_original(data) else from_json(data, last_change(status))
        if claim.scoped == scoped or place(directory, claim.scoped)[1] == path:
            return claim
    except RecordError as error:
        return unreadable(path, status, str(error))
    except InvalidInputError:
        pass  # About a key that cannot be in this directory.
    return unreadable(path, status, "about another key than its file name says")
