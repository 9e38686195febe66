"""The file with the secret that signs session handles."""

from __future__ import annotations

import errno
import stat
import sys

from mcp_claims.stores.base import SECRET_BYTES
from mcp_claims.stores.kernel import READ, Kernel

_SPELT_BYTES = 2 * SECRET_BYTES + 1


def spell_secret(secret: bytes) -> bytes:
    """Return what to write for *secret*: hexadecimal digits and a line break."""
    return secret.hex().encode() + b"\n"


def read_secret(kernel: Kernel, path: str) -> bytes | None:
    """Read the secret at *path*; `None` if there is none.

    Raises `OSError` for a file that others can read or that is not a secret.  It is never replaced on our own account:
    every handle given so far would be void.
    """
    try:
        fd = kernel.open(path, READ)
    except FileNotFoundError:
        return None
    try:
        status = kernel.status(fd)
        data = kernel.read(fd, _SPELT_BYTES + 1)
    finally:
        kernel.close(fd)
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
