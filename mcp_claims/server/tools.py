"""The tools: name, description for the model that decides whether to call, schemas, hints, and what they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from mcp_types import CallToolResult, TextContent, Tool, ToolAnnotations

from mcp_claims import rules
from mcp_claims.claims import Claims
from mcp_claims.server import wording
from mcp_claims.server.arguments import Arguments, KeyArguments, PruneArguments, TryClaimArguments, parse
from mcp_claims.server.results import LookResult, PruneResult, ReleaseResult, Result, TryClaimResult
from mcp_claims.server.schema import compact_schema
from mcp_claims.server.waiting import without_blocking

INSTRUCTIONS = (
    "Several agents see the same event; exactly one may act. Before you act on an event (red CI, review comment, "
    "alert), call try_claim with a key that every agent would derive alike. claimed=true: you act. claimed=false: do "
    "not act, report who does. Call release when done. If the work takes longer than ttl_minutes, call try_claim again "
    "before it expires. Read each answer: it tells you if you lost a claim; then stop."
)


@dataclass(frozen=True)
class ClaimsTool:
    """A tool as listed, and the coroutine that answers a call of it for a session."""

    listed: Tool
    call: Callable[[Claims, dict[str, Any] | None], Awaitable[CallToolResult]]


async def _try_claim(claims: Claims, arguments: dict[str, Any] | None) -> CallToolResult:
    asked = parse(TryClaimArguments, arguments)
    attempt = await without_blocking(
        lambda wait: claims.try_claim(
            asked.key, asked.namespace, ttl_minutes=asked.ttl_minutes, note=asked.note, wait=wait
        )
    )
    scoped = rules.scoped_key(asked.key, asked.namespace)
    return _answer(TryClaimResult.of(scoped, attempt), wording.attempt_text(scoped, attempt))


async def _is_claimed_by_other(claims: Claims, arguments: dict[str, Any] | None) -> CallToolResult:
    asked = parse(KeyArguments, arguments)
    look = claims.is_claimed_by_other(asked.key, asked.namespace)
    scoped = rules.scoped_key(asked.key, asked.namespace)
    return _answer(LookResult.of(scoped, look), wording.look_text(scoped, look))


async def _release(claims: Claims, arguments: dict[str, Any] | None) -> CallToolResult:
    asked = parse(KeyArguments, arguments)
    release = await without_blocking(lambda wait: claims.release(asked.key, asked.namespace, wait=wait))
    scoped = rules.scoped_key(asked.key, asked.namespace)
    return _answer(ReleaseResult.of(scoped, release), wording.release_text(scoped, release))


async def _prune(claims: Claims, arguments: dict[str, Any] | None) -> CallToolResult:
    asked = parse(PruneArguments, arguments)
    # Always in a thread: there may be 100,000 claims to read.
    pruned = await anyio.to_thread.run_sync(claims.prune, asked.namespace, abandon_on_cancel=True)
    return _answer(PruneResult.of(pruned), wording.prune_text(pruned))


def _answer(result: Result, text: str) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=result.model_dump(exclude_none=True)
    )


def _tool(
    call: Callable[[Claims, dict[str, Any] | None], Awaitable[CallToolResult]],
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
            "had it already). claimed=false: another session has it; do not act. Claims of dead or expired sessions are "
            "taken over.",
            TryClaimArguments,
            TryClaimResult,
            idempotent=False,
        ),
        _tool(
            _is_claimed_by_other,
            "See who holds an event",
            "See whether another live session holds an event, and who. No permission to act: only try_claim gives that.",
            KeyArguments,
            LookResult,
            # It may remove a dead claim that it meets, which changes no answer that anybody gets.
            read_only=True,
        ),
        _tool(
            _release,
            "Release your claim",
            "Give back your claim on an event as soon as you are done or give up. Never touches another session's claim.",
            KeyArguments,
            ReleaseResult,
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
