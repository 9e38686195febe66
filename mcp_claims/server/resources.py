"""Claims as resources: `claims://all`, one for each namespace and one for each claim, as JSON.

A name in a URI is percent-encoded UTF-8, so `/` never separates anything inside it, and the namespace `all` is
spelled `claims://%61ll`.  What is not there can be read and watched too: a key that nobody holds is free.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from mcp_claims.errors import InvalidInputError
from mcp_claims.model import validation
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.render import phrases, text
from mcp_claims.render.structured import listed_facts
from mcp_claims.server.cursor import read_cursor, spell_cursor
from mcp_claims.session.offload import read_off_loop, scan_off_loop
from mcp_claims.session.results import ClaimPage
from mcp_claims.session.session import Session

ALL = "claims://all"
MAX_SHOWN = 500
"""Claims in one resource; of more it says so, and `list_claims` has pages."""

_SCHEME = "claims://"
_JSON = "application/json"
_PAGE = 50
_READING = anyio.CapacityLimiter(2)

TEMPLATES = ListResourceTemplatesResult(
    resource_templates=[
        ResourceTemplate(
            name="namespace",
            title="Claims of a namespace",
            uri_template="claims://{namespace}",
            description="What is claimed, done or dead in one namespace",
            mime_type=_JSON,
        ),
        ResourceTemplate(
            name="claim",
            title="One claim",
            uri_template="claims://{namespace}/{key}",
            description="Who holds a key, since when, until when",
            mime_type=_JSON,
        ),
    ]
)


def spell_uri(of: ScopedKey | str | None) -> str:
    """Return the URI of a key, a namespace or all (`None`)."""
    if of is None:
        return ALL
    if isinstance(of, ScopedKey):
        return f"{_SCHEME}{_encoded(of.namespace)}/{quote(of.key, safe='')}"
    return f"{_SCHEME}{_encoded(of)}"


def read_uri(uri: str) -> ScopedKey | str | None:
    """Return of what *uri* is: a key, a namespace or all (`None`).

    Raises `MCPError` for one that no resource of this server has.
    """
    if uri == ALL:
        return None
    namespace, slash, key = uri.removeprefix(_SCHEME).partition("/")
    try:
        if not uri.startswith(_SCHEME) or "/" in key:
            raise InvalidInputError("uri", f"must be {ALL}, claims://{{namespace}} or claims://{{namespace}}/{{key}}")
        scoped = validation.scoped_key(_decoded(key) if slash else "any", _decoded(namespace))
    except (InvalidInputError, UnicodeDecodeError) as error:
        # SEP-2164: a resource that is not there is an error of the parameters.
        reason = validation.one_line(f"There is no resource {uri[:200]!r}: {error}")
        raise MCPError(INVALID_PARAMS, reason, {"uri": uri[:2_000]}) from error
    return scoped if slash else scoped.namespace


async def read_resource(claims: Session, uri: str) -> ReadResourceResult:
    """Return what is stored of that which *uri* is of."""
    of = read_uri(uri)
    content: dict[str, Any]
    if isinstance(of, ScopedKey):
        stored = await read_off_loop(claims, partial(claims.stored, of.key, of.namespace))
        content = {"key": of.key, "namespace": of.namespace, "status": "free"}
        for listed in stored.page:
            content = listed_facts(listed, stored.now)
    else:
        listing = await list_in_thread(claims, of, at_most=MAX_SHOWN)
        content = {"claims": [listed_facts(listed, listing.now) for listed in listing.page]}
        if listing.after is not None:
            content["more"] = "list_claims has all of them, in pages"
    text = json.dumps(content, ensure_ascii=False)
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=_JSON, text=text)])


async def list_resources(claims: Session, cursor: str | None) -> ListResourcesResult:
    """Return a page of the resources there are: all, and each namespace before its claims."""
    before, _, after = read_cursor(cursor).partition("\0\0\0")
    listing = await list_in_thread(claims, None, after=after, at_most=_PAGE)
    resources = []
    if cursor is None:
        resources.append(_resource(None, "all claims", "What is claimed, done or dead, everywhere"))
    for listed in listing.page:
        if not isinstance(listed.found, Claim):
            continue
        scoped = listed.found.scoped
        if scoped.namespace != before:
            before = scoped.namespace
            resources.append(_resource(before, f"namespace {before}", "What is claimed, done or dead in it"))
        resources.append(_resource(scoped, scoped.key, text.listed_text(listed, listing.now)))
    following = None if listing.after is None else spell_cursor(f"{before}\0\0\0{listing.after}")
    return ListResourcesResult(resources=resources, next_cursor=following)


async def list_in_thread(claims: Session, namespace: str | None, *, after: str = "", at_most: int) -> ClaimPage:
    """Return `claims.listing` without keeping other calls waiting, as there may be many to read."""
    reading = partial(claims.listing, namespace, after=after, at_most=at_most)
    return await scan_off_loop(claims, reading, _READING)


def _resource(of: ScopedKey | str | None, name: str, description: str) -> Resource:
    shown = phrases.shown(name) or name
    return Resource(uri=spell_uri(of), name=shown, description=description, mime_type=_JSON)


def _encoded(namespace: str) -> str:
    return "%61ll" if namespace == "all" else quote(namespace, safe="")


def _decoded(text: str) -> str:
    return unquote_to_bytes(text).decode()
