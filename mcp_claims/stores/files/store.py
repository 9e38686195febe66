"""One JSON file per claim, on a local file system.

The whole protocol (DESIGN.md, S1 to S7): a change holds the namespace's lock for all of compare-and-write; readers
take no lock, since a record appears by rename and so is seen whole or not at all.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import lru_cache

from mcp_claims.errors import InvalidInputError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.model.codec import RecordError, from_json, to_json
from mcp_claims.model.records import Claim, Found, ScopedKey, Unreadable
from mcp_claims.stores.base import LOCK_TIMEOUT, SECRET_BYTES, Swap
from mcp_claims.stores.files.checks import (
    NEVER,
    Trust,
    names_in,
    not_opened,
    of_one_namespace,
    read_secret,
    spell_secret,
    unavailable,
    unreadable,
)
from mcp_claims.stores.files.filenames import file_name, may_be_file_name
from mcp_claims.stores.files.filesystem import CREATE, READ, FileSystem, last_change, write_all
from mcp_claims.stores.files.lock import LOCK_FILE, make_namespace, namespace_lock

MAX_RECORD_BYTES = 64 * 1024
"""A claim with the longest key and note allowed, every character escaped, has under 16 kB."""

_SUFFIX = ".json"
_NEW = ".new"
"""Where a record is written: with the name of its namespace behind it in the claims directory, as each name that comes and
goes in a directory of 1,000 claims takes 4 µs longer than in one of ten."""

_BETWEEN = "\0"
"""Between the names in a position: it comes before any character of a name, as the end of a name does."""

_SECRETS, _HANDLES = ".secrets", "handles"


_MOST_KNOWN, _MOST_PLACES = 256, 1_024


class FileStore:
    """Claims as files in *directory*, shared by all processes of one user on one machine.

    The directory and its namespaces are made when the first claim is (mode 0700, files 0600); looking makes nothing.
    """

    remote = False

    def __init__(self, directory: str | os.PathLike[str], *, fs: FileSystem | None = None) -> None:
        self.directory = os.path.abspath(directory)
        if "\0" in self.directory:
            raise InvalidInputError("directory", "must be a path, without NUL characters")
        self._fs = fs or FileSystem()
        self._trust = Trust(self._fs, self.directory)
        self._places = lru_cache(maxsize=_MOST_PLACES)(self._find_places)
        # The same bytes at the same path are the same claim.  Each change reads twice, before its lock and under it; what is
        # released was written here; and who polls reads what was there before.
        self._known: dict[str, tuple[bytes, Claim]] = {}

    def read(self, scoped: ScopedKey) -> Found:
        directory, path, _ = self._places(scoped)
        return self._read(path, scoped) if self._trust.has(directory) else None

    def swap(
        self, scoped: ScopedKey, old: Claim | None, new: Claim | None, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> Swap:
        directory, path, fresh = self._places(scoped)
        try:
            with self._lock(directory, lock_timeout) as lock:
                found = self._read(path, scoped, dated=False)
                if found is not old and found != old:
                    # What is told of it includes since when it is there, which makes no difference to the comparison.
                    return Swap(False, self._read(path, scoped))
                if new is None:
                    if old is not None:
                        lock.still_locked()
                        self._fs.remove(path)
                    return Swap(True, None)
                if not new.generation:
                    after = old.generation if old is not None else 0
                    new = new._replace(generation=lock.next_generation(after, new.claimed.epoch))
                data = to_json(new)
                self._write(path, fresh, data, lock)
        except OSError as error:
            raise unavailable(directory, error) from error
        self._know(path, data, new)
        return Swap(True, new)

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        if isinstance(found, Claim):
            return self.swap(found.scoped, found, None, lock_timeout=lock_timeout).won
        directory = os.path.dirname(found.where)
        try:
            with self._lock(directory, lock_timeout) as lock:
                if self._read(found.where, None) != found:
                    return False
                self._remove(found.where, lock)
        except OSError as error:
            raise unavailable(directory, error) from error
        return True

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        # In a directory of its own, whose name no namespace has, and under the same lock and rename as claims.
        directory = f"{self.directory}/{_SECRETS}"
        path = f"{directory}/{_HANDLES}"
        try:
            found = read_secret(self._fs, path) if self._trust.has(directory) else None
            if found is not None:
                return found
            with self._lock(directory, lock_timeout) as lock:
                found = read_secret(self._fs, path)
                if found is None:
                    found = os.urandom(SECRET_BYTES)
                    self._write(path, self._fresh(_SECRETS), spell_secret(found), lock)
        except OSError as error:
            raise unavailable(directory, error) from error
        return found

    def scan(self, namespace: str | None = None, after: str = "") -> Iterator[Claim | Unreadable]:
        last_name, _, last_entry = after.partition(_BETWEEN)
        for name in names_in(self._fs, self.directory) if namespace is None else [file_name(namespace)]:
            if name < last_name:
                continue
            directory = f"{self.directory}/{name}"
            try:
                if namespace is None and not (may_be_file_name(name) and self._is_namespace(directory)):
                    continue
                entries = names_in(self._fs, directory) if self._trust.has(directory) else []
            except (UnsafeDirectoryError, StoreUnavailableError) as error:
                problem = of_one_namespace(error, self.directory)
                if namespace is not None or problem is None:
                    raise
                # One namespace that must not or cannot be entered must not keep the others from being seen.
                if name > last_name:
                    yield Unreadable(directory, problem, NEVER, ())
                continue
            for entry in entries:
                if name == last_name and entry <= last_entry:
                    continue
                if entry.endswith(_SUFFIX) and may_be_file_name(entry):
                    found = self._read(f"{directory}/{entry}", None)
                    if found is not None:
                        yield found

    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        # Imported here, like the line below: a check needs neither, nor the threads that come with them.
        from mcp_claims.stores.files.watch import watch_record, watch_records

        if isinstance(target, ScopedKey):
            return watch_record(self.directory, self._places(target)[1], notify)
        return watch_records(
            self.directory, self.directory if target is None else f"{self.directory}/{file_name(target)}", notify
        )

    def wait_queue(self, scoped: ScopedKey, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        from mcp_claims.stores.files.wait_queue import join_wait_queue

        directory = self._places(scoped)[0]
        if not self._trust.has(directory):
            return nullcontext(False)  # Nobody has claimed anything in this namespace.
        return join_wait_queue(directory, scoped.key, notify)

    def close(self, *, within: float) -> None:
        """Do nothing: claims in files end with the process by themselves."""

    def position(self, found: Claim | Unreadable) -> str:
        path = self._places(found.scoped)[1] if isinstance(found, Claim) else found.where
        return os.path.relpath(path, self.directory).replace(os.sep, _BETWEEN)

    def _find_places(self, scoped: ScopedKey) -> tuple[str, str, str]:
        """Return the directory of a namespace, the path of a key's record in it, and where that is written.

        `_places` remembers some.
        """
        name = file_name(scoped.namespace)
        directory = f"{self.directory}/{name}"
        return directory, f"{directory}/{file_name(scoped.key)}{_SUFFIX}", self._fresh(name)

    def _fresh(self, name: str) -> str:
        """Return where a record is written that belongs into the directory *name*; its lock guards this, too."""
        return f"{self.directory}/{_NEW}-{name}"

    def _lock(self, directory: str, lock_timeout: float) -> namespace_lock:
        """Return the lock of the namespace in *directory*, made if missing, once it is known to be ours alone."""
        if not self._trust.has(directory):
            make_namespace(self._fs, directory)
            self._trust.has(directory)
        return namespace_lock(self._fs, directory, lock_timeout)

    def _is_namespace(self, path: str) -> bool:
        """Tell whether *path* is a namespace of ours, which has a lock file; prune must not touch other directories."""
        try:
            self._fs.status_of(f"{path}/{LOCK_FILE}")
            return stat.S_ISDIR(self._fs.status_of(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise unavailable(path, error) from error

    def _read(self, path: str, scoped: ScopedKey | None, *, dated: bool = True) -> Found:
        """Read the claim at *path*, which has to be about *scoped*, or about whatever key has that file name.

        Unless it is to be *dated*, it may be said to be stored at another time than it is.
        """
        fs = self._fs
        try:
            try:
                fd = fs.open(path, READ)
            except FileNotFoundError:
                return None
            except OSError as error:
                return not_opened(fs, path, error)
            try:
                status = fs.status(fd)
                if not stat.S_ISREG(status.st_mode):
                    return unreadable(path, status, "not a file")
                data = self._read_all(fd, status.st_size)
            finally:
                fs.close(fd)
        except OSError as error:
            raise unavailable(path, error) from error
        if len(data) > MAX_RECORD_BYTES:
            return unreadable(path, status, f"larger than {MAX_RECORD_BYTES:,} bytes")
        try:
            claim = self._claim_in(path, data, status, again=scoped is not None, dated=dated)
        except RecordError as error:
            return unreadable(path, status, str(error))
        if claim.scoped != scoped and (scoped is not None or self._places(claim.scoped)[1] != path):
            return unreadable(path, status, "about another key than its file name says")
        return claim

    def _claim_in(self, path: str, data: bytes, status: os.stat_result, *, again: bool, dated: bool) -> Claim:
        """Return what *data*, read at *path*, says; remembered if it may be read *again*, as what a scan meets is not."""
        changed = last_change(status)
        if not again:
            return from_json(data, changed)
        known = self._known.get(path)
        if known is not None and known[0] == data:
            claim = known[1]
            if claim.stored == changed or not dated:
                return claim
            claim = claim._replace(stored=changed)
        else:
            claim = from_json(data, changed)
        self._know(path, data, claim)
        return claim

    def _know(self, path: str, data: bytes, claim: Claim) -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[path] = (data, claim)

    def _read_all(self, fd: int, size: int) -> bytes:
        """Read the file *fd*, of *size* bytes, as far as a record can be long."""
        most = min(size, MAX_RECORD_BYTES) + 1
        data = self._fs.read(fd, most)
        # A record is never changed in place, so there is nothing behind its end to ask for.
        while len(data) < size and 0 < len(data) < most:
            part = self._fs.read(fd, most - len(data))
            if not part:
                break
            data += part
        return data

    def _write(self, path: str, fresh: str, data: bytes, lock: namespace_lock) -> None:
        """Put *data* at *path*, by way of *fresh*, whole or not at all; the caller holds *lock*, that of the namespace."""
        try:
            self._write_by_way_of(fresh, path, data, lock)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # Somebody has mounted the namespace from elsewhere, as into a container.
            self._write_by_way_of(f"{os.path.dirname(path)}/{_NEW}", path, data, lock)

    def _write_by_way_of(self, new: str, path: str, data: bytes, lock: namespace_lock) -> None:
        """Write *data* at *new* and rename that to *path*.

        No fsync: after a power cut every holder on this machine is dead, and a record that is then found torn or
        empty counts as held until it is provably nobody's.
        """
        # One name for all of a namespace, since only the owner of the lock writes; what is there was left by a crash.
        try:
            fd = self._fs.open(new, CREATE)
        except FileExistsError:
            self._remove(new, lock)
            fd = self._fs.open(new, CREATE)
        try:
            try:
                write_all(self._fs, fd, data)
            finally:
                self._fs.close(fd)
            lock.still_locked()
            self._fs.replace(new, path)
        except OSError:
            # The next writer removes it if this cannot; the error that matters is the first one.
            with suppress(OSError):
                self._fs.remove(new)
            raise

    def _remove(self, path: str, lock: namespace_lock) -> None:
        """Remove what is at *path*, of whatever kind; the caller holds *lock*, that of the namespace."""
        lock.still_locked()
        status = self._fs.status_of(path)
        if stat.S_ISDIR(status.st_mode):
            # It may have content, which is not for us to delete.  Hidden, it keeps nobody from anything.
            self._fs.replace(path, f"{os.path.dirname(path)}/.aside-{status.st_ino}-{status.st_ctime_ns}")
        else:
            self._fs.remove(path)
