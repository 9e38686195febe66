"""The directories of a store in files: made for this user alone, and checked to be so."""

from __future__ import annotations

import os
import stat
import sys

from mcp_claims.errors import ReplaceableDirectoryError, StoreUnavailableError, UnsafeDirectoryError, shown_path
from mcp_claims.model.records import Unreadable
from mcp_claims.stores.base import NEVER
from mcp_claims.stores.files.filesystem import ERRORS_OF_ONE_FILE, FileSystem

_RECHECK_AFTER = 1.0  # s


class PrivateDirectories:
    """Checks that the claims directory *root* and directories in it are this user's alone, and that nobody can replace it.

    Other users who could write there could forge or remove claims.  A directory is checked again once a second.
    """

    def __init__(self, fs: FileSystem, root: str) -> None:
        self._fs, self._root = fs, root
        self._checked_at: dict[str, float] = {}

    def exists(self, directory: str | None = None) -> bool:
        """Return whether *directory*, by default the claims directory, exists.

        Raises `UnsafeDirectoryError` if another user could change it.
        """
        now = self._fs.monotonic()
        checked = directory or self._root
        if now - self._checked_at.get(checked, -_RECHECK_AFTER) >= _RECHECK_AFTER:
            try:
                # Before anything else: a claims directory that others have renamed is missing, and would seem to be empty.
                if found := self._fs.find_replaceable(self._root):
                    raise ReplaceableDirectoryError(*found)
                # The user may have made the claims directory a link; what counts is the directory that it leads to.
                statuses = [(self._root, self._fs.status_behind(self._root))]
                if directory is not None:
                    statuses.append((directory, self._fs.status_of(directory)))
            except FileNotFoundError:
                return False
            except OSError as error:
                raise unavailable(checked, error) from error
            for path, status in statuses:
                if problem := unsafe(status):
                    raise UnsafeDirectoryError(path, problem, _remedy(status))
            self._checked_at[checked] = now
        return True


def unsafe(status: os.stat_result) -> str | None:
    """Return why a directory is not this user's alone, `None` if it is; Windows keeps user profiles private by default."""
    if stat.S_ISLNK(status.st_mode):
        return "is a link to elsewhere"
    if sys.platform == "win32":
        return None
    if status.st_uid != os.geteuid():
        return f"belongs to another user (uid {status.st_uid})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def _remedy(status: os.stat_result) -> str | None:
    """Return what helps where `chmod` does not: against a link, and for a directory of another user."""
    if stat.S_ISLNK(status.st_mode):
        return "Remove that link"
    return None if sys.platform == "win32" or status.st_uid == os.geteuid() else "Have its owner move it away"


def make_namespace(fs: FileSystem, directory: str) -> None:
    """Make the directory of a namespace, and the claims directory above it, private from the start."""
    fs.make_directory(os.path.dirname(directory))
    fs.make_directory(directory)


def unusable_namespace(
    error: UnsafeDirectoryError | StoreUnavailableError, directory: str, root: str
) -> Unreadable | None:
    """Return what is at *directory* if *error* is about that namespace, `None` if about the claims directory or the system.

    *root* is the claims directory.
    """
    if error.where == root or isinstance(error, ReplaceableDirectoryError):
        return None
    if isinstance(error, UnsafeDirectoryError):
        return Unreadable(directory, error.problem, NEVER, (), f"{error.remedy}.")
    if error.cause.errno in ERRORS_OF_ONE_FILE:
        remedy = f"As its owner: chmod 700 {shown_path(directory)}"
        return Unreadable(directory, error.cause.strerror or "cannot be listed", NEVER, (), remedy)
    return None


def unavailable(where: str, error: OSError) -> StoreUnavailableError:
    """Return the system's *error* as one of the store, about *where* unless the error names another path."""
    return StoreUnavailableError(error.filename or where, error)
