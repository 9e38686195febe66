"""Which claims conflict, and how keys that name files are written.  Pure: no file, no git.

`session/places.py` makes a `file:` key canonical: an absolute path, which names itself, or with `/` at its end itself and
everything below it.  `*` and `?` match within one component, `**` as a whole component matches any number of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mcp_claims.model.records import ScopedKey

PLACES = "places"
"""The namespace of all resolved keys: two sessions that write one file exclude each other, whatever namespace they name."""

FILE, BRANCH = "file:", "branch:"
FORMS = (FILE, BRANCH)
"""How keys begin that have a meaning; every other key is opaque."""

_ON_A_HOST = "file://"
_ANY_DEPTH = "**"
_WILDCARD = re.compile("[*?]")


def is_file_key(scoped: ScopedKey) -> bool:
    """Return whether *scoped* names files, so that it can overlap with others."""
    return scoped.namespace == PLACES and scoped.key.startswith(FILE)


def is_branch_key(scoped: ScopedKey) -> bool:
    """Return whether *scoped* names a branch of a repository."""
    return scoped.namespace == PLACES and scoped.key.startswith(BRANCH)


def is_pattern(path: str) -> bool:
    """Return whether a path, a component of one or a file key has a wildcard."""
    return "*" in path or "?" in path


def conflict(one: ScopedKey, other: ScopedKey) -> bool:
    """Return whether claims on *one* and *other* exclude each other, if each is for one session alone."""
    one, other = one.base, other.base
    return one == other or (is_file_key(one) and is_file_key(other) and overlap(one.key, other.key))


def overlap(one: str, other: str) -> bool:
    """Return whether two canonical file keys both name some path, or one lies below what the other takes for a file.

    Whoever claims a path that does not exist yet may make a directory there.  Each component of *one* costs one step on an
    integer with a bit per component of *other*; each pair is compared once.
    """
    if one.startswith(_ON_A_HOST) != other.startswith(_ON_A_HOST):
        return False
    # Most keys differ before any wildcard, and a claim is compared with all patterns.
    beginning, other_beginning = _WILDCARD.split(one, 1)[0], _WILDCARD.split(other, 1)[0]
    if not (beginning.startswith(other_beginning) or other_beginning.startswith(beginning)):
        return False
    return (
        _lies_below(one, other) or _lies_below(other, one) or _some_path_matches(_components(one), _components(other))
    )


def above(key: str) -> Iterator[str]:
    """Yield the other file keys without wildcards that overlap with *key* and do not lie below it.

    They are the directories above it and the files of those names, down to its first wildcard, the root first; and the
    directory or the file of its own name.
    """
    names = literal_beginning(key).split("/")
    for depth in range(3 if key.startswith(_ON_A_HOST) else 1, len(names) + 1):
        path = "/".join(names[:depth])
        yield from (each for each in (f"{path}/", path) if each not in (key, FILE))


def literal_beginning(key: str) -> str:
    """Return the deepest path without wildcards that all paths of a file key lie at or below, without `/` at its end."""
    names = key.removesuffix("/").split("/")
    return "/".join(names[: next((at for at, name in enumerate(names) if is_pattern(name)), len(names))])


def local_path(key: str) -> str | None:
    """Return the path of a file key of this machine; `None` for one of a host, which may be another machine."""
    return None if key.startswith(_ON_A_HOST) else key.removeprefix(FILE)


def canonical_components(names: Iterable[str], *, is_directory: bool) -> list[str]:
    """Return the components of a path in the only form in which keys have them, the last one empty for a directory.

    Without empty ones and `.`, and with `/` at the end for `/**`: two texts for one set of paths would be two keys, and their
    holder could not renew the one by the other.
    """
    result: list[str] = []
    for name in names:
        if name not in ("", ".") and not (name == _ANY_DEPTH and result[-1:] == [_ANY_DEPTH]):
            result.append(name if name == _ANY_DEPTH else re.sub(r"\*+", "*", name))
    if result[-1:] == [_ANY_DEPTH]:
        return [*result[:-1], ""]
    return [*result, ""] if is_directory or not result else result


def _lies_below(key: str, path: str) -> bool:
    """Return whether all that *key* names lies below *path*, which is written as that of a file."""
    return not path.endswith("/") and not is_pattern(path) and f"{literal_beginning(key)}/".startswith(f"{path}/")


def _components(key: str) -> list[str]:
    """Return the components of a file key, with `**` for all below a directory."""
    names = key.split("/")
    return names if names[-1] else [*names[:-1], _ANY_DEPTH]


def _some_path_matches(one: list[str], other: list[str]) -> bool:
    # Bit n: the path so far matches what has been read of *one*, and the first n components of *other*.
    any_depth = sum(1 << at for at, name in enumerate(other) if name == _ANY_DEPTH)
    fitting: dict[str, int] = {}
    end = 1 << len(other)
    reached = 1
    for name in one:
        if name == _ANY_DEPTH:
            reached = 2 * end - (reached & -reached)  # From the first of these positions on, all.
            continue
        if name not in fitting:
            fitting[name] = sum(
                1 << at for at, each in enumerate(other) if name == each or _some_name_matches(name, each)
            )
        reached = (reached & any_depth) | (reached & fitting[name] & ~any_depth) << 1
        reached |= (reached & any_depth) << 1
        if not reached:
            return False
    return bool(reached & end)


def _some_name_matches(one: str, other: str) -> bool:
    """Return whether some name matches both of two different components."""
    if not one or not other or not (is_pattern(one) or is_pattern(other)):
        return False
    # Most names differ at an end; a new pattern is compared with all names in its directory.
    if any(one[end] != other[end] and not is_pattern(one[end] + other[end]) for end in (0, -1)):
        return False
    # Bit n: the name so far matches what has been read of *one*, and the first n characters of *other*.
    stars = marks = 0
    literals: dict[str, int] = {}
    for position, character in enumerate(other):
        if character == "*":
            stars |= 1 << position
        elif character == "?":
            marks |= 1 << position
        else:
            literals[character] = literals.get(character, 0) | 1 << position
    end = 1 << len(other)
    reached = 1 | (1 & stars) << 1
    for character in one:
        if character == "*":
            reached = 2 * end - (reached & -reached)
        else:
            fitting = (end - 1) & ~stars if character == "?" else literals.get(character, 0) | marks
            reached = (reached & fitting) << 1 | (reached & stars)
            reached |= (reached & stars) << 1
        if not reached:
            return False
    return bool(reached & end)
