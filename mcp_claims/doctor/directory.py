"""The claims directory: where it is, whose it is, and who could replace it."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from mcp_claims.doctor.finding import Finding, failure, ok, warning
from mcp_claims.stores.files.directories import unsafe

_CHECK = "directory"
_CHOOSE = "choose another with --dir or MCP_CLAIMS_DIR."


def examine_directory(directory: Path, chosen_by: str) -> Iterator[Finding]:
    """Examine *directory* itself and what is above it."""
    where = f"{directory} (chosen by {chosen_by})"
    try:
        status = directory.stat()
    except FileNotFoundError:
        yield from _missing(directory, where)
        return
    except OSError as error:
        yield failure(
            _CHECK, f"{where} cannot be looked at: {error.strerror}", "Choose another with --dir or MCP_CLAIMS_DIR."
        )
        return
    if not stat.S_ISDIR(status.st_mode):
        yield failure(
            _CHECK, f"{where} is not a directory", "Move it away, or choose another with --dir or MCP_CLAIMS_DIR."
        )
        return
    if problem := unsafe(status):
        yield failure(
            _CHECK, f"{where} {problem}: others could forge or remove claims", f"chmod 700 {directory}, as its owner."
        )
    elif not os.access(directory, os.W_OK | os.X_OK):
        yield failure(_CHECK, f"{where} cannot be written by this user", f"chmod 700 {directory}, or choose another.")
    else:
        leads = f", which leads to {directory.resolve()}" if directory.is_symlink() else ""
        yield ok(_CHECK, f"{where}{leads} is yours alone")
    yield from _parents(directory)


def _missing(directory: Path, where: str) -> Iterator[Finding]:
    parent = nearest_existing(directory)
    missing = parent / directory.relative_to(parent).parts[0]
    if os.path.islink(missing):
        yield failure(_CHECK, f"{where} cannot be made: {missing} leads nowhere", f"Remove that link, or {_CHOOSE}")
    elif os.access(parent, os.W_OK | os.X_OK) and parent.is_dir():
        yield ok(_CHECK, f"{where} is not there yet; the first claim makes it")
    else:
        yield failure(
            _CHECK,
            f"{where} is not there, and nothing can be made in {parent}",
            f"Make {parent} writable for this user, or choose another with --dir or MCP_CLAIMS_DIR.",
        )
    yield from _parents(directory)


def _parents(directory: Path) -> Iterator[Finding]:
    """Tell of directories above, as it is called and as it really is, in which others could put another one there."""
    if sys.platform == "win32":
        return
    above = [nearest_existing(directory.parent), nearest_existing(directory).resolve()]
    places = dict.fromkeys([*above[0].parents, above[0], *above[1].parents])
    replaceable = [f"{place} {problem}" for place in places if (problem := _loose(place))]
    if replaceable:
        yield warning(
            "parents",
            f"others could replace the claims directory: {', '.join(replaceable)}",
            "Take the right to write from group and others (chmod go-w), or choose a directory in your home.",
        )
    else:
        yield ok("parents", "nobody else can replace the claims directory")


def _loose(place: Path) -> str | None:
    try:
        status = place.stat()
    except OSError:
        return None
    # With the sticky bit, as in /tmp, each may remove only what is their own.
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
        return "can be written by others"
    if sys.platform != "win32" and status.st_uid not in (0, os.geteuid()):
        return f"belongs to uid {status.st_uid}"
    return None


def nearest_existing(path: Path) -> Path:
    """Return *path* or the closest place above it that exists, as far as this user can see."""
    # Not `Path.exists`, which raises for names that are too long and in directories that may not be entered.
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path
