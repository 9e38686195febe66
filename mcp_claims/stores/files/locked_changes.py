"""Changes of files in a claims directory, each under the locks of its namespaces."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from mcp_claims.stores.files.directories import PrivateDirectories, make_namespace, unavailable
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.intents import FurtherLocksNeededError, Locks, settle
from mcp_claims.stores.files.listings import Listings
from mcp_claims.stores.files.lock import LockFile, NamespaceLock
from mcp_claims.stores.files.writing import write_new

T = TypeVar("T")

_NEW = ".new"
"""Prefix of the file in which a record is written before it is renamed into its place.

It lies beside the namespaces, not in one: a name that comes and goes in a directory of 1,000 claims takes 4 µs longer
than in one of ten.
"""


class LockedChanges:
    """The claims directory *directory*, and how its files are changed."""

    def __init__(self, directory: str, fs: FileSystem) -> None:
        self.directory = directory
        self._fs = fs
        self._private = PrivateDirectories(fs, directory)
        self._listings = Listings(fs)

    def _lock_file(self, directory: str) -> LockFile:
        """Return the lock file of the namespace in *directory*, made if missing, once that is known to be private."""
        self._listings.drop_unused()
        if not self._private.exists(directory):
            make_namespace(self._fs, directory)
            self._private.exists(directory)
        return LockFile(self._fs, directory)

    def _under_lock(self, directory: str, lock_timeout: float, change: Callable[[Locks], T]) -> T:
        """Do what `_under_locks` does for one namespace, in which there is nothing to settle but after a crash."""
        deadline = self._fs.monotonic() + lock_timeout
        try:
            with self._lock_file(directory) as file, NamespaceLock(file, lock_timeout, deadline) as lock:
                if not lock.has_intent:
                    return change({directory: lock})
        except OSError as error:
            raise unavailable(directory, error) from error
        return self._under_locks([directory], lock_timeout, change, deadline)

    def _under_locks(
        self, directories: list[str], lock_timeout: float, change: Callable[[Locks], T], deadline: float | None = None
    ) -> T:
        """Return `change(locks)`, called under the locks of the namespaces in *directories*, which are in order.

        First it settles the changes of several keys that others have left there.
        """
        if deadline is None:
            deadline = self._fs.monotonic() + lock_timeout
        try:
            while True:
                try:
                    return self._with_next_lock(directories, {}, lock_timeout, deadline, change)
                except FurtherLocksNeededError as needed:
                    # All are taken again, in order: two who wait for each other's lock would both time out.
                    directories = sorted({*directories, *needed.directories})
        except OSError as error:
            raise unavailable(directories[0], error) from error

    def _with_next_lock(
        self,
        directories: list[str],
        locks: dict[str, NamespaceLock],
        lock_timeout: float,
        deadline: float,
        change: Callable[[Locks], T],
    ) -> T:
        directory = directories[len(locks)]
        # A call for each lock: an exit stack that is interrupted would leave locks held.
        with self._lock_file(directory) as file, NamespaceLock(file, lock_timeout, deadline) as lock:
            locks[directory] = lock
            if len(locks) < len(directories):
                return self._with_next_lock(directories, locks, lock_timeout, deadline, change)
            settle(self._fs, self.directory, locks)
            return change(locks)

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
        try:
            write_new(self._fs, new, data, lock, sync=sync)
            lock.check_in_place()
            self._fs.replace(new, path)
            if sync:
                self._fs.sync_directory(os.path.dirname(path))
        except OSError:
            # The next writer removes it if this cannot; the error that matters is the first one.
            with suppress(OSError):
                self._fs.remove(new)
            raise
