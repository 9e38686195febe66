"""One JSON file per claim, on a local file system.

A change holds the locks of its namespaces for all of compare-and-write.  Readers take no lock: a record appears by rename
and so is seen whole or not at all.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from math import inf
from typing import TypeVar

from mcp_claims.errors import InvalidInputError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.liveness import Machine
from mcp_claims.model import keys
from mcp_claims.model.codec import RecordError, from_json, tickets_to_json, to_json
from mcp_claims.model.records import Claim, Found, ScopedKey, Ticket, Unreadable, is_place
from mcp_claims.stores.base import (
    LOCK_TIMEOUT,
    SECRET_BYTES,
    Alarm,
    Blocks,
    Change,
    GivesWay,
    Swap,
    Swaps,
    TicketChange,
    check_changes,
    first_overlap,
)
from mcp_claims.stores.files.directories import (
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
from mcp_claims.stores.files.filesystem import FileSystem, last_change, read_file
from mcp_claims.stores.files.intents import Locks, commit, settle
from mcp_claims.stores.files.lock import LOCK_FILE, NamespaceLock
from mcp_claims.stores.files.locked_changes import LockedChanges
from mcp_claims.stores.files.overlaps import (
    PATTERNS_FILE,
    find_patterns,
    overlapping,
    patterns_to_json,
    read_patterns,
)
from mcp_claims.stores.files.record_file import RecordFile, fingerprint_of, read_record_file, unreadable
from mcp_claims.stores.files.tickets import (
    TICKETS_FILE,
    listening,
    numbered,
    read_tickets,
    remove_alarms,
    wake,
)
from mcp_claims.stores.files.writing import remove
from mcp_claims.stores.history.history import DIRECTORY, History, Limits

T = TypeVar("T")

_BETWEEN = "\0"
"""Separates the names in a position: it sorts before any character of a name, as the end of a name does."""

_SECRETS, _HANDLES = ".secrets", "handles"

_COARSEST_TIME = 2.0
"""Seconds between two times that a file system can tell apart at worst, which is FAT."""


class FileStore(LockedChanges):
    """Claims as files in *directory*, shared by all processes of one user on one machine.

    The directory and its namespaces are made when the first claim is (mode 0700, files 0600); reading makes nothing.
    *history* says how long the history is kept, by default what the environment says.
    """

    remote = False
    contact_timeout = None
    has_tickets = True
    serves_queue = False
    has_places = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        fs: FileSystem | None = None,
        history: Limits | None = None,
        machine: Machine | None = None,
    ) -> None:
        super().__init__(os.path.abspath(directory), fs or FileSystem())
        if "\0" in self.directory:
            raise InvalidInputError("directory", "must be a path, without NUL characters")
        if history is None:
            # On a file system of somebody's own, as tests have it, each system call counts.
            history = Limits.of(os.environ) if fs is None else Limits(days=0)
        self.history = History(f"{self.directory}/{DIRECTORY}", history, fs=fs, machine=machine)

    def read(self, scoped: ScopedKey) -> Found:
        directory, path = record_path(self.directory, scoped)
        return self._read(path, scoped) if self._private.exists(directory) else None

    def read_all(self, keys: Sequence[ScopedKey]) -> list[Found]:
        return [self.read(scoped) for scoped in keys]

    def fingerprint(self, scoped: ScopedKey) -> tuple[int, ...] | None:
        _, path = record_path(self.directory, scoped)
        try:
            status = self._fs.status_of(path)
        except OSError:
            return None
        # What takes its place may get the same number at once, and the same time where these are coarse.
        return None if abs(time.time() - last_change(status)) < _COARSEST_TIME else fingerprint_of(status)

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
        return self._swap(Change(scoped, old, new), lock_timeout, gives_way, blocks)

    def _swap(
        self, change: Change, lock_timeout: float, gives_way: GivesWay | None = None, blocks: Blocks | None = None
    ) -> Swap:
        scoped, old, new, _ = change
        directory, path = record_path(self.directory, scoped)
        self.history.prepare()

        def swap(locks: Locks) -> Swap:
            found = self._read(path, scoped)
            if found != old:
                return Swap(False, found)
            if gives_way is not None and gives_way(read_tickets(self._fs, directory)):
                return Swap(False, found, queued=True)
            passed: list[Claim] = []
            if blocks is not None and (overlap := self._first_overlap([change], blocks, locks, passed)) is not None:
                return Swap(False, found, overlap=overlap)
            lock = locks[directory]
            if new is None:
                if old is not None:
                    lock.check_in_place()
                    # Before: if we die in between, the next one finds the claim and notes how that ended.  After, nobody
                    # would note the end, and the next grant would look like one beside it.
                    self.history.changed([change])
                    try:
                        self._fs.remove(path)
                    except OSError:
                        self.history.kept([change])
                        raise
                return Swap(True, None)
            numbered = _numbered(new, old, lock)
            self._write(path, to_json(numbered), lock)
            self.history.changed([Change(scoped, old, numbered)], passed=passed)
            return Swap(True, numbered)

        return self._under_lock(directory, lock_timeout, swap)

    def swap_all(
        self,
        changes: Sequence[Change],
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swaps:
        check_changes(changes)
        if len(changes) == 1:
            # Nothing can be left half done, so it needs no intent.
            return Swaps.of_one(self._swap(changes[0], lock_timeout, gives_way, blocks))
        places = [record_path(self.directory, change.scoped) for change in changes]
        directories = sorted({directory for directory, _ in places})
        self.history.prepare()

        def swap_all(locks: Locks) -> Swaps:
            found = tuple(self._read(path, change.scoped) for change, (_, path) in zip(changes, places, strict=True))
            if found != tuple(change.old for change in changes):
                return Swaps(False, found)
            tickets = (ticket for directory in directories for ticket in read_tickets(self._fs, directory))
            if gives_way is not None and gives_way(tuple(tickets)):
                return Swaps(False, found, queued=True)
            passed: list[Claim] = []
            if blocks is not None and (overlap := self._first_overlap(changes, blocks, locks, passed)) is not None:
                return Swaps(False, found, overlap=overlap)
            after = tuple(
                change.new and _numbered(change.new, change.old, locks[directory])
                for change, (directory, _) in zip(changes, places, strict=True)
            )
            records = {path: new and to_json(new) for new, (_, path) in zip(after, places, strict=True)}
            made = [change._replace(new=new) for change, new in zip(changes, after, strict=True)]
            # Before, as in `_swap`: after the commit others may complete the change, and do not know what there was.
            self.history.ending(made, passed)
            try:
                commit(self._fs, self.directory, locks, records)
            except OSError:
                self.history.kept(made)
                raise
            settle(self._fs, self.directory, locks)
            self.history.begun(made)
            return Swaps(True, after)

        return self._under_locks(directories, lock_timeout, swap_all)

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
            return self._swap(Change(found.scoped, found, None, found_dead=True), lock_timeout).won
        directory, path = os.path.dirname(found.where), found.where

        def discard(locks: Locks) -> bool:
            if self._read(path, None) != found:
                return False
            remove(self._fs, path, locks[directory])
            if (namespace := key_of(os.path.basename(directory), "")) is not None:
                key = key_of(os.path.basename(path), SUFFIX) or ""
                self.history.removed(ScopedKey(namespace, key).base, found.problem)
            return True

        return self._under_lock(directory, lock_timeout, discard)

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
            return [key for name in names if (key := key_of(name, SUFFIX)) is not None and not is_place(key)]
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

        def replace(locks: Locks) -> tuple[Ticket, ...]:
            before = read_tickets(self._fs, directory)
            after = numbered(change(before))
            if after != before:
                path, lock = f"{directory}/{TICKETS_FILE}", locks[directory]
                if after:
                    self._write(path, tickets_to_json(after), lock)
                else:
                    remove(self._fs, path, lock)
                remove_alarms(self._fs, directory, before, after)
            return after

        return self._under_lock(directory, lock_timeout, replace)

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

    def _is_namespace(self, path: str) -> bool:
        """Return whether *path* is a namespace, which has a lock file; prune must not touch other directories."""
        try:
            self._fs.status_of(f"{path}/{LOCK_FILE}")
            return stat.S_ISDIR(self._fs.status_of(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise unavailable(path, error) from error

    def _first_overlap(
        self, changes: Sequence[Change], blocks: Blocks, locks: Locks, passed: list[Claim]
    ) -> Claim | Unreadable | None:
        """Do what `first_overlap` does, for the files of *changes*."""
        files = list(dict.fromkeys(change.scoped.base for change in changes if change.claims_files))
        if not files:
            return None
        patterns = self._patterns(files, locks)
        return first_overlap(
            changes, blocks, lambda scoped: overlapping(self._fs, self.directory, scoped, patterns, self._read), passed
        )

    def _patterns(self, files: list[ScopedKey], locks: Locks) -> list[str]:
        """Return the file keys with wildcards that may be claimed beside *files*, and list those of them that have one."""
        directory = self._directory_of(files[0])
        listed = read_patterns(self._fs, directory)
        patterns = listed
        if patterns is None:
            patterns = find_patterns(self._fs, directory, self._read)
        if new := [scoped.key for scoped in files if keys.is_pattern(scoped.key) and scoped.key not in patterns]:
            # Those without a record go, so that the list does not grow with every pattern that was ever claimed.
            paths = {key: record_path(self.directory, files[0]._replace(key=key))[1] for key in patterns}
            wanted = {scoped.key for scoped in files}
            patterns = [key for key in patterns if key in wanted or self._read(paths[key], None) is not None] + new
        if patterns != listed:
            # Before the record, and synced: a claim that outlives a power cut must not be missing in the list.
            self._write(f"{directory}/{PATTERNS_FILE}", patterns_to_json(patterns), locks[directory], sync=True)
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


def _numbered(new: Claim, old: Claim | None, lock: NamespaceLock) -> Claim:
    """Return *new*, which takes the place of *old*, with a generation if it is a new grant."""
    if new.generation:
        return new
    return new._replace(generation=lock.next_generation(old.generation if old is not None else 0, new.claimed.epoch))


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
