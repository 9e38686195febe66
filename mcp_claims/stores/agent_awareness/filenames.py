"""The original's file names: the directory of a plugin, the file of a key, the lock directory of that file.

The original (`claimFile`) uses the plugin's name as a directory and replaces `/`, `\\`, `#` and `:` in the key by `_`.
Two keys can thus share a file.  A record of mcp-claims contains the key that is claimed; a record of the
original has no key and claims all of them.
"""

from __future__ import annotations

import re
import sys

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.digest import sha256
from mcp_claims.model.records import ScopedKey

RECORD_SUFFIX = ".json"
LOCK_SUFFIX = ".json.lock"

NEW_RECORD = ".new"
"""Where a record is written before it gets its name."""

OLD_RECORD = ".old"
"""Where a record is moved before it is replaced or removed."""

NEW_META = ".meta"
"""Where the meta.json of a lock is written before the lock is made."""

OLD_META = ".broken"
"""Where the meta.json of a lock is moved before the lock is removed."""

# One fixed name each: only the process that holds the kernel lock of the directory uses them.
_OWN_FILES = (".lock", NEW_RECORD, OLD_RECORD, NEW_META, OLD_META)

_REPLACED_BY_THE_ORIGINAL = re.compile(r"[/\\#:]")
_LONGEST_NAME = 255  # bytes
_KEPT_OF_A_LONG_NAME = 100  # bytes


def record_path(claims_directory: str, scoped: ScopedKey) -> str:
    """Return the path of the record of *scoped*; raises `InvalidInputError` as `namespace_directory` does."""
    return f"{namespace_directory(claims_directory, scoped.namespace)}/{record_name(scoped.key)}{RECORD_SUFFIX}"


def lock_path(record: str) -> str:
    """Return the path of the lock directory of the record at the path *record*."""
    return f"{record.removesuffix(RECORD_SUFFIX)}{LOCK_SUFFIX}"


def namespace_directory(claims_directory: str, namespace: str) -> str:
    """Return the directory of *namespace*; `@scope/plugin` is a directory in a directory, as the original makes it.

    Raises `InvalidInputError` for a namespace that would leave the claims directory, or whose directory would have the
    name of a record, of a lock or of one of our own files.
    """
    parts = namespace.split("/")
    if any(map(_is_reserved, parts)) or (sys.platform == "win32" and "\\" in namespace):
        raise InvalidInputError(
            "namespace",
            "must be the name of a plugin's directory in this layout: no part of it between slashes may be empty, a "
            "dot, two dots, `.lock`, `.new`, `.old`, `.meta` or `.broken`, or end in `.json` or `.json.lock`",
        )
    return "/".join([claims_directory, *(_shortened(part, "") for part in parts)])


def record_name(key: str) -> str:
    """Return the name of the record of *key*, without its suffix."""
    return _shortened(_REPLACED_BY_THE_ORIGINAL.sub("_", key), LOCK_SUFFIX)


def is_record_name(name: str) -> bool:
    """Return whether *name*, without its suffix, is the name of the record of some key."""
    try:
        return bool(name) and record_name(name) == name
    except UnicodeEncodeError:
        return False


def _is_reserved(part: str) -> bool:
    return part in ("", ".", "..", *_OWN_FILES) or part.endswith((RECORD_SUFFIX, LOCK_SUFFIX))


def _shortened(name: str, suffix: str) -> str:
    # The original fails with ENAMETOOLONG, so it has no claim under a longer name: any name that fits will do.
    data = name.encode()
    if len(data) + len(suffix) <= _LONGEST_NAME:
        return name
    return f"{data[:_KEPT_OF_A_LONG_NAME].decode(errors='ignore')}~{sha256(data).hex()}"
