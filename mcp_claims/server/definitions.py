"""What a host is told of the tools: name, description for the model that decides whether to call, schemas and hints.

A module of its own, since no call needs it: it takes 10 ms to make, which a host waits for when it lists the tools, not before
the first answer.
"""

from __future__ import annotations

from mcp_types import Tool, ToolAnnotations

from mcp_claims.server.result_models import (
    ClaimAnswer,
    InspectAnswer,
    ListAnswer,
    OpenSessionAnswer,
    PruneAnswer,
    ReleaseAnswer,
    Result,
)
from mcp_claims.server.schema import compact_schema
from mcp_claims.server.schemas import (
    Arguments,
    ListArguments,
    LookArguments,
    OpenSessionArguments,
    PruneArguments,
    ReleaseArguments,
    TryClaimArguments,
)


def _tool(
    name: str,
    title: str,
    description: str,
    takes: type[Arguments],
    gives: type[Result],
    *,
    read_only: bool = False,
    idempotent: bool = True,
) -> Tool:
    return Tool(
        name=name,
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


DEFINITIONS = {
    tool.name: tool
    for tool in (
        _tool(
            "try_claim",
            "Claim an event",
            "Ask for the right to act on an event, before acting. claimed=true: yours until expires_at (renewed if you "
            "had it already). claimed=false: another session has it (held) or has done it (done); do not act. Claims of "
            "dead or expired sessions are taken over.",
            TryClaimArguments,
            ClaimAnswer,
            idempotent=False,
        ),
        _tool(
            "is_claimed_by_other",
            "See who holds an event",
            "See whether another live session holds an event, and who. No permission to act: only try_claim gives that.",
            LookArguments,
            InspectAnswer,
            # It may remove a dead claim that it meets, which changes no answer that anybody gets.
            read_only=True,
        ),
        _tool(
            "release",
            "Release your claim",
            "Give back your claim on an event as soon as you are done or give up; say which as outcome, so that nobody "
            "repeats what is done. Never touches another session's claim.",
            ReleaseArguments,
            ReleaseAnswer,
        ),
        _tool(
            "list_claims",
            "List claims",
            "What is claimed, by whom, 50 a page; dead claims are marked.",
            ListArguments,
            ListAnswer,
            read_only=True,
        ),
        _tool(
            "open_session",
            "Get an identity of your own",
            "Only for a sub-agent that shares a connection, or when a call says that it needs a session. Returns a secret "
            "to pass as session.",
            OpenSessionArguments,
            OpenSessionAnswer,
            idempotent=False,
        ),
        _tool(
            "prune",
            "Remove dead claims",
            "Remove expired claims and those of dead sessions. Never needed before try_claim, which sees through them.",
            PruneArguments,
            PruneAnswer,
        ),
    )
}
