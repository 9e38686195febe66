"""Holding a key for a block of code: acquired before it, kept alive by choice, released after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from mcp_claims.errors import NotClaimedError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import acquire
from mcp_claims.session.keepalive import KeepAliveThread
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.stores.base import LOCK_TIMEOUT

if TYPE_CHECKING:
    from mcp_claims.session.session import Session


@contextmanager
def hold(session: Session, request: ClaimRequest) -> Iterator[Claim]:
    """Hold the key of *request* for the block, as `Session.claim` promises."""
    claim = _new_grant(session, request, acquire(session, request))
    try:
        with _kept_alive(session, claim, request):
            yield claim
    finally:
        session.release_own(claim, LOCK_TIMEOUT)


@asynccontextmanager
async def hold_async(session: Session, request: ClaimRequest) -> AsyncIterator[Claim]:
    """Hold the key of *request* for the block, as `Session.claim_async` promises."""
    # Only here is an event loop needed, whose library takes as long to import as a short command.
    from mcp_claims.session.offload import acquire_async, release_async

    claim = _new_grant(session, request, await acquire_async(session, request))
    try:
        with _kept_alive(session, claim, request):
            yield claim
    finally:
        await release_async(session, claim)


def _kept_alive(session: Session, grant: Claim, request: ClaimRequest) -> AbstractContextManager[object]:
    return KeepAliveThread(session, grant, request.ttl) if request.keep_alive else nullcontext()


def _new_grant(session: Session, request: ClaimRequest, result: ClaimResult) -> Claim:
    if result.status is not Status.ACQUIRED or not isinstance(result.found, Claim):
        session.undo(result)  # Of several keys some may be new, and others held by another block.
        raise NotClaimedError(_refusal(request.scoped, result), result)
    return result.found


def _refusal(scoped: ScopedKey, result: ClaimResult) -> str:
    found = result.found
    if not isinstance(found, Claim):
        return f"{scoped.key!r} counts as held: {found.where} cannot be read ({found.problem})"
    if result.status is Status.RENEWED:
        return f"{scoped.key!r} is held by this session already"
    verb = "is held" if result.status is Status.HELD else "was done"
    return f"{found.scoped.key!r} {verb} by {found.holder.name}"
