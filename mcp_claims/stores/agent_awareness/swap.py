"""Compare and write under the original's lock, which any of its sessions may break meanwhile (DESIGN.md, A8)."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from mcp_claims.model.records import Claim, Found, ScopedKey
from mcp_claims.stores.agent_awareness.filenames import LOCK, RECORD
from mcp_claims.stores.agent_awareness.filesystem import LayoutFileSystem, write_new
from mcp_claims.stores.agent_awareness.lock import IsGone, RecordLock, is_free, make_lock
from mcp_claims.stores.agent_awareness.record_file import Content, opened, read_up_to
from mcp_claims.stores.base import Swap
from mcp_claims.stores.files.record_file import MAX_RECORD_BYTES

SETTLE_WAIT = 1.0
"""Seconds to wait for whoever broke our lock while we wrote, to learn what it did; usually a few milliseconds."""

NEW = ".new"
"""Where the caller has put the record that is to be stored."""

OLD = ".old"
"""Where a record is moved before it is replaced or removed; one name for all, as one process of ours is inside."""

_SETTLE_PAUSE = 0.002


class LockedChange:
    """One change of the record at *path*, which is about *scoped*, in the claims directory *directory*.

    `in_doubt` tells, after an exception, that the change was made and nobody knows whether it counts.
    """

    def __init__(self, fs: LayoutFileSystem, directory: str, path: str, scoped: ScopedKey, is_gone: IsGone) -> None:
        self._fs, self._directory, self._path, self._scoped = fs, directory, path, scoped
        self._is_gone = is_gone
        inside = os.path.dirname(path)
        self._new, self._old = f"{inside}/{NEW}", f"{inside}/{OLD}"
        self.in_doubt = False

    def make(self, lock: RecordLock, old: Found, new: Claim | None) -> Swap | None:
        """Store *new* if *old* is what is stored, and leave *lock*; `None` if it was broken, with nothing changed."""
        try:
            with opened(self._fs, self._directory, self._path, self._scoped) as seen:
                if seen.found != old:
                    return Swap(False, seen.found)
                if not (lock.is_ours() and self._put(seen, new)):
                    return None
                self.in_doubt = True
                swap = Swap(True, new) if lock.is_ours() else self._settle(seen, new)
                self.in_doubt = False
                return swap
        finally:
            lock.leave()

    def _put(self, seen: Content, new: Claim | None) -> bool:
        """Put *new* in the place of what was *seen*; tell whether that was still there.

        Whoever broke our lock since it was looked at may have claimed the key: in the file that we saw or, after a
        removal, in another one.  So nothing is replaced or removed unseen: the file is moved aside, which is atomic, and
        looked at there; and the new one is linked to the path, which fails if there is one again.

        Not so a live claim that is renewed: the breaker leaves that alone, and would find the key free in the gap.
        """
        found = seen.found
        if found is None:
            return new is None or self._link()
        if isinstance(found, Claim) and new is not None and self._is_renewal_in_time(found, new):
            self._fs.replace(self._new, self._path)
            return True
        if seen.fd is None:
            # Neither of us wrote it: a link, a directory, a file that may not be opened.
            self._fs.remove(self._path)
            return True
        try:
            self._fs.replace(self._path, self._old)
        except FileNotFoundError:
            return False
        done = False
        try:
            done = self._is_still(seen, seen.fd) and (new is None or self._link())
        finally:
            if not done:
                self._put_back()
            with suppress(OSError):
                self._fs.remove(self._old)
        return done

    def _link(self) -> bool:
        try:
            self._fs.link(self._new, self._path)
        except FileExistsError:
            return False
        return True

    def _put_back(self) -> None:
        try:
            self._fs.link(self._old, self._path)
        except FileExistsError:
            pass  # Claimed anew in the gap.
        except OSError:
            # Whatever is wrong with links, the record must not be lost.
            self._fs.replace(self._old, self._path)

    def _is_renewal_in_time(self, found: Claim, new: Claim) -> bool:
        same = (found.holder.name, found.generation) == (new.holder.name, new.generation)
        return same and self._fs.wall() < found.expires.wall.timestamp()

    def _is_still(self, seen: Content, fd: int) -> bool:
        """Tell whether the file that was moved aside is the one that was *seen*, and nobody has written to it."""
        there, then = self._fs.status_of(self._old), self._fs.status(fd)
        return (there.st_dev, there.st_ino) == (then.st_dev, then.st_ino) and self._data_now(fd) == seen.data

    def _data_now(self, fd: int) -> bytes:
        self._fs.seek(fd, 0)
        return read_up_to(self._fs, fd, MAX_RECORD_BYTES + 1)

    def _settle(self, seen: Content, new: Claim | None) -> Swap:
        """Find out, once whoever broke our lock has left, which of us has the key.

        It saw the record before or after our write.  If before, and it took the key, it wrote into the file that was
        there then, since it writes in place: either that is the file at the path, or it is the one that we replaced,
        which is still open.  In the latter case what it wrote is put back, and we have lost.
        """
        lock = self._lock_again()
        try:
            with opened(self._fs, self._directory, self._path, self._scoped) as now:
                found = now.found
            if found == new and seen.fd is not None and (written := self._data_now(seen.fd)) != seen.data:
                write_new(self._fs, self._new, written)
                self._fs.replace(self._new, self._path)
                with opened(self._fs, self._directory, self._path, self._scoped) as restored:
                    return Swap(False, restored.found)
            return Swap(True, None) if new is None else Swap(found == new, found)
        finally:
            lock.leave()

    def _lock_again(self) -> RecordLock:
        path = self._path.removesuffix(RECORD) + LOCK
        deadline = self._fs.monotonic() + SETTLE_WAIT
        while True:
            if is_free(self._fs, path, self._is_gone) and (lock := make_lock(self._fs, path)):
                return lock
            if self._fs.monotonic() >= deadline:
                raise OSError(errno.EBUSY, "the lock was broken by a session of agent-awareness", path)
            self._fs.sleep(_SETTLE_PAUSE)
