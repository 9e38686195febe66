"""Bearer tokens: who may call over HTTP."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from mcp.server.auth.provider import AccessToken

from mcp_claims.errors import InvalidInputError
from mcp_claims.server.log import logger

TOKEN_VARIABLE = "MCP_CLAIMS_TOKEN"
TOKEN_FILE_VARIABLE = "MCP_CLAIMS_TOKEN_FILE"
_SHORTEST = 16
_MOST_BYTES = 1 << 20


class Tokens:
    """The accepted tokens.  Each is a caller of its own: its session handles work for no other token."""

    def __init__(self, tokens: list[str]) -> None:
        self._digests = [hashlib.sha256(token.encode()).digest() for token in tokens]

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return the caller that *token* identifies, or `None`; the time taken reveals nothing about accepted tokens."""
        known = self._matching(token)
        return AccessToken(token="", client_id=f"token {known[0].hex()[:16]}", scopes=[]) if known else None

    def accepts(self, token: str) -> bool:
        """Return whether *token* is accepted."""
        return bool(self._matching(token))

    def _matching(self, token: str) -> list[bytes]:
        given = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        # All are compared, so that the time does not depend on which one matches.
        return [digest for digest in self._digests if hmac.compare_digest(digest, given)]


def read_tokens(file: str | None, environment: Mapping[str, str] = os.environ) -> Tokens | None:
    """Read the tokens in *file* or in the file that MCP_CLAIMS_TOKEN_FILE names, one a line, and that in MCP_CLAIMS_TOKEN.

    Returns `None` if neither is set.  Raises `InvalidInputError` for a file that cannot be read or that others can write,
    and for a token of fewer than 16 characters; the message never shows a token.  Logs a warning for a file that every
    user can read.
    """
    tokens = []
    path = file or environment.get(TOKEN_FILE_VARIABLE)
    if path is not None:
        tokens += _in_file("--token-file" if file else TOKEN_FILE_VARIABLE, Path(path))
    if (single := environment.get(TOKEN_VARIABLE)) is not None:
        tokens.append(_checked(TOKEN_VARIABLE, single.strip()))
    return Tokens(tokens) if tokens else None


def _in_file(name: str, path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_MOST_BYTES).decode()
    except (OSError, ValueError) as error:
        raise InvalidInputError(name, f"cannot be read: {error}") from error
    if sys.platform != "win32" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidInputError(name, "must not be a file that others can write (chmod 600 it)")
    if sys.platform != "win32" and mode & stat.S_IROTH:
        # Not refused: containers mount secrets that way, and have no other users.
        logger.warning("the file that %s names can be read by every user of this machine (chmod 600 it)", name)
    lines = [line.strip() for line in text.splitlines()]
    tokens = [_checked(name, line) for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise InvalidInputError(name, "has no token in it")
    return tokens


def _checked(name: str, token: str) -> str:
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInputError(name, f"must hold tokens of at least {_SHORTEST} printable ASCII characters, no spaces")
    return token
