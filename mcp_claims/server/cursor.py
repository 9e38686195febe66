"""Cursors: where the next page of a list begins, in a form that a model copies faithfully."""

from __future__ import annotations

import base64
import binascii

from mcp_claims.errors import InvalidInputError


def spell_cursor(position: str) -> str:
    """Return the cursor for *position*."""
    return base64.urlsafe_b64encode(position.encode(errors="surrogateescape")).rstrip(b"=").decode()


def read_cursor(cursor: str | None) -> str:
    """Return the position of *cursor*, the beginning for none; raise `InvalidInputError` if it is not one of ours."""
    if cursor is None:
        return ""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return data.decode(errors="surrogateescape")
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError("cursor", "must be exactly what list_claims returned") from error
