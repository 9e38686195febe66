"""The original's lock on one record: a directory beside it, with the owner's PID in `meta.json` (DESIGN.md, A5 to A8).

Everything here is done by whoever has the kernel lock of the namespace, so no other process of ours makes, breaks or
leaves a lock at the same time.  Sessions of the original may do so at any time.
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

from mcp_claims.model.codec import timestamp
from mcp_claims.stores.agent_awareness.filesystem import LayoutFileSystem, write_new
from mcp_claims.stores.agent_awareness.record_file import read_up_to
from mcp_claims.stores.files.filesystem import READ

STALE_AFTER = 10.0
"""Seconds after which the original takes a lock for stale, and we do one without a live owner."""

ASIDE = ".broken"
"""Where a lock's meta.json is moved before it is removed; one name for all, as only one process of ours is inside."""

FRESH = ".meta"
"""Where a meta.json is written before its lock is made."""

IsGone = Callable[[int], bool]
"""Tells whether nothing runs under a PID on this machine."""

_META = "meta.json"
_META_BYTES = 4_096
_BY = "mcp-claims"
_NOT_THERE = (FileNotFoundError, NotADirectoryError)


class RecordLock:
    """A lock directory that we made.  Others may break it all the same, so `is_ours` is asked around each change."""

    def __init__(self, fs: LayoutFileSystem, path: str, meta: bytes) -> None:
        self._fs, self._path, self._meta = fs, path, meta

    def is_ours(self) -> bool:
        """Tell whether nobody has broken the lock; once broken it is never ours again."""
        return _read_meta(self._fs, self._path) == self._meta

    def leave(self) -> None:
        """Remove the lock if it is still ours; what was changed is changed, so a failure is nobody's concern.

        What stays behind in that case is stale for all of us after 10 s.
        """
        with suppress(OSError):
            _dismantle(self._fs, self._path, lambda found: found == self._meta)
        _remove(self._fs, f"{os.path.dirname(self._path)}/{FRESH}")


def make_lock(fs: LayoutFileSystem, path: str) -> RecordLock | None:
    """Take the lock at *path*; `None` if somebody has it.

    Its meta.json is written beforehand and linked into it: so it is whole from the start, and there is next to no time
    in which a crash leaves a lock that names nobody, for which everybody would wait 10 s.
    """
    now = datetime.fromtimestamp(fs.wall(), UTC)
    owner = {"pid": os.getpid(), "createdAt": timestamp(now), "by": _BY, "nonce": secrets.token_hex(8)}
    meta = json.dumps(owner).encode() + b"\n"
    fresh = f"{os.path.dirname(path)}/{FRESH}"
    lock = RecordLock(fs, path, meta)
    try:
        write_new(fs, fresh, meta)
        fs.make_lock(path)
    except FileExistsError:
        _remove(fs, fresh)
        return None
    except OSError:
        _remove(fs, fresh)
        raise
    try:
        fs.link(fresh, f"{path}/{_META}")
    except (FileExistsError, *_NOT_THERE):
        # Somebody broke the lock and made another, or was slow with the meta.json of a broken one.
        _remove(fs, fresh)
        return None
    except BaseException:
        with suppress(OSError):
            _dismantle(fs, path, lambda found: found is None)
        _remove(fs, fresh)
        raise
    return lock


def is_free(fs: LayoutFileSystem, path: str, is_gone: IsGone) -> bool:
    """Tell whether nobody has the lock at *path*, and break it if its owner is dead.

    The owner of a lock with a PID is dead if nothing runs under that PID.  A lock of ours whose PID was recycled is
    known by its age: its owner would have the kernel lock, which we have.  A lock without a PID is nobody's after 10 s.
    A live owner is never broken in upon, however long it takes.
    """
    try:
        pin = fs.pin(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return False  # Not a lock at all, so not ours to remove.
        raise
    try:
        status = fs.status_of(path)
        if not stat.S_ISDIR(status.st_mode) or set(fs.names(path)) - {_META}:
            return False
        meta = _read_meta(fs, path)
        if not _is_stale(meta, fs.wall() - status.st_mtime, is_gone):
            return False
        if pin is not None and fs.status(pin).st_ino != fs.status_of(path).st_ino:
            return False  # Another lock than the one that was judged.
        return _dismantle(fs, path, lambda found: found == meta)
    except _NOT_THERE:
        return True
    finally:
        if pin is not None:
            with suppress(OSError):
                fs.close(pin)


def _is_stale(meta: bytes | None, age: float, is_gone: IsGone) -> bool:
    owner = _owner(meta)
    if owner is None:
        return age > STALE_AFTER
    pid, ours = owner
    return is_gone(pid) or (ours and age > STALE_AFTER)


def _owner(meta: bytes | None) -> tuple[int, bool] | None:
    """Return the PID in *meta* and whether we wrote it; `None` if it names nobody."""
    try:
        said = json.loads(meta or b"")
    except (ValueError, RecursionError):
        return None
    pid = said.get("pid") if isinstance(said, dict) else None
    if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0:
        return pid, said.get("by") == _BY
    return None


def _remove(fs: LayoutFileSystem, path: str) -> None:
    # What stays is replaced by whoever comes next.
    with suppress(OSError):
        fs.remove(path)


def _read_meta(fs: LayoutFileSystem, path: str) -> bytes | None:
    return _read(fs, f"{path}/{_META}")


def _read(fs: LayoutFileSystem, path: str) -> bytes | None:
    try:
        fd = fs.open(path, READ)
    except _NOT_THERE:
        return None
    try:
        return read_up_to(fs, fd, _META_BYTES)
    finally:
        with suppress(OSError):
            fs.close(fd)


def _dismantle(fs: LayoutFileSystem, path: str, is_the_one: Callable[[bytes | None], bool]) -> bool:
    """Remove the lock at *path* if its meta.json *is_the_one*; tell whether the way is free.

    The meta.json is moved aside first, which is atomic, and looked at there: a rival may have replaced the lock since it
    was judged.  If it is another's it goes back; its owner never looks at it, and others who find a new lock without one
    wait.  The directory goes only when empty, which is atomic too.  Were the whole directory renamed away instead, it
    could be a rival's, and there would be no way to put it back without a gap in which a third one gets in.
    """
    meta, aside = f"{path}/{_META}", f"{os.path.dirname(path)}/{ASIDE}"
    moved = False
    try:
        try:
            fs.replace(meta, aside)
            moved = True
        except _NOT_THERE:
            pass
        found = _read(fs, aside) if moved else None
        if not is_the_one(found):
            if moved:
                with suppress(FileExistsError, *_NOT_THERE):
                    fs.link(aside, meta)
            return False
        try:
            fs.remove_empty(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        return True
    finally:
        if moved:
            fs.remove(aside)
