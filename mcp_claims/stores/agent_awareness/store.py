"""The store in the layout of agent-awareness: its directory, its file names, and its locks around each change.

A change takes two locks.  The kernel lock of the namespace excludes other processes of mcp-claims, and guards the counter
that numbers their grants.  Inside it, the original's lock directory excludes sessions of the original, for the
microseconds of compare-and-write only; since the original breaks locks of live owners, `swap` checks it around the write.

Behaviour of the original that the guards in this module are for:

- It holds its lock for milliseconds, or for minutes if it is stopped.  So we wait for it without the kernel lock: the
  other keys of the namespace can be changed meanwhile.
- It writes in place (`writeClaim`), and readers here take no lock.  So an unreadable record is read again while its lock
  is there.
- It treats any record as a claim until it expires.  So only `done` is stored as an outcome: after `failed` and
  `abandoned` the key has to be free at once, for the original too.
- It lists every directory at the top as a plugin's, and reads only names that end in `.json`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from math import inf

from mcp_claims.errors import (
    InvalidInputError,
    LockDirectoryBusyError,
    MovedDirectoryError,
    StoreUnavailableError,
    UnsafeDirectoryError,
)
from mcp_claims.model.records import Claim, Found, Outcome, ScopedKey, Ticket, Unreadable
from mcp_claims.model.validation import MAX_KEY_BYTES
from mcp_claims.stores.agent_awareness.filenames import (
    LOCK_SUFFIX,
    NEW_RECORD,
    RECORD_SUFFIX,
    is_record_name,
    lock_path,
    namespace_directory,
    record_path,
)
from mcp_claims.stores.agent_awareness.filesystem import AgentAwarenessFileSystem, write_new_file
from mcp_claims.stores.agent_awareness.location import successors
from mcp_claims.stores.agent_awareness.lock import (
    LockDescription,
    PidIsGone,
    describe_lock,
    remove_stale_lock,
    try_lock,
)
from mcp_claims.stores.agent_awareness.record_file import open_record, shared_record
from mcp_claims.stores.agent_awareness.swap import LockedSwap
from mcp_claims.stores.base import LOCK_TIMEOUT, Blocks, Change, GivesWay, Swap, Swaps, TicketChange, check_changes
from mcp_claims.stores.files.directories import PrivateDirectories, unavailable, unusable_namespace
from mcp_claims.stores.files.listings import list_names
from mcp_claims.stores.files.lock import LOCK_FILE, LockFile, NamespaceLock
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.history import DIRECTORY, History, Limits

LOCK_PAUSE = 0.02
"""Seconds between two tries for a lock directory, as in the original."""

_ONE_AT_A_TIME = (
    "has to be claimed alone in the layout of agent-awareness, whose sessions would see a part of several keys that change "
    "together"
)

# How often an unreadable record is read again while a session of the original may be writing it: for 20 ms in all.
_READS, _READ_PAUSE = 10, 0.002


class AgentAwarenessStore:
    """Claims in *directory*, shared with sessions of the original.

    *pid_is_gone* returns whether provably nothing runs under a PID of this machine; locks of such owners are removed.
    """

    remote = False
    contact_timeout = None
    # Sessions of the original would not know of them, and their file could be in the way of a plugin.
    has_tickets = False
    serves_queue = False
    has_places = False

    def __init__(
        self,
        directory: str | os.PathLike[str],
        pid_is_gone: PidIsGone,
        *,
        fs: AgentAwarenessFileSystem | None = None,
        history: Limits | None = None,
    ) -> None:
        self.directory = os.path.abspath(directory)
        if history is None:
            history = Limits.of(os.environ) if fs is None else Limits(days=0)
        # Of our own changes alone: the original writes none.
        self.history = History(f"{self.directory}/{DIRECTORY}", history)
        self.pid_is_gone = pid_is_gone
        self._fs = fs or AgentAwarenessFileSystem()
        self._directories = PrivateDirectories(self._fs, self.directory)
        # By path: the claim that we wrote while our lock was broken, where we could not find out what the breaker did.
        # It may be the breaker's by now, so it is neither renewed nor released before it expires.
        self._uncertain: dict[str, Claim] = {}

    def read(self, scoped: ScopedKey) -> Found:
        path = record_path(self.directory, scoped)
        return self._read(path, scoped) if self._exists(os.path.dirname(path)) else None

    def read_all(self, keys: Sequence[ScopedKey]) -> list[Found]:
        return [self.read(scoped) for scoped in keys]

    def fingerprint(self, scoped: ScopedKey) -> None:
        return None  # The original may write a record in its place.

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
        return self._swap_claim(Change(scoped, old, new), lock_timeout)

    def _swap_claim(self, change: Change, lock_timeout: float) -> Swap:
        scoped, old, new, _ = change
        path = record_path(self.directory, scoped)
        self.history.prepare()
        if new is not None and new.ended is not None and new.ended.outcome is not Outcome.DONE:
            new = None
        if old is not None and self._uncertain.get(path) == old:
            self._check_expired(path, old)
        return self._swap(path, scoped, old, new, lock_timeout, change)

    def swap_all(
        self,
        changes: Sequence[Change],
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swaps:
        check_changes(changes)
        if len(changes) > 1:
            # The original completes nothing that we leave half done, and would take the keys that are not changed yet.
            raise InvalidInputError("key", _ONE_AT_A_TIME)
        return Swaps.of_one(self._swap_claim(changes[0], lock_timeout))

    def overlapping(self, scoped: ScopedKey) -> Iterator[Claim | Unreadable]:
        return iter(())  # It holds no files.

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        if isinstance(found, Claim):
            return self._swap_claim(Change(found.scoped, found, None, found_dead=True), lock_timeout).won
        return self._swap(found.where, self._scoped_by_path(found.where), found, None, lock_timeout).won

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        # In a hidden directory beside those of the plugins, without any name that ends in `.json`.
        return FileStore(self.directory).secret(lock_timeout=lock_timeout)

    def names(self, namespace: str, limit: int) -> tuple[str, ...]:
        return ()  # Several keys share a file name, so each record would have to be read.

    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        # Imported here: watchdog takes as long to import as a whole `check`, which watches nothing.
        from mcp_claims.stores.files.watch import watch_record, watch_records

        if isinstance(target, ScopedKey):
            return watch_record(self.directory, record_path(self.directory, target), notify)
        watched = self.directory if target is None else namespace_directory(self.directory, target)
        return watch_records(self.directory, watched, notify)

    def tickets(self, target: ScopedKey | str | None) -> tuple[Ticket, ...]:
        return ()

    def change_tickets(
        self, target: ScopedKey | str, change: TicketChange, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> tuple[Ticket, ...]:
        return ()

    def alarm(self, ticket: Ticket, notify: Callable[[], None]) -> AbstractContextManager[None]:
        return nullcontext()

    def wake(self, ticket: Ticket) -> bool:
        return False

    def close(self, *, within: float) -> None:
        """Do nothing: claims in files end with the process by themselves."""

    def position(self, found: Claim | Unreadable) -> str:
        return self._position(record_path(self.directory, found.scoped) if isinstance(found, Claim) else found.where)

    def _position(self, path: str) -> str:
        # NUL sorts before every character of a name, so the records of a plugin come before the plugins inside it.
        relative = path.removeprefix(f"{self.directory}/")
        # A path that is not a record's is that of a namespace that cannot be listed.
        namespace, _, name = relative.rpartition("/") if path.endswith(RECORD_SUFFIX) else (relative, "", "")
        return f"{namespace.replace('/', chr(0))}\0\0{name}"

    def scan(self, namespace: str | None = None, after: str = "", since: float = inf) -> Iterator[Claim | Unreadable]:
        if namespace is not None:
            directories: Iterator[tuple[str, bool]] = iter([(namespace_directory(self.directory, namespace), True)])
        else:
            directories = self._namespace_directories()
        for directory, certain in directories:
            try:
                names = list_names(self._fs, directory) if self._exists(directory) else []
            except (UnsafeDirectoryError, StoreUnavailableError) as error:
                unusable = unusable_namespace(error, directory, self.directory)
                if namespace is not None or unusable is None:
                    raise
                if not certain:
                    continue
                # An unsafe or unreadable namespace must not hide the claims of the others.
                if self._position(directory) > after:
                    yield unusable
                continue
            for name in names:
                if name.endswith(RECORD_SUFFIX) and is_record_name(name.removesuffix(RECORD_SUFFIX)):
                    path = f"{directory}/{name}"
                    if self._position(path) <= after:
                        continue
                    found = self._read(path, self._scoped_by_path(path))
                    if isinstance(found, Claim) or (found is not None and certain):
                        yield found

    def locks(self) -> Iterator[tuple[str, LockDescription]]:
        """Yield the path of each lock directory and how it stands; most are gone after milliseconds."""
        for directory, certain in self._namespace_directories():
            try:
                names = list_names(self._fs, directory) if certain else []
            except StoreUnavailableError:
                continue  # `scan` reports it.
            for name in names:
                if name.endswith(LOCK_SUFFIX):
                    path = f"{directory}/{name}"
                    yield path, describe_lock(self._fs, path, self.pid_is_gone)

    def _swap(
        self,
        path: str,
        scoped: ScopedKey,
        old: Found,
        new: Claim | None,
        lock_timeout: float,
        asked: Change | None = None,
    ) -> Swap:
        """Store *new* if *old* is what is stored; the history notes what was *asked* for, with an outcome that is not stored."""
        directory = os.path.dirname(path)
        deadline = self._fs.monotonic() + lock_timeout
        if new is not None and (moved := successors(self.directory)):
            raise MovedDirectoryError(self.directory, moved)
        try:
            if not self._exists(directory):
                if old is not None:
                    return Swap(False, None)  # Removed with the claim in it: a renewal must not make it again.
                self._make_directories(directory)
                self._exists(directory)
            while True:
                left = max(0.0, deadline - self._fs.monotonic())
                with LockFile(self._fs, directory) as file, NamespaceLock(file, left) as kernel_lock:
                    swap = self._try_swap(kernel_lock, path, scoped, old, new)
                    if swap is not None and swap.won and asked is not None:
                        made = (
                            asked
                            if new is None or not isinstance(swap.found, Claim)
                            else asked._replace(new=swap.found)
                        )
                        self.history.changed([made])
                if swap is not None:
                    return swap
                left = deadline - self._fs.monotonic()
                if left <= 0:
                    lock = describe_lock(self._fs, lock_path(path), self.pid_is_gone)
                    raise LockDirectoryBusyError(lock_path(path), lock_timeout, lock.state, lock.remedy)
                self._fs.sleep(min(LOCK_PAUSE, left))
        except OSError as error:
            raise unavailable(directory, error) from error

    def _try_swap(
        self, kernel_lock: NamespaceLock, path: str, scoped: ScopedKey, old: Found, new: Claim | None
    ) -> Swap | None:
        """Store *new* if *old* is what is stored; `None`, with nothing changed, if the original's lock is taken."""
        with open_record(self._fs, self.directory, path, scoped) as seen:
            # An unreadable record may be half written.  Its writer has the lock, so go on and wait for that.
            if seen.found != old and not isinstance(seen.found, Unreadable):
                return Swap(False, seen.found)
        if not remove_stale_lock(self._fs, lock_path(path), self.pid_is_gone):
            return None
        new_record = f"{os.path.dirname(path)}/{NEW_RECORD}"
        try:
            # Numbering may sync the disk, which takes long, so it comes before the original's lock.
            if new is not None:
                if not new.generation:
                    last = old.generation if isinstance(old, Claim) else 0
                    new = new._replace(generation=kernel_lock.next_generation(last, new.claimed.epoch))
                write_new_file(self._fs, new_record, shared_record(new))
            lock = try_lock(self._fs, lock_path(path))
            if lock is None:
                return None
            locked_swap = LockedSwap(self._fs, self.directory, path, scoped, self.pid_is_gone)
            try:
                return locked_swap.run(lock, old, new)
            finally:
                if locked_swap.uncertain and new is not None:
                    self._uncertain[path] = new
        finally:
            if new is not None:
                with suppress(OSError):
                    self._fs.remove(new_record)

    def _read(self, path: str, scoped: ScopedKey) -> Found:
        try:
            return self._read_until_whole(path, scoped)
        except OSError as error:
            raise unavailable(path, error) from error

    def _read_until_whole(self, path: str, scoped: ScopedKey) -> Found:
        for attempt in range(_READS):
            with open_record(self._fs, self.directory, path, scoped) as seen:
                found = seen.found
            if not isinstance(found, Unreadable) or attempt == _READS - 1:
                return found
            try:
                self._fs.status_of(lock_path(path))
            except FileNotFoundError:
                break  # The writer may have released it since we read; read once more.
            self._fs.sleep(_READ_PAUSE)
        with open_record(self._fs, self.directory, path, scoped) as seen:
            return seen.found

    def _check_expired(self, path: str, uncertain: Claim) -> None:
        """Raise `StoreUnavailableError` unless *uncertain* has expired: until then the breaker may hold the key."""
        if self._fs.wall_clock() < uncertain.expires.wall.timestamp():
            cause = OSError(errno.EBUSY, "a session of agent-awareness broke the lock while this claim was written")
            raise StoreUnavailableError(path, cause)
        self._uncertain.pop(path, None)

    def _scoped_by_path(self, path: str) -> ScopedKey:
        """Return a key that has the record at *path*; a record of the original does not contain the one it is for."""
        namespace, _, name = path.removeprefix(f"{self.directory}/").rpartition("/")
        return ScopedKey(namespace, name.removesuffix(RECORD_SUFFIX))

    def _exists(self, directory: str) -> bool:
        """Return whether the *directory* of a namespace exists; raise as `PrivateDirectories.exists` does, also for those above."""
        path = self.directory
        for part in directory.removeprefix(f"{self.directory}/").split("/"):
            path = f"{path}/{part}"
            if not self._directories.exists(path):
                return False
        return True

    def _make_directories(self, directory: str) -> None:
        """Make the directory of a namespace and those above it, each private from the start."""
        self._fs.make_directory(self.directory)
        made = self.directory
        for part in directory.removeprefix(f"{self.directory}/").split("/"):
            made = f"{made}/{part}"
            self._fs.make_directory(made)

    def _namespace_directories(self) -> Iterator[tuple[str, bool]]:
        """Yield each directory that a namespace can have, and whether it certainly is one's.

        A plugin of the original can have slashes in its name, as `@scope/plugin`, so its directory may be at any depth.
        One is certain at the top, in a scope, and where mcp-claims has claimed; elsewhere only what can be read as a claim
        is one.
        """
        if not self._directories.exists():
            return
        # Not recursive: the tree may be deeper than the interpreter can recurse.
        open_directories = [(self.directory, iter(list_names(self._fs, self.directory)))]
        while open_directories:
            parent, names = open_directories[-1]
            name = next(names, None)
            if name is None:
                open_directories.pop()
                continue
            path = f"{parent}/{name}"
            if not self._can_be_namespace(path):
                continue
            in_scope = len(open_directories) == 2 and os.path.basename(parent).startswith("@")
            try:
                content = list_names(self._fs, path)
            except StoreUnavailableError:
                yield path, True  # `scan` reports why it cannot be listed.
                continue
            yield path, parent == self.directory or in_scope or LOCK_FILE in content
            open_directories.append((path, iter(content)))

    def _can_be_namespace(self, path: str) -> bool:
        namespace = path.removeprefix(f"{self.directory}/")
        try:
            if len(namespace.encode()) > MAX_KEY_BYTES:
                return False  # Too long to be claimed in, and so is everything below it.
            namespace_directory(self.directory, namespace)
            return stat.S_ISDIR(self._fs.status_of(path).st_mode)
        except (InvalidInputError, UnicodeEncodeError, FileNotFoundError):
            return False
        except OSError as error:
            raise unavailable(path, error) from error
