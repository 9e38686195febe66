"""File names as the original makes them, so that its sessions and ours meet in the same file (DESIGN.md, A2).

A plugin is a directory by its own name, a key is a file in it with `/`, `\\`, `#` and `:` replaced by `_`.  That is
not injective; the store tells keys that share a file apart by what is in the file.
"""

from __future__ import annotations

import hashlib
import re
import sys
from functools import lru_cache

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.records import ScopedKey

RECORD = ".json"
LOCK = ".json.lock"
"""A record's lock is beside it; its own name, without these endings, is the same."""

_REPLACED = re.compile(r"[/\\#:]")
_MAX_BYTES = 255
_KEPT_BYTES = 100
# What else is in a plugin's directory: records, locks, and the files of ours, which begin with a dot.
_TAKEN = re.compile(r".*\.json|.*\.json\.lock|\.lock|\.new|\.old|\.meta|\.broken")


@lru_cache(maxsize=1_024)
def place(directory: str, scoped: ScopedKey) -> tuple[str, str]:
    """Return the directory and the record's path for *scoped* in the claims directory *directory*."""
    inside = namespace_directory(directory, scoped.namespace)
    return inside, f"{inside}/{record_name(scoped.key)}{RECORD}"


def namespace_directory(directory: str, namespace: str) -> str:
    """Return the directory of *namespace*.

    `@scope/plugin` is a directory in a directory, as the original's `join` makes it.  Raises `InvalidInputError` for
    what it would turn into another path, or for a path that belongs to something else.
    """
    parts = namespace.split("/")
    if any(part in ("", ".", "..") or _TAKEN.fullmatch(part) for part in parts) or (
        sys.platform == "win32" and "\\" in namespace
    ):
        raise InvalidInputError(
            "namespace",
            "must be the name of a plugin's directory in this layout: no part of it between slashes may be empty, a "
            "dot, two dots, `.lock`, `.new`, `.old`, `.meta` or `.broken`, or end in `.json` or `.json.lock`",
        )
    return "/".join([directory, *(_short_enough(part, "") for part in parts)])


def record_name(key: str) -> str:
    """Return the name of the record of *key*, without its ending."""
    return _short_enough(_REPLACED.sub("_", key), LOCK)


def is_record_name(name: str) -> bool:
    """Tell whether some key has the record *name*, given without its ending."""
    try:
        return bool(name) and record_name(name) == name
    except UnicodeEncodeError:
        return False


def _short_enough(name: str, ending: str) -> str:
    # The original cannot make a longer name, so it has no claim on such a key, and the name is ours to choose.
    data = name.encode()
    if len(data) + len(ending) <= _MAX_BYTES:
        return name
    return f"{data[:_KEPT_BYTES].decode(errors='ignore')}~{hashlib.sha256(data).hexdigest()}"
