"""Plain keys that a tool call touches: a key without `file:` or `branch:` may be a path, or stand in a command.

A relative path, and a key of one word such as `main`, are meant from where the holder of the claim works.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from mcp_claims.model.records import Claim

_MIN_KEY_IN_COMMAND = 4
"""Characters of a key that is searched for in commands: a shorter one is in many of them by chance."""

_WORD = re.compile(r"[\w-]+")
_MAX_WORDS = 500
MAX_PATH = 4_096
"""Characters: no system opens a longer path, and to resolve the links in one takes seconds."""


class Touched:
    """What a tool call touches: *paths*, and what a shell *command* says, from *here*.

    *project* is the directory from which the host's agents name files, if it is another one.
    """

    def __init__(self, paths: Sequence[str], command: str | None, here: str, project: str | None) -> None:
        self._command, self._here = command, here
        paths = [os.path.join(here, path) for path in (*paths, *(() if command is None else _paths_in(command)))]
        bases = {here, os.path.join(here, project) if project else here}
        self._spellings = {spelling for path in paths for spelling in _spellings(path, bases)}

    def by(self, claim: Claim) -> bool:
        """Return whether the call touches the plain key of *claim*."""
        key, of = claim.scoped.base.key, _directory_of(claim)
        if _is_path(key if of is None else os.path.join(of, key), self._spellings):
            return True
        return (
            self._command is not None
            and _is_in_command(key, self._command)
            and (of is None or not _WORD.fullmatch(key) or _is_near(of, self._here))
        )


def _paths_in(command: str) -> list[str]:
    """Return the words of *command* that may be paths, at most the first `_MAX_WORDS`."""
    words = (found[0] for found in re.finditer(r"[^\s'\"`;|&<>()=,:]+", command))
    return list(islice((word for word in words if "/" in word), _MAX_WORDS))


def _directory_of(claim: Claim) -> str | None:
    """Return the directory in which the session of *claim* works, if it is known whole."""
    directory = os.path.expanduser(claim.holder.directory or "")
    return directory if os.path.isabs(directory) else None


def _is_near(one: str, other: str) -> bool:
    """Return whether one of two directories is in the other."""
    one, other = (os.path.join(_resolved(each), "") for each in (one, other))
    return one.startswith(other) or other.startswith(one)


def _spellings(path: str, bases: set[str]) -> Iterator[str]:
    """Yield the names of *path*: absolute, and relative to each of *bases*, with links as they are and resolved."""
    path = os.path.normpath(path)
    if len(path) > MAX_PATH:
        return
    for normalise in (os.path.normpath, _resolved):
        yield (absolute := normalise(path))
        for base in bases:
            # On Windows no relative path leads from one drive to another.
            with suppress(ValueError):
                yield os.path.relpath(absolute, normalise(base))


def _resolved(path: str) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # ValueError: it contains a NUL, so there is no such file.
        return os.path.normpath(path)


def _is_path(key: str, spellings: set[str]) -> bool:
    """Return whether *key* names a path with one of *spellings*, or a directory above it."""
    if not (plain := key.rstrip("/")) or not spellings:
        return False
    keys = {plain, os.path.normpath(plain)} | ({_resolved(plain)} if os.path.isabs(plain) else set())
    return any(path == each or path.startswith(f"{each}/") for path in spellings for each in keys)


def _is_in_command(key: str, command: str) -> bool:
    """Return whether *command* contains *key* as a word of its own."""
    if len(key) < _MIN_KEY_IN_COMMAND or key not in command:  # Takes no time; the pattern below does.
        return False
    return re.search(rf"(?<![\w./-]){re.escape(key)}(?![\w.-])", command) is not None
