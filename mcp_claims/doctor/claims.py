"""What is stored: claims and how they stand, what cannot be read, what is not ours, and locks that somebody keeps."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from mcp_claims.doctor.finding import Finding, failure, ok, warning
from mcp_claims.errors import ClaimsError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Moment, Unreadable
from mcp_claims.stores.base import Store
from mcp_claims.stores.files.filenames import may_be_file_name
from mcp_claims.stores.files.filesystem import LOCK, READ, FileSystem
from mcp_claims.stores.files.generation_counter import COUNTER_BYTES, is_counter
from mcp_claims.stores.files.lock import LOCK_FILE
from mcp_claims.stores.files.store import FileStore

_SHOWN = 5
_PATIENCE = 0.5  # s
_SLACK = timedelta(minutes=1)


def examine_stored(directory: Path, store: Store, machine: Machine) -> Iterator[Finding]:
    """Examine the claims that *store* has in *directory*, and what else is there if the names in it are ours alone."""
    if not os.path.isdir(directory):  # Not `Path.is_dir`, which raises where this user may not look.
        return
    yield from examine_claims(store, machine)
    if isinstance(store, FileStore):
        yield from _entries(directory)


def examine_claims(store: Store, machine: Machine) -> Iterator[Finding]:
    """Examine the claims that *store* has."""
    standings: Counter[ClaimState] = Counter()
    unreadable: list[Unreadable] = []
    odd: list[str] = []
    try:
        for found in store.scan():
            now = machine.now()
            if isinstance(found, Unreadable):
                unreadable.append(found)
                odd += _oddity(found.where, found.changed, now)
            else:
                standings[expiry.state_of(found, now, machine.provably_dead)] += 1
                odd += _odd_times(found, now)
    except ClaimsError as error:
        yield failure("claims", validation.one_line(str(error)), "Mend that, and run doctor again.")
        return
    dead = standings[ClaimState.EXPIRED] + standings[ClaimState.ORPHANED]
    yield ok("claims", f"{standings[ClaimState.HELD]} live, {dead} expired or orphaned (free for whoever asks)")
    for found in unreadable[:_SHOWN]:
        yield warning(
            "claims",
            f"cannot be read, so it counts as held: {validation.one_line(found.where)} ({validation.one_line(found.problem)})",
            "Look at it; delete it if nobody works on that event. A day after its last change it is free.",
        )
    if len(unreadable) > _SHOWN:
        yield warning("claims", f"{len(unreadable) - _SHOWN} more cannot be read", "As above.")
    for what in odd[:_SHOWN]:
        yield warning("clocks", what, "Set the clock right; if the claim is nobody's, delete its file.")


def _odd_times(claim: Claim, now: Moment) -> list[str]:
    name = f"the claim on {validation.one_line(claim.scoped.key)!r}"
    if expiry.remaining(claim.expires, now) > validation.MAX_TTL + _SLACK:
        return [f"{name} expires later than anybody can have asked for"]
    if claim.claimed.epoch != now.epoch and claim.claimed.wall > now.wall + _SLACK:
        return [f"{name} was made in the future"]
    return []


def _oddity(where: str, changed: datetime, now: Moment) -> list[str]:
    return [f"{validation.one_line(where)} was changed in the future"] if changed > now.wall + _SLACK else []


def _entries(directory: Path) -> Iterator[Finding]:
    try:
        entries = sorted(os.listdir(directory))
    except OSError as error:
        yield failure(
            "entries", f"{directory} cannot be listed: {error.strerror}", f"chmod 700 {directory}, as its owner."
        )
        return
    foreign = []
    for name in entries:
        path = directory / name
        if may_be_file_name(name) and _may_be_namespace(path):
            yield from _namespace(path)
        elif not name.startswith("."):
            foreign.append(validation.one_line(repr(name)))
    if foreign:
        shown = ", ".join(foreign[:_SHOWN]) + (" and more" if len(foreign) > _SHOWN else "")
        yield warning("entries", f"not made by mcp-claims, and left alone: {shown}", "Keep other files elsewhere.")


def _may_be_namespace(path: Path) -> bool:
    try:
        os.lstat(path / LOCK_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # This user may not look; opening will tell.
    return True


def _namespace(path: Path) -> Iterator[Finding]:
    """Tell why nothing can be claimed in a namespace, if that is so; the scan tells of one that others can write."""
    if os.path.islink(path):
        yield failure("entries", f"{path} is a link, and nothing is claimed behind it", "Remove that link.")
        return
    if not os.access(path, os.W_OK | os.X_OK):
        yield failure("entries", f"{path} cannot be written by this user", f"chmod 700 {path}, as its owner.")
        return
    yield from _lock(path)


def _lock(namespace: Path) -> Iterator[Finding]:
    """Tell of a lock that somebody keeps, and of a damaged generation mark."""
    fs, path = FileSystem(), str(namespace / LOCK_FILE)
    try:
        fd = fs.open(path, LOCK)
    except OSError as error:
        yield failure("locks", f"{path} cannot be opened: {error.strerror}", f"chmod 600 {path}, as its owner.")
        return
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            yield failure("locks", f"{path} is not a file", "Move it away.")
            return
        deadline = time.monotonic() + _PATIENCE
        while not fs.try_lock(fd):
            if time.monotonic() > deadline:
                yield failure(
                    "locks", f"{path} is kept by {_keepers(fd)}", "End that process, or let it go on (kill -CONT)."
                )
                return
            time.sleep(0.01)
        fs.unlock(fd)
    finally:
        fs.close(fd)
    yield from _mark(fs, path)


def _mark(fs: FileSystem, path: str) -> Iterator[Finding]:
    fd = fs.open(path, READ)
    try:
        data = fs.read(fd, COUNTER_BYTES)
    finally:
        fs.close(fd)
    if data and not is_counter(data):
        yield warning(
            "locks",
            f"the generation mark in {path} is damaged",
            "Nothing to do: the next grant starts above every number that was given.",
        )


def _keepers(fd: int) -> str:
    """Say which processes have the lock on *fd*, where that is told, proc_locks(5)."""
    status = os.fstat(fd)
    pids: list[str] = []
    if sys.platform == "linux":
        where = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        try:
            lines = Path("/proc/locks").read_text().splitlines()
        except OSError:
            lines = []
        pids = [line.split()[4] for line in lines if where in line.split() and "->" not in line]
    return f"process {', '.join(pids)}" if pids else "another process"
