"""File names for keys: injective, on file systems that fold case too, and harmless on every system.

Rules (DESIGN.md, N1 to N3): lower-case letters, digits, `-`, `_` and inner dots stand for themselves; every other
byte of the UTF-8 is `%` and two hex digits.  `%` itself is escaped, so unescaping gives the key back, and two keys
never share a name.  What would be too long keeps a readable beginning and ends in `~` and its SHA-256; `~` is
escaped everywhere else.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_NAME = 120
"""Characters of a name; with `.json` it fits the 143 bytes of encrypted home directories, the least in use."""


def _escape(byte: int) -> str:
    return f"%{byte:02x}"


_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
_SPELT = [chr(byte) if byte in _PLAIN else _escape(byte) for byte in range(256)]
_PREFIX = 50
# Windows opens a device for these names, whatever comes after the first dot.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
)
_MADE = r"[a-z0-9%_~-][a-z0-9%_~.-]*"


@lru_cache(maxsize=1_024)
def file_name(text: str) -> str:
    """Return the file name, without suffix, for a key or a namespace (valid UTF-8, not empty)."""
    data = text.encode()
    name = "".join([_SPELT[byte] for byte in data])
    # A leading dot would be hidden, or `..`; Windows strips a trailing one.
    if name[0] == ".":
        name = _escape(ord(".")) + name[1:]
    if name[-1] == ".":
        name = name[:-1] + _escape(ord("."))
    if name.partition(".")[0] in _DEVICES:
        name = _escape(ord(name[0])) + name[1:]
    if len(name) > MAX_NAME:
        import hashlib  # Few need it, and it takes longer than all else here.

        return re.sub(r"%.?$", "", name[:_PREFIX]) + "~" + hashlib.sha256(data).hexdigest()
    return name


def may_be_file_name(name: str) -> bool:
    """Tell whether *name* can be one of ours; whatever else lies in the claims directory is none of our business."""
    return re.fullmatch(_MADE, name) is not None
