"""The branches that a `git push` in a shell command is about, by its words; git's own hook sees what is really pushed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress

from mcp_claims.errors import InvalidInputError
from mcp_claims.guard.commands import Push
from mcp_claims.model.keys import BRANCH
from mcp_claims.model.records import ScopedKey
from mcp_claims.model.validation import scoped_key
from mcp_claims.session.places import Resolver

_GIT_TIMEOUT = 0.5  # s
_MAX_REFS = 8
_WITH_VALUE = frozenset({"-o", "--push-option", "--receive-pack", "--exec", "--repo"})


def pushed_branches(push: Push) -> list[ScopedKey]:
    """Return the keys of the branches to which *push* pushes: those that it names, or the one that is checked out.

    Empty where git does not push, as outside of a repository.
    """
    remote, names = _operands(push)
    resolver = Resolver(push.directory)
    keys: list[ScopedKey] = []
    for name in names or _current(push.directory):
        is_url = remote is not None and (":" in remote or os.sep in remote)
        text = name if remote is None else f"{remote}:{name}" if is_url else f"{remote}/{name}"
        with suppress(InvalidInputError, ValueError):  # A NUL or half a surrogate pair is in no path.
            keys.append(resolver.resolve(scoped_key(f"{BRANCH}{text}")))
    return keys


def _operands(push: Push) -> tuple[str | None, list[str]]:
    """Return the remote, if there is one, and the branches there that are named."""
    words, operands = iter(push.words), []
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            operands.append(word)
    names = [
        each.removeprefix("+").rpartition(":")[2].removeprefix("refs/heads/") for each in operands[1 : _MAX_REFS + 1]
    ]
    return (operands[0] if operands else None), names


def _current(directory: str) -> Iterator[str]:
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "symbolic-ref", "--short", "HEAD"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_TIMEOUT,
            check=True,
        )
        yield os.fsdecode(done.stdout).strip()
