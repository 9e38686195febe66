"""One JSON file per claim, on a local file system.

A change holds the lock of its namespace for all of compare-and-write.  Readers take no lock: a record appears by rename
and so is seen whole or not at all.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from math import inf

from mcp_claims.errors import InvalidInputError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.model import keys
from mcp_claims.model.codec import RecordError, from_json, tickets_to_json, to_json
from mcp_claims.model.records import Claim, Found, ScopedKey, Ticket, Unreadable
from mcp_claims.stores.base import LOCK_TIMEOUT, SECRET_BYTES, Alarm, Blocks, GivesWay, Swap, TicketChange
from mcp_claims.stores.files.directories import (
    PrivateDirectories,
    make_namespace,
    unavailable,
    unusable_namespace,
)
from mcp_claims.stores.files.filenames import (
    SUFFIX,
    file_name,
    is_path_of,
    key_of,
    may_be_file_name,
    namespace_directory,
    record_path,
)
from mcp_claims.stores.files.filesystem import FileSystem, create_file, last_change, read_file
from mcp_claims.stores.files.listings import Listings
from mcp_claims.stores.files.lock import LOCK_FILE, LockFile, NamespaceLock
from mcp_claims.stores.files.overlaps import (
    PATTERNS_FILE,
    find_patterns,
    overlapping,
    patterns_to_json,
    read_patterns,
)
from mcp_claims.stores.files.record_file import RecordFile, read_record_file, unreadable
from mcp_claims.stores.files.tickets import (
    TICKETS_FILE,
    listening,
    numbered,
    read_tickets,
    remove_alarms,
    wake,
)

_NEW = ".new"
"""Prefix of the file in which a record is written before it is renamed into its place.

It lies beside the namespaces, not in one: a name that comes and goes in a directory of 1,000 claims takes 4 µs longer
than in one of ten.
"""

_BETWEEN = "\0"
"""Separates the names in a position: it sorts before any character of a name, as the end of a name does."""

_SECRETS, _HANDLES = ".secrets", "handles"


class FileStore:
    """Claims as files in *directory*, shared by all processes of one user on one machine.

    The directory and its namespaces are made when the first claim is (mode 0700, files 0600); reading makes nothing.
    """

    remote = False
    has_tickets = True
    serves_queue = False
    has_places = True

    def __init__(self, directory: str | os.PathLike[str], *, fs: FileSystem | None = None) -> None:
        self.directory = os.path.abspath(directory)
        if "\0" in self.directory:
            raise InvalidInputError("directory", "must be a path, without NUL characters")
        self._fs = fs or FileSystem()
        self._private = PrivateDirectories(self._fs, self.directory)
        self._listings = Listings(self._fs)

    def read(self, scoped: ScopedKey) -> Found:
        directory, path = record_path(self.directory, scoped)
        return self._read(path, scoped) if self._private.exists(directory) else None

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swap:
        directory, path = record_path(self.directory, scoped)
        try:
            with self._lock_file(directory) as file, NamespaceLock(file, lock_timeout) as lock:
                found = self._read(path, scoped)
                if found != old:
                    return Swap(False, found)
                if gives_way is not None and gives_way(read_tickets(self._fs, directory)):
                    return Swap(False, found, queued=True)
                if blocks is not None:
                    others = overlapping(self._fs, self.directory, scoped, self._patterns(scoped, lock), self._read)
                    if (overlap := next(filter(blocks, others), None)) is not None:
                        return Swap(False, found, overlap=overlap)
                if new is None:
                    if old is not None:
                        lock.check_in_place()
                        self._fs.remove(path)
                    return Swap(True, None)
                if not new.generation:
                    after = old.generation if old is not None else 0
                    new = new._replace(generation=lock.next_generation(after, new.claimed.epoch))
                self._write(path, to_json(new), lock)
                return Swap(True, new)
        except OSError as error:
            raise unavailable(directory, error) from error

    def overlapping(self, scoped: ScopedKey) -> Iterator[Claim | Unreadable]:
        directory = self._directory_of(scoped)
        if not self._private.exists(directory):
            return
        try:
            patterns = read_patterns(self._fs, directory)
            if patterns is None:
                patterns = find_patterns(self._fs, directory, self._read)
            yield from overlapping(self._fs, self.directory, scoped, patterns, self._read)
        except OSError as error:
            raise unavailable(directory, error) from error

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        if isinstance(found, Claim):
            return self.swap(found.scoped, found, None, lock_timeout=lock_timeout).won
        directory = os.path.dirname(found.where)
        try:
            with self._lock_file(directory) as file, NamespaceLock(file, lock_timeout) as lock:
                if self._read(found.where, None) != found:
                    return False
                self._remove(found.where, lock)
                return True
        except OSError as error:
            raise unavailable(directory, error) from error

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        # In a directory of its own, whose name no namespace has, and under the same lock and rename as claims.
        directory = f"{self.directory}/{_SECRETS}"
        path = f"{directory}/{_HANDLES}"
        try:
            secret = _read_secret(self._fs, path) if self._private.exists(directory) else None
            if secret is not None:
                return secret
            with self._lock_file(directory) as file, NamespaceLock(file, lock_timeout) as lock:
                secret = _read_secret(self._fs, path)
                if secret is None:
                    secret = os.urandom(SECRET_BYTES)
                    self._write(path, secret.hex().encode() + b"\n", lock)
                return secret
        except OSError as error:
            raise unavailable(directory, error) from error

    def scan(self, namespace: str | None = None, after: str = "", since: float = inf) -> Iterator[Claim | Unreadable]:
        if namespace is None and not self._private.exists():
            return
        last_name, _, last_entry = after.partition(_BETWEEN)
        if namespace is None:
            names = self._listings.names(self.directory, last_name, since)
        else:
            names = iter([file_name(namespace)])
        for name in names:
            if name < last_name:
                continue
            directory = f"{self.directory}/{name}"
            try:
                if namespace is None and not (may_be_file_name(name) and self._is_namespace(directory)):
                    continue
                start = last_entry if name == last_name else ""
                exists = self._private.exists(directory)
                entries = self._listings.names(directory, start, since) if exists else iter(())
            except (UnsafeDirectoryError, StoreUnavailableError) as error:
                unusable = unusable_namespace(error, directory, self.directory)
                if namespace is not None or unusable is None:
                    raise
                # A namespace that must not or cannot be entered does not hide the others.
                if name > last_name:
                    yield unusable
                continue
            for entry in entries:
                if name == last_name and entry <= last_entry:
                    continue
                if entry.endswith(SUFFIX) and may_be_file_name(entry):
                    found = self._read(f"{directory}/{entry}", None)
                    if found is not None:
                        yield found

    def names(self, namespace: str, limit: int) -> list[str]:
        directory = namespace_directory(self.directory, namespace)
        if not self._private.exists(directory):
            return []
        try:
            names = self._fs.names(directory, limit)
            return [key for name in names if (key := key_of(name, SUFFIX)) is not None]
        except OSError as error:
            raise unavailable(directory, error) from error

    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        # Imported here: watchdog takes as long to import as a whole `check`, which watches nothing.
        from mcp_claims.stores.files.watch import watch_record, watch_records

        if isinstance(target, ScopedKey):
            return watch_record(self.directory, record_path(self.directory, target)[1], notify)
        inside = self.directory if target is None else namespace_directory(self.directory, target)
        return watch_records(self.directory, inside, notify)

    def tickets(self, target: ScopedKey | str | None) -> tuple[Ticket, ...]:
        if target is not None:
            directory = self._directory_of(target)
            return read_tickets(self._fs, directory) if self._private.exists(directory) else ()
        if not self._private.exists():
            return ()
        try:
            names = self._fs.names(self.directory)
        except OSError as error:
            raise unavailable(self.directory, error) from error
        return tuple(
            ticket
            for name in names
            if may_be_file_name(name)
            for ticket in read_tickets(self._fs, f"{self.directory}/{name}")
        )

    def change_tickets(
        self, target: ScopedKey | str, change: TicketChange, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> tuple[Ticket, ...]:
        directory = self._directory_of(target)
        path = f"{directory}/{TICKETS_FILE}"
        try:
            with self._lock_file(directory) as file, NamespaceLock(file, lock_timeout) as lock:
                before = read_tickets(self._fs, directory)
                after = numbered(change(before))
                if after == before:
                    return after
                if after:
                    self._write(path, tickets_to_json(after), lock)
                else:
                    self._remove(path, lock)
                remove_alarms(self._fs, directory, before, after)
                return after
        except OSError as error:
            raise unavailable(directory, error) from error

    def alarm(self, ticket: Ticket, notify: Callable[[], None]) -> AbstractContextManager[Alarm | None]:
        return listening(self._fs, namespace_directory(self.directory, ticket.keys[0].namespace), ticket)

    def wake(self, ticket: Ticket) -> bool:
        return wake(self._fs, namespace_directory(self.directory, ticket.keys[0].namespace), ticket)

    def close(self, *, within: float) -> None:
        """Do nothing: claims in files end with the process by themselves."""

    def position(self, found: Claim | Unreadable) -> str:
        path = record_path(self.directory, found.scoped)[1] if isinstance(found, Claim) else found.where
        return os.path.relpath(path, self.directory).replace(os.sep, _BETWEEN)

    def _directory_of(self, target: ScopedKey | str) -> str:
        return namespace_directory(self.directory, target.namespace if isinstance(target, ScopedKey) else target)

    def _lock_file(self, directory: str) -> LockFile:
        """Return the lock file of the namespace in *directory*, made if missing, once that is known to be private."""
        self._listings.drop_unused()
        if not self._private.exists(directory):
            make_namespace(self._fs, directory)
            self._private.exists(directory)
        return LockFile(self._fs, directory)

    def _is_namespace(self, path: str) -> bool:
        """Return whether *path* is a namespace, which has a lock file; prune must not touch other directories."""
        try:
            self._fs.status_of(f"{path}/{LOCK_FILE}")
            return stat.S_ISDIR(self._fs.status_of(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise unavailable(path, error) from error

    def _patterns(self, scoped: ScopedKey, lock: NamespaceLock) -> list[str]:
        """Return the file keys with wildcards that may be claimed beside *scoped*, and list it if it is one itself."""
        directory = self._directory_of(scoped)
        listed = read_patterns(self._fs, directory)
        patterns = listed
        if patterns is None:
            patterns = find_patterns(self._fs, directory, self._read)
        if keys.is_pattern(scoped.key) and scoped.key not in patterns:
            # Those without a record go, so that the list does not grow with every pattern that was ever claimed.
            paths = {key: record_path(self.directory, scoped._replace(key=key))[1] for key in patterns}
            patterns = [key for key in patterns if self._read(paths[key], None) is not None] + [scoped.key]
        if patterns != listed:
            # Before the record, and synced: a claim that outlives a power cut must not be missing in the list.
            self._write(f"{directory}/{PATTERNS_FILE}", patterns_to_json(patterns), lock, sync=True)
        return patterns

    def _read(self, path: str, scoped: ScopedKey | None) -> Found:
        """Read the claim at *path*, which must be about *scoped*, or about any key with that file name."""
        try:
            file = read_record_file(self._fs, path)
        except OSError as error:
            raise unavailable(path, error) from error
        if not isinstance(file, RecordFile):
            return file
        try:
            claim = from_json(file.data, last_change(file.status))
        except RecordError as error:
            return unreadable(path, file.status, str(error))
        if claim.scoped != scoped and (scoped is not None or not is_path_of(path, self.directory, claim.scoped)):
            return unreadable(path, file.status, "about another key than its file name says")
        return claim

    def _write(self, path: str, data: bytes, lock: NamespaceLock, *, sync: bool = False) -> None:
        """Put *data* at *path*, whole or not at all; the caller holds *lock*, that of the namespace.

        Records are not synced: after a power cut every holder on this machine is dead, and a record that is then found torn
        or empty counts as held until it is older than any TTL.
        """
        directory = os.path.dirname(path)
        try:
            self._write_and_rename(
                f"{self.directory}/{_NEW}-{os.path.basename(directory)}", path, data, lock, sync=sync
            )
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The namespace is a mount of its own, as in a container.
            self._write_and_rename(f"{directory}/{_NEW}", path, data, lock, sync=sync)

    def _write_and_rename(self, new: str, path: str, data: bytes, lock: NamespaceLock, *, sync: bool) -> None:
        """Write *data* at *new* and rename that to *path*."""
        # One name for all of a namespace, since only the owner of the lock writes; an earlier file was left by a crash.
        try:
            try:
                create_file(self._fs, new, data, sync=sync)
            except FileExistsError:
                self._remove(new, lock)
                create_file(self._fs, new, data, sync=sync)
            lock.check_in_place()
            self._fs.replace(new, path)
            if sync:
                self._fs.sync_directory(os.path.dirname(path))
        except OSError:
            # The next writer removes it if this cannot; the error that matters is the first one.
            with suppress(OSError):
                self._fs.remove(new)
            raise

    def _remove(self, path: str, lock: NamespaceLock) -> None:
        """Remove what is at *path*, of whatever kind; the caller holds *lock*, that of the namespace."""
        lock.check_in_place()
        status = self._fs.status_of(path)
        if stat.S_ISDIR(status.st_mode):
            # It may have content, which must not be deleted.  Under a hidden name it blocks no key.
            self._fs.replace(path, f"{os.path.dirname(path)}/.aside-{status.st_ino}-{status.st_ctime_ns}")
        else:
            self._fs.remove(path)


def _read_secret(fs: FileSystem, path: str) -> bytes | None:
    """Read the secret at *path*; return `None` if there is none.

    Raises `OSError` for a file that others can read or that is not a secret.  Such a file is never replaced: every
    handle given so far would become invalid.
    """
    file = read_file(fs, path, 2 * SECRET_BYTES + len("\n") + 1)
    if file is None:
        return None
    data, status = file
    if sys.platform != "win32" and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise OSError(errno.EPERM, "the secret of the session handles can be read by others (chmod 600 it)", path)
    try:
        secret = bytes.fromhex(data.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES or not stat.S_ISREG(status.st_mode):
        damaged = "the secret of the session handles is damaged (remove it: all handles given so far become invalid)"
        raise OSError(errno.EIO, damaged, path)
    return secret
