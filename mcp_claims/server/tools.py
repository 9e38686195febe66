"""The tools: what each of them runs; `definitions` says what a host is told of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
from mcp_types import CallToolResult, TextContent

from mcp_claims.model import validation
from mcp_claims.model.records import Claim, Outcome
from mcp_claims.render import text
from mcp_claims.server.cursor import read_cursor, spell_cursor
from mcp_claims.server.registry import Caller, SessionEntry, SessionRegistry
from mcp_claims.server.results import (
    Answer,
    attempt_result,
    list_result,
    look_result,
    opened_result,
    prune_result,
    release_result,
)
from mcp_claims.server.schemas import (
    ListArguments,
    LookArguments,
    OpenSessionArguments,
    PruneArguments,
    ReleaseArguments,
    TryClaimArguments,
    parse,
)
from mcp_claims.session.acquire import Report, acquire_async
from mcp_claims.session.offload import read_off_loop, run_off_loop, scan_off_loop
from mcp_claims.session.results import ClaimResult
from mcp_claims.session.session import Session

INSTRUCTIONS = (
    "Several agents see the same event; exactly one may act. Before you act on an event (red CI, review comment, "
    "alert), call try_claim with a key that every agent would derive alike. claimed=true: you act. claimed=false: do "
    "not act, report who does or has done it. Call release with an outcome when done. If the work takes longer than ttl_minutes, call try_claim again "
    "before it expires. Read each answer: it tells you if you lost a claim; then stop."
)


# Threads of their own: the SDK reads stdin in those that everybody shares.
_PRUNING = anyio.CapacityLimiter(2)


Call = Callable[[SessionRegistry, Caller, dict[str, Any] | None, Report], Awaitable[CallToolResult]]


async def _try_claim(
    sessions: SessionRegistry, caller: Caller, arguments: dict[str, Any] | None, report: Report
) -> CallToolResult:
    asked = parse(TryClaimArguments, arguments)
    session = await _acting(sessions, caller, asked.session)
    scoped, patience = validation.scoped_key(asked.key, asked.namespace), validation.patience(asked.wait_seconds)

    def attempt_once(lock_timeout: float) -> ClaimResult:
        return session.session.try_claim(
            asked.key,
            asked.namespace,
            ttl_minutes=asked.ttl_minutes,
            note=asked.note,
            redo=asked.redo,
            lock_timeout=lock_timeout,
        )

    attempt = await acquire_async(session.session, scoped, attempt_once, patience, report)
    kept = False
    if asked.keep_alive and attempt.claimed and isinstance(attempt.found, Claim):
        kept = True
        sessions.keep(session, attempt.found, asked.ttl_minutes)
    return _answer(attempt_result(scoped, attempt, kept), text.attempt_lead(scoped, attempt))


async def _is_claimed_by_other(
    sessions: SessionRegistry,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,
) -> CallToolResult:
    asked = parse(LookArguments, arguments)
    claims = await _looking(sessions, caller, asked.session)
    look = await read_off_loop(claims, partial(claims.inspect, asked.key, asked.namespace, generation=asked.generation))
    scoped = validation.scoped_key(asked.key, asked.namespace)
    return _answer(look_result(scoped, look), text.look_lead(scoped, look))


async def _release(
    sessions: SessionRegistry,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,
) -> CallToolResult:
    asked = parse(ReleaseArguments, arguments)
    session = await _acting(sessions, caller, asked.session)
    scoped = validation.scoped_key(asked.key, asked.namespace)
    release = await run_off_loop(
        session.session,
        lambda lock_timeout: session.session.release(
            asked.key,
            asked.namespace,
            outcome=Outcome(asked.outcome) if asked.outcome else None,
            note=asked.note,
            retention_hours=sessions.retention_hours if asked.retention_hours is None else asked.retention_hours,
            lock_timeout=lock_timeout,
        ),
    )
    session.keep_alive.stop(scoped)
    return _answer(release_result(scoped, release), text.release_lead(scoped, release))


async def _list_claims(
    sessions: SessionRegistry,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,
) -> CallToolResult:
    asked = parse(ListArguments, arguments)
    after = read_cursor(asked.cursor)
    claims = await _looking(sessions, caller, asked.session)
    list_page = partial(claims.listing, asked.namespace, mine=asked.mine, after=after)
    # In a thread, as there may be many to read before the first that is asked for.
    listing = await scan_off_loop(claims, list_page, _PRUNING)
    cursor = None if listing.after is None else spell_cursor(listing.after)
    return _answer(list_result(listing, cursor), text.list_lead(listing), between="\n")


async def _open_session(
    sessions: SessionRegistry,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,
) -> CallToolResult:
    asked = parse(OpenSessionArguments, arguments)
    await read_off_loop(sessions.read_only, sessions.know_handles)
    handle, session = sessions.open(asked.label, caller)
    holder = session.session.holder.name
    return _answer(opened_result(handle, holder), text.opened_lead(handle, holder))


async def _prune(
    sessions: SessionRegistry,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,
) -> CallToolResult:
    asked = parse(PruneArguments, arguments)
    claims = sessions.reader_for(caller, None)
    # Always in a thread: there may be 100,000 claims to read.
    pruned = await scan_off_loop(claims, partial(claims.prune, asked.namespace), _PRUNING)
    return _answer(prune_result(pruned), text.prune_lead(pruned))


async def _acting(sessions: SessionRegistry, caller: Caller, handle: str | None) -> SessionEntry:
    if handle is not None:
        await read_off_loop(sessions.read_only, sessions.know_handles)
    return sessions.session_for(caller, handle)


async def _looking(sessions: SessionRegistry, caller: Caller, handle: str | None) -> Session:
    if handle is not None:
        await read_off_loop(sessions.read_only, sessions.know_handles)
    return sessions.reader_for(caller, handle)


def _answer(answer: Answer, lead: str, *, between: str = " ") -> CallToolResult:
    """Answer *answer*, and in words what is the case, *lead*, and what to do."""
    text = f"{lead}{between}{answer['advice']}"
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=answer)


TOOLS: dict[str, Call] = {
    call.__name__.removeprefix("_"): call
    for call in (_try_claim, _is_claimed_by_other, _release, _list_claims, _open_session, _prune)
}
