"""The original's lock on one record: a directory `<record>.lock` with its owner's PID in `meta.json`.

The original makes the directory with `mkdir`, writes meta.json into it, and removes both when done (`withClaimLock`).
If the lock is taken, it tries again every 20 ms.  It removes the lock of another process

- if nothing runs under the PID in meta.json (`isClaimLockStale`),
- if meta.json, or the directory where that is missing, is older than 10 s, although the owner may live,
- if `stat` of the directory fails, which happens when its owner has just released it,
- after waiting for 5 s, whatever the owner does,

and it removes by path, so that it may remove the lock of a later owner.  The guards here are for that: a lock of a live
process is never removed, a removal never hits a later lock, and `RecordLock.still_held` is asked around each change.

The caller of everything here holds the kernel lock of the namespace: no other process of mcp-claims makes, removes or
releases a lock at the same time, but sessions of the original may.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from mcp_claims.model.codec import timestamp
from mcp_claims.model.text import one_line
from mcp_claims.stores.agent_awareness.filenames import NEW_META, OLD_META
from mcp_claims.stores.agent_awareness.filesystem import AgentAwarenessFileSystem, read_up_to, write_new_file
from mcp_claims.stores.files.filesystem import READ

STALE_AFTER = 10.0
"""Age in seconds at which the original takes a lock for stale, and mcp-claims one that no live process owns."""

PidIsGone = Callable[[int], bool]
"""Returns whether provably nothing runs under a PID on this machine."""

_META = "meta.json"
_META_BYTES = 4_096
_WRITER = "mcp-claims"
_MISSING = (FileNotFoundError, NotADirectoryError)


class RecordLock:
    """A lock that this process has made, identified by the nonce in its meta.json."""

    def __init__(self, fs: AgentAwarenessFileSystem, path: str, meta: bytes) -> None:
        self._fs, self._path, self._meta = fs, path, meta

    def still_held(self) -> bool:
        """Return whether nobody has removed the lock; once it is lost, it never becomes ours again."""
        return _read(self._fs, f"{self._path}/{_META}") == self._meta

    def release(self) -> None:
        """Remove the lock if it is still ours; never raises, since the change is already made.

        A lock that cannot be removed is stale after 10 s.
        """
        with suppress(OSError):
            _remove_lock_if(self._fs, self._path, lambda meta: meta == self._meta)
        _discard(self._fs, _sibling(self._path, NEW_META))


class _Owner(NamedTuple):
    pid: int
    is_mcp_claims: bool


class LockDescription(NamedTuple):
    """A lock that is there, for people: how it stands and what to do about it.

    `goes` is whether it goes by itself, and `in_use` whether it is as new as one that a session uses just now.
    """

    state: str
    remedy: str
    goes: bool = False
    in_use: bool = False


_TRY_AGAIN, _REMOVE = "Try again.", "Remove it if no agent works on that key."
_IS_STALE = "The next claim of that key removes it."


def describe_lock(fs: AgentAwarenessFileSystem, path: str, pid_is_gone: PidIsGone) -> LockDescription:
    """Describe the lock at *path*: its age, its owner, and when it goes."""
    try:
        status = fs.status_of(path)
        if not stat.S_ISDIR(status.st_mode):
            return LockDescription("is no directory, so no session has made it", _REMOVE)
        others = sorted(set(fs.names(path)) - {_META})
        owner = _parse_owner(_read(fs, f"{path}/{_META}"))
    except _MISSING:
        return LockDescription("was released just now", _TRY_AGAIN, goes=True, in_use=True)
    except OSError as error:
        return LockDescription(f"cannot be examined ({error.strerror})", _REMOVE)
    age = max(0.0, fs.wall_clock() - status.st_mtime)
    state = f"is {age:.0f} s old" if age < 120 else f"is {age / 60:.0f} min old"
    stale_soon = f"It is removed once it is {STALE_AFTER:.0f} s old: try again then."
    if others:
        return LockDescription(f"{state} and contains what no lock does ({one_line(others[0])})", _REMOVE)
    if owner is None:
        state += " and names no owner: a session is about to write its PID into it, or has died before"
        return LockDescription(state, stale_soon if age <= STALE_AFTER else _IS_STALE, goes=True)
    state += f", of process {owner.pid}"
    if pid_is_gone(owner.pid):
        return LockDescription(f"{state}, which has ended", _IS_STALE, goes=True)
    if age <= STALE_AFTER:
        return LockDescription(f"{state}, which lives", _TRY_AGAIN, goes=True, in_use=True)
    if owner.is_mcp_claims:
        return LockDescription(f"{state}, which did not remove it", _IS_STALE, goes=True)
    return LockDescription(
        f"{state}, which lives, but is probably stopped, or has the PID of a session that died",
        f"Let process {owner.pid} go on, or end it. If the process is no agent, remove the lock.",
    )


def try_lock(fs: AgentAwarenessFileSystem, path: str) -> RecordLock | None:
    """Make the lock at *path*; return `None` if somebody else has it.

    meta.json is written beforehand and linked into the new directory.  So it is never half written, and a crash between
    the two calls is the only one that leaves a lock without an owner, for which everybody would wait 10 s.
    """
    owner = {
        "pid": os.getpid(),
        "createdAt": timestamp(datetime.fromtimestamp(fs.wall_clock(), UTC)),
        "by": _WRITER,
        "nonce": secrets.token_hex(8),
    }
    meta = json.dumps(owner).encode() + b"\n"
    new_meta = _sibling(path, NEW_META)
    try:
        write_new_file(fs, new_meta, meta)
        fs.make_lock_directory(path)
    except FileExistsError:
        _discard(fs, new_meta)
        return None
    except OSError:
        _discard(fs, new_meta)
        raise
    try:
        fs.link(new_meta, f"{path}/{_META}")
    except (FileExistsError, *_MISSING):
        # A session of the original has removed our directory, or has put its own meta.json into it.
        _discard(fs, new_meta)
        return None
    except BaseException:
        with suppress(OSError):
            _remove_lock_if(fs, path, lambda meta: meta is None)
        _discard(fs, new_meta)
        raise
    return RecordLock(fs, path, meta)


def remove_stale_lock(fs: AgentAwarenessFileSystem, path: str, pid_is_gone: PidIsGone) -> bool:
    """Remove the lock at *path* if it is stale; return whether no lock is there any more.

    A lock is stale if nothing runs under the PID of its owner.  Two kinds of lock are stale after 10 s: one without a
    PID, and one of mcp-claims whatever its PID, because its owner would hold the kernel lock, which the caller holds.
    """
    try:
        # Open until the end, so that a later directory cannot get the inode number of the one that is judged.
        directory = fs.open_directory(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return False  # Not a lock, or not a readable one: somebody else's, and not ours to remove.
        raise
    try:
        status = fs.status_of(path)
        if not stat.S_ISDIR(status.st_mode) or set(fs.names(path)) - {_META}:
            return False  # A lock contains nothing but meta.json.
        meta = _read(fs, f"{path}/{_META}")
        if not _is_stale(meta, fs.wall_clock() - status.st_mtime, pid_is_gone):
            return False
        if directory is not None and fs.status(directory).st_ino != fs.status_of(path).st_ino:
            return False  # Replaced by another lock while it was judged.
        return _remove_lock_if(fs, path, lambda found: found == meta)
    except _MISSING:
        return True
    finally:
        if directory is not None:
            with suppress(OSError):
                fs.close(directory)


def _is_stale(meta: bytes | None, age: float, pid_is_gone: PidIsGone) -> bool:
    owner = _parse_owner(meta)
    if owner is None:
        return age > STALE_AFTER
    return pid_is_gone(owner.pid) or (owner.is_mcp_claims and age > STALE_AFTER)


def _parse_owner(meta: bytes | None) -> _Owner | None:
    try:
        fields = json.loads(meta or b"")
    except (ValueError, RecursionError):
        return None
    pid = fields.get("pid") if isinstance(fields, dict) else None
    if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0:
        return _Owner(pid, fields.get("by") == _WRITER)
    return None


def _remove_lock_if(fs: AgentAwarenessFileSystem, path: str, matches: Callable[[bytes | None], bool]) -> bool:
    """Remove the lock at *path* if its meta.json *matches*; return whether no lock is there any more.

    A session of the original may replace the lock at any moment, so the two steps are atomic and cannot hit another one:

    1. meta.json is renamed and read under its new name.  If it does not match, it goes back.  Its owner does not miss
       it meanwhile, since it never reads it; others see a new lock without meta.json, and wait.
    2. `rmdir` removes the directory only if it is empty.

    Renaming the whole directory instead could catch another owner's lock, and putting that back would leave a gap in
    which a third process makes its own.
    """
    meta, old_meta = f"{path}/{_META}", _sibling(path, OLD_META)
    moved = False
    try:
        try:
            fs.replace(meta, old_meta)
            moved = True
        except _MISSING:
            pass
        if not matches(_read(fs, old_meta) if moved else None):
            if moved:
                with suppress(FileExistsError, *_MISSING):
                    fs.link(old_meta, meta)
            return False
        try:
            fs.remove_directory(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        return True
    finally:
        if moved:
            fs.remove(old_meta)


def _sibling(path: str, name: str) -> str:
    return f"{os.path.dirname(path)}/{name}"


def _discard(fs: AgentAwarenessFileSystem, path: str) -> None:
    # A file that stays is replaced by the next process that needs the name.
    with suppress(OSError):
        fs.remove(path)


def _read(fs: AgentAwarenessFileSystem, path: str) -> bytes | None:
    try:
        fd = fs.open(path, READ)
    except _MISSING:
        return None
    try:
        return read_up_to(fs, fd, _META_BYTES)
    finally:
        with suppress(OSError):
            fs.close(fd)
