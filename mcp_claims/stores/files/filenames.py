"""File names for keys: injective, also on file systems that fold case, and harmless on every system.

Lower-case letters, digits, `-`, `_` and inner dots stand for themselves; every other byte of the UTF-8 is `%` and two hex
digits.  `%` itself is escaped, so unescaping gives the key back, and two keys never share a name.  A name that would be
too long keeps a readable beginning and ends in `~` and the SHA-256 of the key; `~` is escaped everywhere else.
"""

from __future__ import annotations

import re
from functools import lru_cache

from mcp_claims.model.digest import sha256
from mcp_claims.model.records import ScopedKey

SUFFIX = ".json"
"""Of the file of a record."""
MAX_NAME = 120
"""Characters of a name; with `.json` it fits the 143 bytes of encrypted home directories, the lowest limit in use."""


def _escape(byte: int) -> str:
    return f"%{byte:02x}"


_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
_ESCAPED = [chr(byte) if byte in _PLAIN else _escape(byte) for byte in range(256)]
_PREFIX = 50
# Windows opens a device for these names, whatever comes after the first dot.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
)
_NAME = re.compile(r"[a-z0-9%_~-][a-z0-9%_~.-]*")


def file_name(text: str) -> str:
    """Return the file name, without suffix, for a key or a namespace (valid UTF-8, not empty)."""
    data = text.encode()
    name = escaped(text)
    # A leading dot would be hidden, or `..`; Windows strips a trailing one.
    if name[0] == ".":
        name = _escape(ord(".")) + name[1:]
    if name[-1] == ".":
        name = name[:-1] + _escape(ord("."))
    if name.partition(".")[0] in _DEVICES:
        name = _escape(ord(name[0])) + name[1:]
    if len(name) > MAX_NAME:
        return re.sub(r"%.?$", "", name[:_PREFIX]) + "~" + sha256(data).hex()
    return name


def escaped(text: str) -> str:
    """Return *text* as it stands in a file name that is not cut, at its beginning apart."""
    return "".join([_ESCAPED[byte] for byte in text.encode()])


def may_begin_with(name: str, beginning: str) -> bool:
    """Return whether *name* is that of a key whose `escaped` form begins with *beginning*; of a cut name, whether it may be."""
    readable, cut, _ = name.partition("~")
    return readable.startswith(beginning) or (bool(cut) and beginning.startswith(readable))


@lru_cache(maxsize=64)
def namespace_directory(claims_directory: str, namespace: str) -> str:
    """Return the directory of *namespace* in *claims_directory*."""
    return f"{claims_directory}/{file_name(namespace)}"


@lru_cache(maxsize=256)
def record_path(claims_directory: str, scoped: ScopedKey) -> tuple[str, str]:
    """Return the directory of a namespace in *claims_directory*, and the path of a key's record in it."""
    directory = namespace_directory(claims_directory, scoped.namespace)
    return directory, f"{directory}/{file_name(scoped.key)}{SUFFIX}"


def is_path_of(path: str, claims_directory: str, scoped: ScopedKey) -> bool:
    """Return whether *path* is that of the record of *scoped*, which a scan sees once and need not remember."""
    return path == f"{namespace_directory(claims_directory, scoped.namespace)}/{file_name(scoped.key)}{SUFFIX}"


@lru_cache(maxsize=4_096)
def key_of(name: str, suffix: str) -> str | None:
    """Return the key for which `file_name` returned *name* without *suffix*; `None` if it is cut, or nobody's."""
    plain = name.removesuffix(suffix)
    if not name.endswith(suffix) or "~" in name or not may_be_file_name(name):
        return None
    try:
        return re.sub(rb"%([0-9a-f]{2})", lambda escape: bytes.fromhex(escape[1].decode()), plain.encode()).decode()
    except UnicodeDecodeError:
        return None


def may_be_file_name(name: str) -> bool:
    """Return whether `file_name` can have made *name*; other files in the claims directory are left alone."""
    return _NAME.fullmatch(name) is not None
