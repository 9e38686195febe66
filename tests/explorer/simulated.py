"""An operating system in memory, one system call at a time, for the real file store to run on.

Every call of `SimulatedFileSystem` is a step: the process gives way before it, and the scheduler decides who goes on, who
dies there, and what time it is by then.  What a call does, it does at once, as the calls of a kernel on one directory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from mcp_claims.stores.files.filesystem import FileSystem


class Killed(BaseException):
    """Ends a process in the middle of a call; nothing may catch it."""


@dataclass(eq=False)
class Inode:
    """A file, or with `entries` a directory."""

    number: int
    data: bytes = b""
    entries: dict[str, Inode] | None = None
    changed: float = 0.0
    locked_by: Opening | None = None


@dataclass(eq=False)
class Opening:
    """An open file: what a descriptor refers to and a lock belongs to."""

    inode: Inode
    position: int = 0


@dataclass
class Disk:
    """What all processes share."""

    clock: Callable[[], float]
    root: Inode = field(default_factory=lambda: Inode(1, entries={"claims": Inode(0, entries={})}))
    made: int = 1
    records: int = 0
    """How often a record was put in its place or removed."""

    def inode(self, *, directory: bool = False) -> Inode:
        self.made += 1
        return Inode(self.made, entries={} if directory else None, changed=self.clock())

    def find(self, path: str) -> Inode | None:
        place: Inode | None = self.root
        for name in filter(None, path.split("/")):
            if place is None or place.entries is None:
                return None
            place = place.entries.get(name)
        return place

    def entries_of(self, path: str) -> dict[str, Inode]:
        """Return the directory that *path* is in."""
        directory = self.find(os.path.dirname(path))
        if directory is None or directory.entries is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return directory.entries


class SimulatedFileSystem(FileSystem):
    """The system calls of one process on *disk*; *give_way* is called before each."""

    def __init__(self, disk: Disk, give_way: Callable[[str], None]) -> None:
        self._disk, self._schedule = disk, give_way
        self._dead = False
        self._openings: dict[int, Opening] = {}
        self._next_fd = 3
        # The file whose lock the process is waiting for: until it is free, running the process would only spin.
        self.waiting_for: Inode | None = None
        self._refused: Inode | None = None
        self._seconds = 0.0

    def die(self) -> None:
        """Do what a kernel does for a process that has died: close its files, which frees its locks."""
        for opening in self._openings.values():
            self._unlock(opening)
        self._dead = True

    def time_out(self) -> None:
        """Let more time go by than the process is ready to wait for a lock."""
        self._seconds += 1_000.0
        self.waiting_for = None

    def act(self) -> None:
        """Do what the key was claimed for: a step like any other, in which two that hold it are seen."""
        self._give_way("act on the event")

    def open(self, path: str, flags: int) -> int:
        self._give_way(f"open {os.path.basename(path)}")
        entries, name = self._disk.entries_of(path), os.path.basename(path)
        inode = entries.get(name)
        if inode is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            inode = entries[name] = self._disk.inode()
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        self._next_fd += 1
        self._openings[self._next_fd] = Opening(inode)
        return self._next_fd

    def close(self, fd: int) -> None:
        self._unlock(self._opened(fd))
        del self._openings[fd]

    def read(self, fd: int, size: int) -> bytes:
        self._give_way("read")
        opening = self._opened(fd)
        data = opening.inode.data[opening.position : opening.position + size]
        opening.position += len(data)
        return data

    def write(self, fd: int, data: bytes) -> int:
        self._give_way("write")
        opening = self._opened(fd)
        content, end = opening.inode.data, opening.position + len(data)
        opening.inode.data = content[: opening.position] + data + content[end:]
        opening.inode.changed = self._disk.clock()
        opening.position = end
        return len(data)

    def seek(self, fd: int, position: int, whence: int) -> int:
        assert whence == os.SEEK_SET
        self._opened(fd).position = position
        return position

    def truncate(self, fd: int, size: int) -> None:
        self._give_way("truncate")
        inode = self._opened(fd).inode
        inode.data = inode.data[:size]

    def sync(self, fd: int) -> None:
        """Do nothing: no power is cut here."""

    def sync_directory(self, path: str) -> None:
        """Do nothing: no power is cut here."""

    def status(self, fd: int) -> os.stat_result:
        return _status(self._opened(fd).inode)

    def status_of(self, path: str) -> os.stat_result:
        self._give_way(f"status {os.path.basename(path)}")
        inode = self._disk.find(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return _status(inode)

    def status_behind(self, path: str) -> os.stat_result:
        return self.status_of(path)

    def find_replaceable(self, path: str) -> None:
        """Find nothing: nobody else uses this disk."""

    def replace(self, source: str, target: str) -> None:
        self._give_way(f"rename to {os.path.basename(target)}")
        entries = self._disk.entries_of(source)
        inode = entries.pop(os.path.basename(source), None)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", source)
        inode.changed = self._disk.clock()
        self._disk.entries_of(target)[os.path.basename(target)] = inode
        self._disk.records += target.endswith(".json")

    def remove(self, path: str) -> None:
        self._give_way(f"remove {os.path.basename(path)}")
        if self._disk.entries_of(path).pop(os.path.basename(path), None) is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        self._disk.records += path.endswith(".json")

    def make_directory(self, path: str) -> None:
        self._give_way(f"make {os.path.basename(path)}")
        self._disk.entries_of(path).setdefault(os.path.basename(path), self._disk.inode(directory=True))

    def names(self, path: str, limit: int | None = None) -> list[str]:
        self._give_way(f"list {os.path.basename(path)}")
        directory = self._disk.find(path)
        if directory is None or directory.entries is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return list(directory.entries)[:limit]

    def try_lock(self, fd: int) -> bool:
        self._give_way("lock")
        opening = self._opened(fd)
        if opening.inode.locked_by is None:
            opening.inode.locked_by = opening
            return True
        self._refused = opening.inode
        return False

    def unlock(self, fd: int) -> None:
        self._give_way("unlock")
        self._unlock(self._opened(fd))

    def monotonic(self) -> float:
        return self._seconds

    def sleep(self, seconds: float) -> None:
        """Wait for the lock that could not be had: the scheduler lets the process go on when it is free."""
        self.waiting_for = self._refused
        self._give_way("wait")
        self.waiting_for = None

    def _give_way(self, call: str) -> None:
        """Let others go first; a process that was killed meanwhile never comes back, not even to clean up."""
        if not self._dead:
            self._schedule(call)
        if self._dead:
            raise Killed

    def _opened(self, fd: int) -> Opening:
        if self._dead:
            raise Killed
        return self._openings[fd]

    def _unlock(self, opening: Opening) -> None:
        if opening.inode.locked_by is opening:
            opening.inode.locked_by = None


def _status(inode: Inode) -> os.stat_result:
    mode = stat.S_IFDIR | 0o700 if inode.entries is not None else stat.S_IFREG | 0o600
    seconds = int(inode.changed)
    return os.stat_result((mode, inode.number, 1, 1, os.geteuid(), 0, len(inode.data), seconds, seconds, seconds))
