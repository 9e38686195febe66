"""The system calls that lock directories take, beside those of the file store."""

from __future__ import annotations

import os
import sys
import time

from mcp_claims.stores.files.filesystem import CREATE, READ, FileSystem, write_all


class LayoutFileSystem(FileSystem):
    """The operating system's side of the store in the original's layout."""

    def make_lock(self, path: str) -> None:
        """Make a directory, which fails if anything is there: who makes it has the lock."""
        os.mkdir(path, 0o700)

    def remove_empty(self, path: str) -> None:
        """Remove a directory, which fails unless it is empty."""
        os.rmdir(path)

    def link(self, source: str, target: str) -> None:
        """Give the file *source* the name *target* too, which fails if anything is there."""
        os.link(source, target, follow_symlinks=False)

    def pin(self, path: str) -> int | None:
        """Open a directory, so that no later one gets its inode number; Windows does not reuse them soon."""
        return None if sys.platform == "win32" else self.open(path, READ)

    def wall(self) -> float:
        return time.time()


def write_new(fs: LayoutFileSystem, path: str, data: bytes) -> None:
    """Write a file of ours anew; the caller has the kernel lock, so what is there was left by a crash."""
    try:
        fd = fs.open(path, CREATE)
    except FileExistsError:
        # Never written in place: it may be a second name of a record or of a lock's meta.json.
        fs.remove(path)
        fd = fs.open(path, CREATE)
    try:
        write_all(fs, fd, data)
    finally:
        fs.close(fd)
