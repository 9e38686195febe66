"""Claims as resources: `claims://all`, one for each namespace and one for each claim, as JSON; and completion.

A name in a URI is percent-encoded UTF-8, so `/` never separates anything inside it, and the namespace `all` is
written `claims://%61ll`.  Every key and namespace has a resource, stored or not: a key that nobody holds is free.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    Completion,
    CompletionArgument,
    CompletionContext,
    ListResourceTemplatesResult,
    ReadResourceResult,
    ResourceTemplate,
    TextResourceContents,
)

from mcp_claims.errors import InvalidInputError
from mcp_claims.model import validation
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.model.text import one_line
from mcp_claims.render.listed import listed_facts
from mcp_claims.server.resource_list import ALL, JSON_TYPE, SCHEME
from mcp_claims.session.offload import run_read, run_scan
from mcp_claims.session.results import ClaimPage
from mcp_claims.session.session import Session

MAX_SHOWN = 500
"""Claims in one resource; a resource with more has a field `more`, which points to the pages of `list_claims`."""

_MAX_COMPLETIONS = 100  # the limit of the protocol
_MAX_COMPLETION_SCAN = 5_000

TEMPLATES = ListResourceTemplatesResult(
    resource_templates=[
        ResourceTemplate(
            name="namespace",
            title="Claims of a namespace",
            uri_template="claims://{namespace}",
            description="What is claimed, done or dead in one namespace",
            mime_type=JSON_TYPE,
        ),
        ResourceTemplate(
            name="claim",
            title="One claim",
            uri_template="claims://{namespace}/{key}",
            description="Who holds a key, since when, until when",
            mime_type=JSON_TYPE,
        ),
    ]
)


def target_of(uri: str) -> ScopedKey | str | None:
    """Return the key, the namespace or all (`None`) that *uri* names.

    Raises `MCPError` for a URI that no resource of this server has.
    """
    if uri == ALL:
        return None
    namespace, slash, key = uri.removeprefix(SCHEME).partition("/")
    try:
        if not uri.startswith(SCHEME) or "/" in key:
            raise InvalidInputError("uri", f"must be {ALL}, claims://{{namespace}} or claims://{{namespace}}/{{key}}")
        scoped = validation.scoped_key(_decoded(key) if slash else "any", _decoded(namespace))
    except (InvalidInputError, UnicodeDecodeError) as error:
        # SEP-2164: a resource that does not exist is an error of the parameters.
        reason = one_line(f"There is no resource {uri[:200]!r}: {error}")
        raise MCPError(INVALID_PARAMS, reason, {"uri": uri[:2_000]}) from error
    return scoped if slash else scoped.namespace


async def read_resource(session: Session, uri: str) -> ReadResourceResult:
    """Return the stored claims that *uri* names."""
    target = target_of(uri)
    content: dict[str, Any]
    if isinstance(target, ScopedKey):
        page = await run_read(session, partial(session.read, target.key, target.namespace))
        content = {"key": target.key, "namespace": target.namespace, "state": "free"}
        for listed in page.claims:
            content = {**listed_facts(listed, page.now)}
    else:
        page = await scan_page(session, target, limit=MAX_SHOWN)
        content = {"claims": [listed_facts(listed, page.now) for listed in page.claims]}
        if page.after is not None:
            content["more"] = "list_claims has all of them, in pages"
    text = json.dumps(content, ensure_ascii=False)
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=JSON_TYPE, text=text)])


async def complete(session: Session, argument: CompletionArgument, context: CompletionContext | None) -> Completion:
    """Return the keys or namespaces in use that begin with *argument*, whatever their case."""
    namespace = None
    if argument.name == "key":
        namespace = ((context and context.arguments) or {}).get("namespace")
    elif argument.name != "namespace":
        return Completion(values=[])
    try:
        page = await scan_page(session, namespace, limit=_MAX_COMPLETION_SCAN)
    except InvalidInputError:
        return Completion(values=[])  # No namespace can have the name that the client passed.
    keys = [listed.found.scoped for listed in page.claims if isinstance(listed.found, Claim)]
    names = {scoped.key if argument.name == "key" else scoped.namespace for scoped in keys}
    # Other people's text: a name that does not fit on a line cannot be chosen from a list either.
    fitting = sorted(
        name for name in names if name.casefold().startswith(argument.value.casefold()) and one_line(name) == name
    )
    return Completion(
        values=fitting[:_MAX_COMPLETIONS],
        total=len(fitting) if page.after is None else None,
        has_more=len(fitting) > _MAX_COMPLETIONS or page.after is not None,
    )


async def scan_page(session: Session, namespace: str | None, *, after: str = "", limit: int) -> ClaimPage:
    """Return a page of claims without blocking other calls, since there may be many to read."""
    return await run_scan(session, partial(session.list_claims, namespace, after=after, limit=limit))


def _decoded(text: str) -> str:
    return unquote_to_bytes(text).decode()
