"""The tools: the definition that a host gets of each, and the code that it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

from mcp_types import Tool, ToolAnnotations

from mcp_claims.model.records import ScopedKey
from mcp_claims.model.validation import ClaimRequest, InspectRequest, ReleaseRequest
from mcp_claims.render.answers import (
    ClaimAnswer,
    InspectAnswer,
    ReleaseAnswer,
    Rendered,
    claim_answer,
    inspect_answer,
    release_answer,
)
from mcp_claims.render.lists import (
    ListAnswer,
    OpenSessionAnswer,
    PruneAnswer,
    decode_cursor,
    encode_cursor,
    list_answer,
    open_session_answer,
    prune_answer,
)
from mcp_claims.server.registry import Caller, SessionEntry, SessionRegistry
from mcp_claims.server.schemas import (
    Arguments,
    InspectArguments,
    ListArguments,
    OpenSessionArguments,
    PruneArguments,
    ReleaseArguments,
    TryClaimArguments,
    input_schema,
    output_schema,
    parse,
)
from mcp_claims.session.offload import (
    Report,
    acquire_async,
    run_change,
    run_read,
    run_scan,
)
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session

INSTRUCTIONS = (
    "Several agents see the same event; exactly one may act. Before you act on an event (red CI, review comment, "
    "alert), call try_claim with a key that names this occurrence and that every agent writes alike. claimed=true: you "
    "act. claimed=false: do not act; report who is on it or has done it. When you stop, call release with an outcome. If "
    "the work takes longer than ttl_minutes, call try_claim again before it expires. Follow the advice in each answer: it "
    "says so if you have lost a claim; then stop what you did under it."
)


@dataclass(slots=True)
class Call:
    """One call of a tool; `used` is the session on whose behalf it acts, once that is known.

    `about` is the key that the call was about, once its answer says how that stands.
    """

    registry: SessionRegistry
    caller: Caller
    arguments: dict[str, Any] | None
    report: Report
    used: Session | None = None
    about: ScopedKey | None = None

    async def session(self, handle: str | None) -> SessionEntry:
        """Return the session on whose behalf the caller acts."""
        await self._load_secret(handle)
        entry = self.registry.session_for(self.caller, handle)
        self.used = entry.session
        return entry

    async def reader(self, handle: str | None) -> Session:
        """Return the caller's session, or the read-only one for callers without one."""
        await self._load_secret(handle)
        self.used = self.registry.reader_for(self.caller, handle)
        return self.used

    async def _load_secret(self, handle: str | None) -> None:
        if handle is not None or self.caller.named is not None:
            await run_read(self.registry.read_only, self.registry.load_secret)


async def _try_claim(call: Call) -> Rendered:
    arguments = parse(TryClaimArguments, call.arguments)
    request = ClaimRequest.parse(**arguments.model_dump(exclude={"session"}))
    entry = await call.session(arguments.session)
    result = await acquire_async(entry.session, request, call.report)
    call.about = request.scoped
    kept_alive = request.keep_alive and call.registry.keep_alive(entry, result, request.ttl)
    fleeting = call.registry.note_grant(call.caller, entry, result.now) if result.claimed else None
    near = entry.session.near_claims(request.scoped) if result.status is Status.ACQUIRED else ()
    return claim_answer(request.scoped, result, kept_alive=kept_alive, fleeting=fleeting, near=near)


async def _is_claimed_by_other(call: Call) -> Rendered:
    arguments = parse(InspectArguments, call.arguments)
    request = InspectRequest.parse(**arguments.model_dump(exclude={"session"}))
    session = await call.reader(arguments.session)
    inspection = await run_read(session, partial(session.inspect_request, request))
    call.about = request.scoped
    return inspect_answer(request.scoped, inspection)


async def _release(call: Call) -> Rendered:
    arguments = parse(ReleaseArguments, call.arguments)
    given = arguments.model_dump(exclude={"session"}, exclude_none=True)
    request = ReleaseRequest.parse(**({"retention_hours": call.registry.retention_hours} | given))
    entry = await call.session(arguments.session)
    result = await run_change(
        entry.session, lambda lock_timeout: entry.session.release_request(request, lock_timeout=lock_timeout)
    )
    call.about = request.scoped
    entry.keep_alive.remove(request.scoped)
    return release_answer(request.scoped, result)


async def _list_claims(call: Call) -> Rendered:
    arguments = parse(ListArguments, call.arguments)
    after = decode_cursor(arguments.cursor)
    session = await call.reader(arguments.session)
    scan = partial(session.list_claims, arguments.namespace, mine=arguments.mine, after=after)
    page = await run_scan(session, scan)
    return list_answer(page, None if page.after is None else encode_cursor(page.after))


async def _open_session(call: Call) -> Rendered:
    arguments = parse(OpenSessionArguments, call.arguments)
    await run_read(call.registry.read_only, call.registry.load_secret)
    handle, entry = call.registry.open(arguments.label, call.caller)
    return open_session_answer(handle, entry.session.holder.name)


async def _prune(call: Call) -> Rendered:
    arguments = parse(PruneArguments, call.arguments)
    session = await call.reader(None)
    return prune_answer(await run_scan(session, partial(session.prune, arguments.namespace)))


class _ToolSpec(NamedTuple):
    """The definition of a tool, and the function that runs it."""

    title: str
    description: str
    arguments: type[Arguments]
    answer: type
    run: Callable[[Call], Awaitable[Rendered]]
    read_only: bool = False
    idempotent: bool = True
    always_load: bool = False


TOOLS = {
    "try_claim": _ToolSpec(
        "Claim an event",
        "Ask for the right to act on an event, before you act. claimed=true: you act, until expires_at; with "
        "status=renewed only if it was you who claimed it before. claimed=false: another session is on it (held) or has "
        "done it (done); do not act. What is done stays done, so key one occurrence (commit, date): the next is a new key.",
        TryClaimArguments,
        ClaimAnswer,
        _try_claim,
        idempotent=False,
        always_load=True,
    ),
    "is_claimed_by_other": _ToolSpec(
        "See who holds an event",
        "See whether another session holds an event, and which. Free is no permission to act: only try_claim gives it.",
        InspectArguments,
        InspectAnswer,
        _is_claimed_by_other,
        # It may remove a dead claim, which changes nobody's answer.
        read_only=True,
    ),
    "release": _ToolSpec(
        "Release your claim",
        "Release your claim on an event as soon as you are done or give up; pass an outcome, so that nobody repeats what "
        "is done. Never touches another session's claim.",
        ReleaseArguments,
        ReleaseAnswer,
        _release,
        always_load=True,
    ),
    "list_claims": _ToolSpec(
        "List claims",
        "List claims and outcomes, 50 a page. An expired or orphaned claim is free to take.",
        ListArguments,
        ListAnswer,
        _list_claims,
        read_only=True,
    ),
    "open_session": _ToolSpec(
        "Get an identity of your own",
        "Only for a sub-agent that shares a connection, or when a call says that it needs a session. Returns a secret: "
        "pass it as session in every call.",
        OpenSessionArguments,
        OpenSessionAnswer,
        _open_session,
        idempotent=False,
    ),
    "prune": _ToolSpec(
        "Remove dead claims",
        "Remove expired claims and those of dead sessions. Never needed: try_claim takes them over.",
        PruneArguments,
        PruneAnswer,
        _prune,
    ),
}


@cache
def definitions() -> dict[str, Tool]:
    """Return what `tools/list` answers, by name; made at the first call, since the schemas take 10 ms."""
    return {
        name: Tool(
            name=name,
            title=tool.title,
            description=tool.description,
            input_schema=input_schema(tool.arguments),
            output_schema=output_schema(tool.answer),
            annotations=ToolAnnotations(
                title=tool.title,
                read_only_hint=tool.read_only,
                # They touch only the caller's own claims or dead ones.  Hosts ask people, or refuse, otherwise.
                destructive_hint=False,
                idempotent_hint=tool.idempotent,
                open_world_hint=False,
            ),
            # Claude Code hides other tools behind a search, and a model does not search for what it does not know.
            meta={"anthropic/alwaysLoad": True} if tool.always_load else None,
        )
        for name, tool in TOOLS.items()
    }
