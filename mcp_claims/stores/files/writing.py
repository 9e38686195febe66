"""Writing and removing files of a namespace; the caller holds its lock."""

from __future__ import annotations

import os
import stat

from mcp_claims.stores.files.filesystem import FileSystem, create_file
from mcp_claims.stores.files.lock import NamespaceLock


def write_new(fs: FileSystem, path: str, data: bytes, lock: NamespaceLock, *, sync: bool = False) -> None:
    """Write *data* to a file at *path*, the name of one that only the owner of *lock* writes and then renames."""
    try:
        create_file(fs, path, data, sync=sync)
    except FileExistsError:
        # A crash has left it.
        remove(fs, path, lock)
        create_file(fs, path, data, sync=sync)


def remove(fs: FileSystem, path: str, lock: NamespaceLock) -> None:
    """Remove what is at *path*, of whatever kind."""
    lock.check_in_place()
    status = fs.status_of(path)
    if stat.S_ISDIR(status.st_mode):
        # It may have content, which must not be deleted.  Under a hidden name it blocks no key.
        fs.replace(path, f"{os.path.dirname(path)}/.aside-{status.st_ino}-{status.st_ctime_ns}")
    else:
        fs.remove(path)
