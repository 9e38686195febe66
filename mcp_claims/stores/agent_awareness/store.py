"""Claims in the directory, the files and under the locks of the agent-awareness project (DESIGN.md, A1 to A13).

A change has two locks: the kernel lock of the namespace, which keeps our own processes apart and numbers their grants,
and inside it the original's lock directory, which keeps its sessions out for the microseconds of compare-and-write.
Since the original breaks locks of live owners, ours is looked at right before and right after the write.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress

from mcp_claims.errors import InvalidInputError, LockDirectoryBusyError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.model.codec import to_json
from mcp_claims.model.records import Claim, Found, Outcome, ScopedKey, Unreadable
from mcp_claims.model.validation import MAX_KEY_BYTES
from mcp_claims.stores.agent_awareness.filenames import LOCK, RECORD, is_record_name, namespace_directory, place
from mcp_claims.stores.agent_awareness.filesystem import LayoutFileSystem, write_new
from mcp_claims.stores.agent_awareness.lock import IsGone, is_free, make_lock
from mcp_claims.stores.agent_awareness.record_file import opened
from mcp_claims.stores.agent_awareness.swap import NEW, LockedChange
from mcp_claims.stores.base import LOCK_TIMEOUT, NEVER, Swap
from mcp_claims.stores.files.directories import PrivateDirectories, list_names, problem_of_namespace, unavailable
from mcp_claims.stores.files.lock import LOCK_FILE, LockFile, NamespaceLock
from mcp_claims.stores.files.store import FileStore

LOCK_PAUSE = 0.02
"""Seconds between two looks at a lock directory, as in the original."""

# How often a reader looks at what a session of the original, which writes in place, has half written.
_LOOKS = 10
_LOOK_PAUSE = 0.002


class AgentAwarenessStore:
    """Claims in *directory*, shared with sessions of the original; *is_gone* tells whether nothing runs under a PID."""

    remote = False

    def __init__(
        self, directory: str | os.PathLike[str], is_gone: IsGone, *, fs: LayoutFileSystem | None = None
    ) -> None:
        self.directory = os.path.abspath(directory)
        self.is_gone = is_gone
        self._fs = fs or LayoutFileSystem()
        self._private = PrivateDirectories(self._fs, self.directory)
        # What we wrote while our lock was broken, and could not find out what the breaker did.
        self._doubtful: dict[str, Claim] = {}

    def read(self, scoped: ScopedKey) -> Found:
        directory, path = place(self.directory, scoped)
        return self._look(path, scoped) if self._private.exists(directory) else None

    def swap(
        self, scoped: ScopedKey, old: Claim | None, new: Claim | None, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> Swap:
        directory, path = place(self.directory, scoped)
        if new is not None and new.ended is not None and new.ended.outcome is not Outcome.DONE:
            # The original would take the marker of what failed for a claim, and the key is to be free at once.
            new = None
        if old is not None and self._doubtful.get(path) == old:
            self._check_doubt(path, old)
        return self._change(directory, path, scoped, old, new, lock_timeout)

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        if isinstance(found, Claim):
            return self.swap(found.scoped, found, None, lock_timeout=lock_timeout).won
        directory = os.path.dirname(found.where)
        return self._change(directory, found.where, self._by_name(found.where), found, None, lock_timeout).won

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        # Beside the plugins' directories, under a hidden name; the original reads only what ends in `.json`.
        return FileStore(self.directory).secret(lock_timeout=lock_timeout)

    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        # Imported here: watchdog takes as long to import as a whole `check`, which watches nothing.
        from mcp_claims.stores.files.watch import watch_record, watch_records

        if isinstance(target, ScopedKey):
            return watch_record(self.directory, place(self.directory, target)[1], notify)
        inside = self.directory if target is None else namespace_directory(self.directory, target)
        return watch_records(self.directory, inside, notify)

    def wait_queue(self, scoped: ScopedKey, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        # Its sessions would not stand in it, and a file for it could be a plugin's directory.
        return nullcontext(False)

    def close(self, *, within: float) -> None:
        """Do nothing: claims in files end with the process by themselves."""

    def position(self, found: Claim | Unreadable) -> str:
        return self._position(place(self.directory, found.scoped)[1] if isinstance(found, Claim) else found.where)

    def _position(self, path: str) -> str:
        # The files of a plugin come before the plugins in it.
        place_inside = path.removeprefix(f"{self.directory}/")
        # What is no record is a namespace that cannot be entered.
        inside, _, name = place_inside.rpartition("/") if path.endswith(RECORD) else (place_inside, "", "")
        return f"{inside.replace('/', chr(0))}\0\0{name}"

    def scan(self, namespace: str | None = None, after: str = "") -> Iterator[Claim | Unreadable]:
        if namespace is not None:
            directories: Iterator[str] = iter([namespace_directory(self.directory, namespace)])
        else:
            directories = self._namespaces(self.directory)
        for directory in directories:
            try:
                names = list_names(self._fs, directory) if self._private.exists(directory) else []
            except (UnsafeDirectoryError, StoreUnavailableError) as error:
                problem = problem_of_namespace(error, self.directory)
                if namespace is not None or problem is None:
                    raise
                # One namespace that must not or cannot be entered must not keep the others from being seen.
                if self._position(directory) > after:
                    yield Unreadable(directory, problem, NEVER, ())
                continue
            for name in names:
                if name.endswith(RECORD) and is_record_name(name.removesuffix(RECORD)):
                    path = f"{directory}/{name}"
                    if self._position(path) <= after:
                        continue
                    found = self._look(path, self._by_name(path))
                    if found is not None:
                        yield found

    def _change(
        self, directory: str, path: str, scoped: ScopedKey, old: Found, new: Claim | None, lock_timeout: float
    ) -> Swap:
        lock_path = path.removesuffix(RECORD) + LOCK
        deadline = self._fs.monotonic() + lock_timeout
        try:
            if not self._private.exists(directory):
                self._make(directory)
                self._private.exists(directory)
            while True:
                left = max(0.0, deadline - self._fs.monotonic())
                with LockFile(self._fs, directory) as file, NamespaceLock(file, left) as entered:
                    swap = self._try_change(entered, path, lock_path, scoped, old, new)
                if swap is not None:
                    return swap
                # Waited for without the kernel lock: the other keys of the namespace can be changed meanwhile.
                left = deadline - self._fs.monotonic()
                if left <= 0:
                    raise LockDirectoryBusyError(lock_path, lock_timeout)
                self._fs.sleep(min(LOCK_PAUSE, left))
        except OSError as error:
            raise unavailable(directory, error) from error

    def _try_change(
        self, entered: NamespaceLock, path: str, lock_path: str, scoped: ScopedKey, old: Found, new: Claim | None
    ) -> Swap | None:
        """Change what is stored if it is *old*; `None` if a session of the original is inside, with nothing changed."""
        with opened(self._fs, self.directory, path, scoped) as seen:
            # What cannot be read may be half of what the original is writing; the lock will tell.
            if seen.found != old and not isinstance(seen.found, Unreadable):
                return Swap(False, seen.found)
        if not is_free(self._fs, lock_path, self.is_gone):
            return None
        fresh = f"{os.path.dirname(path)}/{NEW}"
        try:
            # All that can be done before the lock is.
            if new is not None:
                if not new.generation:
                    after = old.generation if isinstance(old, Claim) else 0
                    new = new._replace(generation=entered.counter.next_generation(after, new.claimed.epoch))
                write_new(self._fs, fresh, to_json(new))
            lock = make_lock(self._fs, lock_path)
            if lock is None:
                return None
            change = LockedChange(self._fs, self.directory, path, scoped, self.is_gone)
            try:
                return change.make(lock, old, new)
            finally:
                if change.in_doubt and new is not None:
                    self._doubtful[path] = new
        finally:
            if new is not None:
                with suppress(OSError):
                    self._fs.remove(fresh)

    def _look(self, path: str, scoped: ScopedKey) -> Found:
        """Read without any lock."""
        try:
            return self._look_until_whole(path, scoped)
        except OSError as error:
            raise unavailable(path, error) from error

    def _look_until_whole(self, path: str, scoped: ScopedKey) -> Found:
        """Look again at what is unreadable while somebody has the record's lock: it may be half written."""
        for look in range(_LOOKS):
            with opened(self._fs, self.directory, path, scoped) as seen:
                found = seen.found
            if not isinstance(found, Unreadable) or look == _LOOKS - 1:
                return found
            try:
                self._fs.status_of(path.removesuffix(RECORD) + LOCK)
            except FileNotFoundError:
                break  # Nobody is inside now; one more look, at what whoever has just left there.
            self._fs.sleep(_LOOK_PAUSE)
        with opened(self._fs, self.directory, path, scoped) as seen:
            return seen.found

    def _check_doubt(self, path: str, old: Claim) -> None:
        """Refuse to renew or release what may be another's; once its time has passed it is nobody's in any case."""
        if self._fs.wall() < old.expires.wall.timestamp():
            cause = OSError(errno.EBUSY, "a session of agent-awareness broke the lock while this claim was written")
            raise StoreUnavailableError(path, cause)
        self._doubtful.pop(path, None)

    def _by_name(self, path: str) -> ScopedKey:
        """Return what a record of the original at *path* is about, as far as its path tells."""
        namespace, _, name = path.removeprefix(f"{self.directory}/").rpartition("/")
        return ScopedKey(namespace, name.removesuffix(RECORD))

    def _make(self, directory: str) -> None:
        """Make the directory of a namespace and what is missing above it, each ours alone from the start."""
        self._fs.make_directory(self.directory)
        inside = self.directory
        for part in directory.removeprefix(f"{self.directory}/").split("/"):
            inside = f"{inside}/{part}"
            self._fs.make_directory(inside)

    def _namespaces(self, whole: str) -> Iterator[str]:
        """Yield what can be a plugin's directory: at the top any, as for the original, and below it any that we made."""
        # Not by calling itself: somebody's tree may be deeper than calls can be.
        entered = [(whole, iter(list_names(self._fs, whole)))]
        while entered:
            directory, names = entered[-1]
            name = next(names, None)
            if name is None:
                entered.pop()
                continue
            path = f"{directory}/{name}"
            try:
                namespace = self._by_name(f"{path}/x").namespace
                if len(namespace.encode()) > MAX_KEY_BYTES:
                    continue  # Nor has anything below it.
                namespace_directory(self.directory, namespace)
                is_directory = self._is_directory(path)
            except (InvalidInputError, UnicodeEncodeError):
                continue  # No namespace has that name.
            if not is_directory:
                continue
            try:
                inside = list_names(self._fs, path)
            except StoreUnavailableError:
                yield path  # Who looks into it tells why that cannot be done.
                continue
            if directory == whole or LOCK_FILE in inside:
                yield path
            entered.append((path, iter(inside)))

    def _is_directory(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(self._fs.status_of(path).st_mode)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise unavailable(path, error) from error
