"""The tools: name, description for the model that decides whether to call, schemas, hints, and what they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from mcp_types import CallToolResult, TextContent, Tool, ToolAnnotations

from mcp_claims import rules, wording
from mcp_claims.answers import Attempt
from mcp_claims.claims import Claims
from mcp_claims.patience import Report, claim_patiently
from mcp_claims.record import Claim, Outcome
from mcp_claims.server.arguments import (
    Arguments,
    ListArguments,
    LookArguments,
    OpenSessionArguments,
    PruneArguments,
    ReleaseArguments,
    TryClaimArguments,
    parse,
)
from mcp_claims.server.cursor import read_cursor, spell_cursor
from mcp_claims.server.results import (
    Answer,
    ListResult,
    LookResult,
    OpenSessionResult,
    PruneResult,
    ReleaseResult,
    Result,
    TryClaimResult,
    attempt_result,
    list_result,
    look_result,
    opened_result,
    prune_result,
    release_result,
)
from mcp_claims.server.schema import compact_schema
from mcp_claims.sessions import Caller, Sessions
from mcp_claims.sessions.registry import Session
from mcp_claims.waiting import looking, reading_many, without_blocking

INSTRUCTIONS = (
    "Several agents see the same event; exactly one may act. Before you act on an event (red CI, review comment, "
    "alert), call try_claim with a key that every agent would derive alike. claimed=true: you act. claimed=false: do "
    "not act, report who does or has done it. Call release with an outcome when done. If the work takes longer than ttl_minutes, call try_claim again "
    "before it expires. Read each answer: it tells you if you lost a claim; then stop."
)


# Threads of their own: the SDK reads stdin in those that everybody shares.
_PRUNING = anyio.CapacityLimiter(2)


Call = Callable[[Sessions, Caller, dict[str, Any] | None, Report], Awaitable[CallToolResult]]


@dataclass(frozen=True)
class ClaimsTool:
    """A tool as listed, and the coroutine that answers a call of it."""

    listed: Tool
    call: Call


async def _try_claim(
    sessions: Sessions, caller: Caller, arguments: dict[str, Any] | None, report: Report
) -> CallToolResult:
    asked = parse(TryClaimArguments, arguments)
    session = await _acting(sessions, caller, asked.session)
    scoped, patience = rules.scoped_key(asked.key, asked.namespace), rules.patience(asked.wait_seconds)

    def attempt_once(wait: float) -> Attempt:
        return session.claims.try_claim(
            asked.key,
            asked.namespace,
            ttl_minutes=asked.ttl_minutes,
            note=asked.note,
            redo=asked.redo,
            wait=wait,
        )

    attempt = await claim_patiently(session.claims, scoped, attempt_once, patience, report)
    kept = False
    if asked.keep_alive and attempt.claimed and isinstance(attempt.found, Claim):
        kept = True
        sessions.keep(session, attempt.found, asked.ttl_minutes)
    return _answer(attempt_result(scoped, attempt, kept), wording.attempt_lead(scoped, attempt))


async def _is_claimed_by_other(
    sessions: Sessions,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,  # noqa: ARG001
) -> CallToolResult:
    asked = parse(LookArguments, arguments)
    claims = await _looking(sessions, caller, asked.session)
    look = await looking(
        claims, partial(claims.is_claimed_by_other, asked.key, asked.namespace, generation=asked.generation)
    )
    scoped = rules.scoped_key(asked.key, asked.namespace)
    return _answer(look_result(scoped, look), wording.look_lead(scoped, look))


async def _release(
    sessions: Sessions,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,  # noqa: ARG001
) -> CallToolResult:
    asked = parse(ReleaseArguments, arguments)
    session = await _acting(sessions, caller, asked.session)
    scoped = rules.scoped_key(asked.key, asked.namespace)
    release = await without_blocking(
        session.claims,
        lambda wait: session.claims.release(
            asked.key,
            asked.namespace,
            outcome=Outcome(asked.outcome) if asked.outcome else None,
            note=asked.note,
            retention_hours=sessions.retention_hours if asked.retention_hours is None else asked.retention_hours,
            wait=wait,
        ),
    )
    session.keeping.stop(scoped)
    return _answer(release_result(scoped, release), wording.release_lead(scoped, release))


async def _list_claims(
    sessions: Sessions,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,  # noqa: ARG001
) -> CallToolResult:
    asked = parse(ListArguments, arguments)
    after = read_cursor(asked.cursor)
    claims = await _looking(sessions, caller, asked.session)
    list_page = partial(claims.listing, asked.namespace, mine=asked.mine, after=after)
    # In a thread, as there may be many to read before the first that is asked for.
    listing = await reading_many(claims, list_page, _PRUNING)
    cursor = None if listing.after is None else spell_cursor(listing.after)
    return _answer(list_result(listing, cursor), wording.list_lead(listing), between="\n")


async def _open_session(
    sessions: Sessions,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,  # noqa: ARG001
) -> CallToolResult:
    asked = parse(OpenSessionArguments, arguments)
    await looking(sessions.onlooker, sessions.know_handles)
    handle, session = sessions.open(asked.label, caller)
    holder = session.claims.holder.name
    return _answer(opened_result(handle, holder), wording.opened_lead(handle, holder))


async def _prune(
    sessions: Sessions,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,  # noqa: ARG001
) -> CallToolResult:
    asked = parse(PruneArguments, arguments)
    claims = sessions.looking(caller, None)
    # Always in a thread: there may be 100,000 claims to read.
    pruned = await reading_many(claims, partial(claims.prune, asked.namespace), _PRUNING)
    return _answer(prune_result(pruned), wording.prune_lead(pruned))


async def _acting(sessions: Sessions, caller: Caller, handle: str | None) -> Session:
    if handle is not None:
        await looking(sessions.onlooker, sessions.know_handles)
    return sessions.acting(caller, handle)


async def _looking(sessions: Sessions, caller: Caller, handle: str | None) -> Claims:
    if handle is not None:
        await looking(sessions.onlooker, sessions.know_handles)
    return sessions.looking(caller, handle)


def _answer(answer: Answer, lead: str, *, between: str = " ") -> CallToolResult:
    """Answer *answer*, and in words what is the case, *lead*, and what to do."""
    text = f"{lead}{between}{answer['advice']}"
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=answer)


def _tool(
    call: Call,
    title: str,
    description: str,
    takes: type[Arguments],
    gives: type[Result],
    *,
    read_only: bool = False,
    idempotent: bool = True,
) -> ClaimsTool:
    listed = Tool(
        name=call.__name__.removeprefix("_"),
        title=title,
        description=description,
        input_schema=compact_schema(takes, "validation"),
        output_schema=compact_schema(gives, "serialization"),
        # Not destructive: they touch only what is the caller's own or dead.  Hosts ask people, or refuse, otherwise.
        annotations=ToolAnnotations(
            read_only_hint=read_only,
            destructive_hint=False,
            idempotent_hint=idempotent,
            open_world_hint=False,
        ),
    )
    return ClaimsTool(listed, call)


TOOLS = {
    tool.listed.name: tool
    for tool in (
        _tool(
            _try_claim,
            "Claim an event",
            "Ask for the right to act on an event, before acting. claimed=true: yours until expires_at (renewed if you "
            "had it already). claimed=false: another session has it (held) or has done it (done); do not act. Claims of "
            "dead or expired sessions are taken over.",
            TryClaimArguments,
            TryClaimResult,
            idempotent=False,
        ),
        _tool(
            _is_claimed_by_other,
            "See who holds an event",
            "See whether another live session holds an event, and who. No permission to act: only try_claim gives that.",
            LookArguments,
            LookResult,
            # It may remove a dead claim that it meets, which changes no answer that anybody gets.
            read_only=True,
        ),
        _tool(
            _release,
            "Release your claim",
            "Give back your claim on an event as soon as you are done or give up; say which as outcome, so that nobody "
            "repeats what is done. Never touches another session's claim.",
            ReleaseArguments,
            ReleaseResult,
        ),
        _tool(
            _list_claims,
            "List claims",
            "What is claimed, by whom, 50 a page; dead claims are marked.",
            ListArguments,
            ListResult,
            read_only=True,
        ),
        _tool(
            _open_session,
            "Get an identity of your own",
            "Only for a sub-agent that shares a connection, or when a call says that it needs a session. Returns a secret "
            "to pass as session.",
            OpenSessionArguments,
            OpenSessionResult,
            idempotent=False,
        ),
        _tool(
            _prune,
            "Remove dead claims",
            "Remove expired claims and those of dead sessions. Never needed before try_claim, which sees through them.",
            PruneArguments,
            PruneResult,
        ),
    )
}
