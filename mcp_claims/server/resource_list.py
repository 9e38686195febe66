"""The list of resources, as `resources/list` answers it, and the URIs in it.  Knows neither the SDK nor an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.render import phrases
from mcp_claims.render.listed import listed_line
from mcp_claims.render.lists import decode_cursor, encode_cursor
from mcp_claims.session.results import ClaimPage
from mcp_claims.session.session import Session

SCHEME = "claims://"
ALL = f"{SCHEME}all"
JSON_TYPE = "application/json"

_PAGE = 50
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986, 2.3
_CURSOR_SEPARATOR = "\0\0\0"

Scan = Callable[[Session, Callable[[], ClaimPage]], Awaitable[ClaimPage]]
"""Runs a scan of a session without blocking other calls."""


def uri_of(target: ScopedKey | str | None) -> str:
    """Return the URI of a key, a namespace or all (`None`)."""
    if target is None:
        return ALL
    if isinstance(target, ScopedKey):
        return f"{SCHEME}{_encoded(target.namespace)}/{_percent_encoded(target.key)}"
    return f"{SCHEME}{_encoded(target)}"


async def resource_page(session: Session, scan: Scan, cursor: str | None) -> dict[str, Any]:
    """Return a page of `resources/list`, of up to 50 claims: first `claims://all`, and each namespace before its claims.

    Raises `InvalidInputError` for a *cursor* that is not from such a page, and what *scan* raises.
    """
    last_namespace, _, after = decode_cursor(cursor).partition(_CURSOR_SEPARATOR)
    page = await scan(session, partial(session.list_claims, None, after=after, limit=_PAGE))
    resources = []
    if cursor is None:
        resources.append(_resource(None, "all claims", "What is claimed, done or dead, everywhere"))
    for listed in page.claims:
        if not isinstance(listed.found, Claim):
            continue
        scoped = listed.found.scoped
        if scoped.namespace != last_namespace:
            last_namespace = scoped.namespace
            description = "What is claimed, done or dead in it"
            resources.append(_resource(last_namespace, f"namespace {last_namespace}", description))
        resources.append(_resource(scoped, scoped.key, listed_line(listed, page.now)))
    made: dict[str, Any] = {"resources": resources}
    if page.after is not None:
        made["nextCursor"] = encode_cursor(f"{last_namespace}{_CURSOR_SEPARATOR}{page.after}")
    return made


def _resource(target: ScopedKey | str | None, name: str, description: str) -> dict[str, str]:
    return {
        "uri": uri_of(target),
        "name": phrases.shown(name),
        "description": description,
        "mimeType": JSON_TYPE,
    }


def _encoded(namespace: str) -> str:
    # `claims://all` is the list of all claims, so the namespace of that name needs another URI.
    return "%61ll" if namespace == "all" else _percent_encoded(namespace)


def _percent_encoded(text: str) -> str:
    # `urllib.parse` would take 2 ms of the start of each session.
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in text.encode())
