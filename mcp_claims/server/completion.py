"""Completing names of namespaces and keys, for the templates of resources and the prompt."""

from __future__ import annotations

from mcp_types import Completion, CompletionArgument, CompletionContext

from mcp_claims.errors import InvalidInputError
from mcp_claims.model import validation
from mcp_claims.model.records import Claim
from mcp_claims.server.resources import list_in_thread
from mcp_claims.session.session import Session

_MOST = 100
"""Values in one answer, as the protocol has it."""

_LOOKED_AT = 5_000
"""Claims that are looked through for names; of more, the first in the order of the store."""


async def complete(claims: Session, argument: CompletionArgument, context: CompletionContext | None) -> Completion:
    """Return the names in use that begin as *argument* does, in any case; none for other arguments."""
    within = None
    if argument.name == "key":
        within = ((context and context.arguments) or {}).get("namespace")
    elif argument.name != "namespace":
        return Completion(values=[])
    try:
        listing = await list_in_thread(claims, within, at_most=_LOOKED_AT)
    except InvalidInputError:
        return Completion(values=[])  # No namespace has the name that was chosen before.
    scoped = [listed.found.scoped for listed in listing.page if isinstance(listed.found, Claim)]
    names = {each.key if argument.name == "key" else each.namespace for each in scoped}
    # Text of others: what cannot be shown on a line cannot be chosen from a list either.
    fitting = sorted(
        name
        for name in names
        if name.casefold().startswith(argument.value.casefold()) and validation.one_line(name) == name
    )
    return Completion(
        values=fitting[:_MOST],
        total=len(fitting) if listing.after is None else None,
        has_more=len(fitting) > _MOST or listing.after is not None,
    )
