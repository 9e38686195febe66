"""Compare and write one record under the original's lock, which sessions of the original may break at any moment.

Three behaviours of the original make guards necessary (see `lock` for when it breaks a lock):

- It does not check, before or after it writes, whether it still has its lock.  So the lock is checked here right before
  the write and right after it; if it was lost in between, `_settle` finds out who has the key.
- It takes a key that is free, expired or of a dead process by writing in place (`writeClaim`).  So no record is replaced
  or removed unseen: it is moved aside and compared there, and the new one is linked to a path that has to be free.
- It leaves a live claim alone.  So a renewal replaces the record by rename: moving it aside would leave a gap in which
  the original finds the key free.

Limits: two holders remain possible if one session of the original breaks our lock and claims in the microseconds between the
check and the move, and another one claims between the move and the return of the record.  The file system needs hard links.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Found, ScopedKey
from mcp_claims.stores.agent_awareness.filenames import NEW_RECORD, OLD_RECORD, lock_path
from mcp_claims.stores.agent_awareness.filesystem import AgentAwarenessFileSystem, read_up_to, write_new_file
from mcp_claims.stores.agent_awareness.lock import PidIsGone, RecordLock, remove_stale_lock, try_lock
from mcp_claims.stores.agent_awareness.record_file import RecordFile, open_record
from mcp_claims.stores.base import Swap
from mcp_claims.stores.files.record_file import MAX_RECORD_BYTES

SETTLE_TIMEOUT = 1.0
"""Seconds to wait until the session that broke our lock has released its own; it takes a few milliseconds as a rule."""

_SETTLE_PAUSE = 0.002


class LockedSwap:
    """One compare-and-swap of the record of *scoped* at *path*; the new record is already at `NEW_RECORD` beside it.

    `uncertain` is true, after an exception, if the record was written and it is unknown whether the write counts.
    """

    def __init__(
        self, fs: AgentAwarenessFileSystem, claims_directory: str, path: str, scoped: ScopedKey, pid_is_gone: PidIsGone
    ) -> None:
        self._fs, self._claims_directory, self._path, self._scoped = fs, claims_directory, path, scoped
        self._pid_is_gone = pid_is_gone
        directory = os.path.dirname(path)
        self._new_path, self._old_path = f"{directory}/{NEW_RECORD}", f"{directory}/{OLD_RECORD}"
        self.uncertain = False

    def run(self, lock: RecordLock, old: Found, new: Claim | None) -> Swap | None:
        """Store *new* if *old* is what is stored, and release *lock*.

        Returns `None`, with nothing changed, if the lock was broken before the write.  Raises `OSError` as the system
        does, and EBUSY if the lock was broken during the write and its breaker does not finish in `SETTLE_TIMEOUT`.
        """
        try:
            with open_record(self._fs, self._claims_directory, self._path, self._scoped) as seen:
                if seen.found != old:
                    return Swap(False, seen.found)
                if not (lock.still_held() and self._write(seen, new)):
                    return None
                self.uncertain = True
                swap = Swap(True, new) if lock.still_held() else self._settle(seen, new)
                self.uncertain = False
                return swap
        finally:
            lock.release()

    def _write(self, seen: RecordFile, new: Claim | None) -> bool:
        """Put *new* in the place of the record that was *seen*; return whether that record was still there."""
        if seen.found is None:
            return new is None or self._link_new()
        if isinstance(seen.found, Claim) and new is not None and self._is_live_renewal(seen.found, new):
            self._fs.replace(self._new_path, self._path)
            return True
        if seen.fd is None:
            # A link, a directory, a file without permission: no session of either kind has written it.
            self._fs.remove(self._path)
            return True
        try:
            self._fs.replace(self._path, self._old_path)
        except FileNotFoundError:
            return False
        done = False
        try:
            done = self._is_unchanged(seen, seen.fd) and (new is None or self._link_new())
        finally:
            if not done:
                self._put_back()
            with suppress(OSError):
                self._fs.remove(self._old_path)
        return done

    def _link_new(self) -> bool:
        try:
            self._fs.link(self._new_path, self._path)
        except FileExistsError:
            return False
        return True

    def _put_back(self) -> None:
        try:
            self._fs.link(self._old_path, self._path)
        except FileExistsError:
            pass  # Somebody has claimed the key since the record was moved.
        except OSError:
            # Without hard links, or with a full disk: the record must not be lost.
            self._fs.replace(self._old_path, self._path)

    def _is_live_renewal(self, found: Claim, new: Claim) -> bool:
        same_grant = found.generation == new.generation and is_same_session(found.holder.name, new.holder.name)
        return same_grant and self._fs.wall_clock() < found.expires.wall.timestamp()

    def _is_unchanged(self, seen: RecordFile, fd: int) -> bool:
        """Return whether the file that was moved aside is the one that was *seen*, with the same content."""
        moved, opened = self._fs.status_of(self._old_path), self._fs.status(fd)
        return (moved.st_dev, moved.st_ino) == (opened.st_dev, opened.st_ino) and self._reread(fd) == seen.data

    def _reread(self, fd: int) -> bytes:
        self._fs.seek(fd, 0, os.SEEK_SET)
        return read_up_to(self._fs, fd, MAX_RECORD_BYTES + 1)

    def _settle(self, seen: RecordFile, new: Claim | None) -> Swap:
        """Find out who has the key after our lock was broken while we wrote.

        Wait until the breaker has released its lock.  It has read the record either after our write, and then what it
        did is at the path; or before it, and then it has written in place, into the file at the path or into the file
        that we replaced.  That one is still open.  If it has changed, the breaker was promised the key: put its claim
        back, and report that we lost.
        """
        lock = self._lock_again()
        try:
            with open_record(self._fs, self._claims_directory, self._path, self._scoped) as now:
                found = now.found
            if found == new and seen.fd is not None and (written := self._reread(seen.fd)) != seen.data:
                write_new_file(self._fs, self._new_path, written)
                self._fs.replace(self._new_path, self._path)
                with open_record(self._fs, self._claims_directory, self._path, self._scoped) as restored:
                    return Swap(False, restored.found)
            return Swap(True, None) if new is None else Swap(found == new, found)
        finally:
            lock.release()

    def _lock_again(self) -> RecordLock:
        path = lock_path(self._path)
        deadline = self._fs.monotonic() + SETTLE_TIMEOUT
        while True:
            if remove_stale_lock(self._fs, path, self._pid_is_gone) and (lock := try_lock(self._fs, path)):
                return lock
            if self._fs.monotonic() >= deadline:
                raise OSError(errno.EBUSY, "the lock was broken by a session of agent-awareness", path)
            self._fs.sleep(_SETTLE_PAUSE)
