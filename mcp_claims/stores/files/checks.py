"""Whose the directories are, and errors of the system as errors of the store: what stores in files have in common."""

from __future__ import annotations

import errno
import os
import stat
import sys
from datetime import UTC, datetime

from mcp_claims.errors import StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.model.records import Unreadable
from mcp_claims.stores.base import SECRET_BYTES
from mcp_claims.stores.files.filesystem import READ, FileSystem, last_change, unsafe

_TRUST_LASTS = 1.0  # s


class Trust:
    """Which directories in the claims directory *whole* are known to be ours alone; looked at again once a second."""

    def __init__(self, fs: FileSystem, whole: str) -> None:
        self._fs, self._whole = fs, whole
        self._since: dict[str, float] = {}

    def has(self, directory: str) -> bool:
        """Tell whether *directory* exists; raise `UnsafeDirectoryError` if others could change it."""
        now = self._fs.monotonic()
        if now - self._since.get(directory, -_TRUST_LASTS) >= _TRUST_LASTS:
            try:
                # The claims directory may be a link of the user's own making; what it leads to is what counts.
                whole, part = self._fs.status_behind(self._whole), self._fs.status_of(directory)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise unavailable(directory, error) from error
            for path, status in ((self._whole, whole), (directory, part)):
                if problem := unsafe(status):
                    raise UnsafeDirectoryError(path, problem)
            self._since[directory] = now
        return True


def unavailable(where: str, error: OSError) -> StoreUnavailableError:
    """Return *error*, of the system, as one of the store, about *where* unless it names a place itself."""
    # Not a context manager: each operation would go through several, and pay for them where nothing fails.
    return StoreUnavailableError(error.filename or where, error)


def names_in(fs: FileSystem, directory: str) -> list[str]:
    """Return the names in *directory*, in order; none where it is not there."""
    try:
        return sorted(fs.names(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unavailable(directory, error) from error


def of_one_namespace(error: UnsafeDirectoryError | StoreUnavailableError, directory: str) -> str | None:
    """Return what is wrong with one namespace, `None` if it is the claims directory or the system."""
    if isinstance(error, UnsafeDirectoryError):
        return None if error.where == directory else error.problem
    denied = error.cause.errno in THE_FILES_OWN_FAULT and error.where != directory
    return error.cause.strerror or "cannot be listed" if denied else None


_SPELT_BYTES = 2 * SECRET_BYTES + 1


def spell_secret(secret: bytes) -> bytes:
    """Return what to write for *secret*: hexadecimal digits and a line break."""
    return secret.hex().encode() + b"\n"


def read_secret(fs: FileSystem, path: str) -> bytes | None:
    """Read the secret at *path*; `None` if there is none.

    Raises `OSError` for a file that others can read or that is not a secret.  It is never replaced on our own account:
    every handle given so far would be void.
    """
    try:
        fd = fs.open(path, READ)
    except FileNotFoundError:
        return None
    try:
        status = fs.status(fd)
        data = fs.read(fd, _SPELT_BYTES + 1)
    finally:
        fs.close(fd)
    if sys.platform != "win32" and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise OSError(errno.EPERM, "the secret of the session handles can be read by others (chmod 600 it)", path)
    try:
        secret = bytes.fromhex(data.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES or not stat.S_ISREG(status.st_mode):
        damaged = "the secret of the session handles is damaged (remove it: all handles given so far are void then)"
        raise OSError(errno.EIO, damaged, path)
    return secret


# What opening tells about one file, not about the store: no permission, a link (Linux; FreeBSD says EMLINK).
THE_FILES_OWN_FAULT = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.EMLINK, errno.ENXIO})

NEVER = datetime.max.replace(tzinfo=UTC)
"""The time of what no calendar has: in doubt it was written a moment ago, for ever."""


def unreadable(path: str, status: os.stat_result, problem: str) -> Unreadable:
    """Return what to say of the thing at *path*, which is not a claim for the reason *problem*."""
    fingerprint = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return Unreadable(path, problem, changed_at(status), fingerprint)


def not_opened(fs: FileSystem, path: str, error: OSError) -> Unreadable | None:
    """Return what to say of the thing at *path*, which *error* kept from being opened; `None` if it has gone since.

    Raises *error* if that tells of the store, not of the one file.
    """
    if error.errno not in THE_FILES_OWN_FAULT:
        raise error
    try:
        return unreadable(path, fs.status_of(path), error.strerror or "cannot be opened")
    except FileNotFoundError:
        return None


def changed_at(status: os.stat_result) -> datetime:
    """Return the latest time at which a file can have been written."""
    try:
        return datetime.fromtimestamp(last_change(status), UTC)
    except (OverflowError, ValueError, OSError):
        return NEVER
