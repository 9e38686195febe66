"""The system calls of this layout beside those of the file store, as a seam for tests: directories as locks, hard links."""

from __future__ import annotations

import os
import sys
import time

from mcp_claims.stores.files.filesystem import READ, FileSystem, create_file


class AgentAwarenessFileSystem(FileSystem):
    """The system calls of the store in the original's layout."""

    def make_lock_directory(self, path: str) -> None:
        """Make a directory; raises `FileExistsError` if anything is at *path*."""
        os.mkdir(path, 0o700)

    def remove_directory(self, path: str) -> None:
        """Remove a directory; raises `OSError` unless it is empty."""
        os.rmdir(path)

    def link(self, source: str, target: str) -> None:
        """Give the file *source* the second name *target*; raises `FileExistsError` if anything is there."""
        os.link(source, target, follow_symlinks=False)

    def open_directory(self, path: str) -> int | None:
        """Open a directory, so that its inode number is not reused; `None` on Windows, which does not reuse them soon."""
        return None if sys.platform == "win32" else self.open(path, READ)

    def wall_clock(self) -> float:
        """Return the seconds since 1970 by the clock that the original uses."""
        return time.time()


def write_new_file(fs: AgentAwarenessFileSystem, path: str, data: bytes) -> None:
    """Write *data* to a new file at *path*; the caller holds the kernel lock, so a file there was left by a crash."""
    try:
        create_file(fs, path, data)
    except FileExistsError:
        # Not written in place: it may be a second name of a record or of the meta.json of a lock.
        fs.remove(path)
        create_file(fs, path, data)


def read_up_to(fs: AgentAwarenessFileSystem, fd: int, size: int) -> bytes:
    """Read the rest of an open file, at most *size* bytes."""
    data = b""
    while len(data) < size and (part := fs.read(fd, size - len(data))):
        data += part
    return data
