"""The directories and links above the claims directory: could another user put something else into its place?"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from functools import cache

_UNMAPPED = 65_534
"""How a user namespace shows the owners that it does not know."""

_MAX_LINKS = 40  # As the kernel follows.


def find_replaceable(path: str, status_of: Callable[[str], os.stat_result] = os.lstat) -> tuple[str, str, bool] | None:
    """Return what on the way to *path* another user could replace, why, and whether it is that user's own.

    `None` if nobody but root could replace any of it.

    Each directory on the way belongs to this user or root, and nobody else can write there.  In one with the sticky bit,
    such as /tmp, others can write, but rename or remove only what they own, so what the path names there must be ours.  The
    same holds for links and the ways that they lead.  *path* is absolute.  Raises `OSError`, about *path*, as the system does.
    """
    if sys.platform == "win32":
        return None
    try:
        return _find_replaceable(path, status_of)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _find_replaceable(path: str, status_of: Callable[[str], os.stat_result]) -> tuple[str, str, bool] | None:
    directory, status = "/", status_of("/")
    names = [name for name in path.split("/") if name][::-1]
    links = 0
    while names:
        if not _is_trusted(status.st_uid):
            return directory, f"belongs to another user (uid {status.st_uid})", True
        shared = _is_writable_by_others(status)
        if shared and not status.st_mode & stat.S_ISVTX:
            return directory, f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})", False
        name = names.pop()
        if name == "..":
            directory = os.path.dirname(directory)
            status = status_of(directory)
            continue
        entry = os.path.join(directory, name)
        try:
            found = status_of(entry)
        except FileNotFoundError:
            return None  # Whoever makes it, it is checked then.
        if stat.S_ISLNK(found.st_mode):
            if not _is_trusted(found.st_uid):
                return entry, f"is a link of another user (uid {found.st_uid})", True
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(entry)
            names += [part for part in target.split("/") if part not in ("", ".")][::-1]
            if target.startswith("/"):
                directory, status = "/", status_of("/")
            continue
        if shared and not _is_trusted(found.st_uid):
            return entry, f"belongs to another user (uid {found.st_uid}), in a directory that all can write", True
        directory, status = entry, found
    return None


def _is_trusted(uid: int) -> bool:
    """Return whether *uid* is this user or root, or in a user namespace, such as a sandbox, may be root outside it."""
    ours = sys.platform == "win32" or uid in (0, os.geteuid())
    return ours or (uid == _UNMAPPED and _in_user_namespace())


def _is_writable_by_others(status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_private_group(status.st_gid)


def _is_private_group(gid: int) -> bool:
    """Return whether *gid* is this user's own group, as systems make one for each user; their umask lets it write."""
    if sys.platform == "win32" or gid != os.geteuid():
        return False
    # Needed nearly never, and a look-up may ask a directory service.
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(gid).pw_name, grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == user and set(group.gr_mem) <= {user}


@cache
def _in_user_namespace() -> bool:
    try:
        with open("/proc/self/uid_map") as users:
            return users.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False
