"""The record at a path: a claim of mcp-claims, one of the original, or something unreadable.

The original (`readClaim`) treats a file that it cannot parse as no claim.  Here it is `Unreadable`, which counts as
held: the file may be half written, since the original (`writeClaim`) empties a file before it fills it.

The original (`isHolderAlive`) takes a claim for dead, and removes it, if its holder begins with `<this host>:` and nothing
runs under its PID.  That is right only for a claim that ends with that process.  So any other has a holder that no host
name begins: the original then takes it for another machine's and leaves it alone until it expires.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.codec import RecordError, from_json, is_original, original_from_json, to_json
from mcp_claims.model.records import Claim, Found, Proof, ScopedKey
from mcp_claims.stores.agent_awareness.filenames import record_path
from mcp_claims.stores.agent_awareness.filesystem import AgentAwarenessFileSystem, read_up_to
from mcp_claims.stores.files.filesystem import READ, last_change
from mcp_claims.stores.files.record_file import MAX_RECORD_BYTES, not_opened, unreadable

# Never the beginning of a host name, which has no slash.
_OUTLIVES_ITS_PROCESS = "mcp-claims/"


class RecordFile(NamedTuple):
    """What was found at the path of a record: as bytes, as a claim, and as a file that is still open."""

    found: Found
    data: bytes = b""
    fd: int | None = None


@contextmanager
def open_record(
    fs: AgentAwarenessFileSystem, claims_directory: str, path: str, scoped: ScopedKey
) -> Iterator[RecordFile]:
    """Read the record at *path*, and keep the file open: it shows later whether anybody has written to it.

    A record of the original has no key; it is returned as a claim on *scoped*.  A record of mcp-claims for another key
    with the same path is returned with its own key: it occupies the file.
    """
    try:
        fd = fs.open(path, READ)
    except FileNotFoundError:
        yield RecordFile(None)
        return
    except OSError as error:
        yield RecordFile(not_opened(fs, path, error))
        return
    try:
        status = fs.status(fd)
        if not stat.S_ISREG(status.st_mode):
            yield RecordFile(unreadable(path, status, "not a file"))
        else:
            data = read_up_to(fs, fd, MAX_RECORD_BYTES + 1)
            yield RecordFile(_parse(claims_directory, path, scoped, status, data), data, fd)
    finally:
        with suppress(OSError):
            fs.close(fd)


def shared_record(claim: Claim) -> bytes:
    """Return the record of *claim*, so that the original judges it by its PID only if it ends with that process."""
    holder = claim.holder
    # A marker stays when its process has ended; without a proof, nobody may conclude from the PID that the holder is dead.
    if claim.ended is not None or holder.proof == Proof() or holder.name.startswith(_OUTLIVES_ITS_PROCESS):
        holder = holder._replace(name=f"{_OUTLIVES_ITS_PROCESS}{holder.name}")
    return to_json(claim._replace(holder=holder))


def _own_claim(data: bytes, stored: float) -> Claim:
    claim = from_json(data, stored)
    return claim._replace(holder=claim.holder._replace(name=claim.holder.name.removeprefix(_OUTLIVES_ITS_PROCESS)))


def _parse(claims_directory: str, path: str, scoped: ScopedKey, status: os.stat_result, data: bytes) -> Found:
    if len(data) > MAX_RECORD_BYTES:
        return unreadable(path, status, f"larger than {MAX_RECORD_BYTES:,} bytes")
    try:
        # A record with any field that only mcp-claims writes is ours.  If another one is missing, it is damaged, and
        # must not be judged as one of the original, by host and PID alone.
        claim = original_from_json(data, scoped) if is_original(data) else _own_claim(data, last_change(status))
        if claim.scoped == scoped or record_path(claims_directory, claim.scoped) == path:
            return claim
    except RecordError as error:
        return unreadable(path, status, str(error))
    except InvalidInputError:
        pass  # Its namespace can have no directory here, so it is about another key.
    return unreadable(path, status, "about another key than its file name says")
