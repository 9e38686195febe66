"""The tools: how each is described to hosts, and the code that it runs.  Knows neither the SDK nor an event loop."""

from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, Protocol, TypeVar

from mcp_claims.errors import (
    ClaimsError,
    InvalidInputError,
    InvalidSessionError,
    SessionEndedError,
    SessionNameRefusedError,
    SessionNeededError,
)
from mcp_claims.model.keys import FORMS
from mcp_claims.model.records import ScopedKey
from mcp_claims.model.text import one_line
from mcp_claims.model.validation import ClaimRequest, InspectRequest, ReleaseRequest, parse_label
from mcp_claims.render.answers import (
    ClaimAnswer,
    InspectAnswer,
    ReleaseAnswer,
    Rendered,
    claim_answer,
    inspect_answer,
    release_answer,
    subject,
    with_losses,
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
from mcp_claims.server import arguments
from mcp_claims.server.log import logger
from mcp_claims.server.registry import Caller, SessionEntry, SessionRegistry
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Request, Session

T = TypeVar("T")


SESSION_HEADER = "Mcp-Claims-Session"
"""The header in which a host names its session over HTTP; it counts only with a bearer token, and for that token alone."""

HOST_SESSION_HEADER = "Mcp-Claims-Host-Session"
"""The header in which a host names its own session over HTTP, so that its hooks recognize what the session holds."""

INSTRUCTIONS = (
    "Several agents see the same event; exactly one may act. Before you act on an event (red CI, review comment, "
    "alert), call try_claim with a key that names this occurrence and that every agent writes alike. claimed=true: you "
    "act. claimed=false: do not act; report who is on it or has done it. Claim files before you edit them, too. When you stop, call release with an outcome. If "
    "the work takes longer than ttl_minutes, call try_claim again before it expires. Follow the advice in each answer: it "
    "says so if you have lost a claim; then stop what you did under it."
)


LONGEST_SILENT_WAIT = 50.0
"""Seconds after which a wait without progress notices is answered: some hosts give a call 60."""


class Runner(Protocol):
    """Runs the steps of a call that may wait for another process, the disk or a network.

    `is_heard` is whether the client gets progress notices while its call waits.
    """

    is_heard: bool

    async def acquire(self, session: Session, request: ClaimRequest) -> ClaimResult:
        """Acquire the key, or reserve it after a wait; if the call is cancelled meanwhile, undo that."""

    async def change(self, session: Session, change: Callable[[float], T]) -> T:
        """Run *change*, given its lock timeout in seconds; it changes nothing when it raises `StoreBusyError`."""

    async def read(self, session: Session, read: Callable[[], T]) -> T:
        """Run *read*, which reads some claims."""

    async def scan(self, session: Session, scan: Callable[[], T]) -> T:
        """Run *scan*, which reads any number of claims."""


class Call:
    """One call of a tool, its arguments checked by type."""

    def __init__(self, registry: SessionRegistry, caller: Caller, arguments: dict[str, Any], runner: Runner) -> None:
        self.registry, self.caller, self.arguments, self.runner = registry, caller, arguments, runner
        self.used: Session | None = None
        """The session for which the call acts, once that is known."""
        self.about: ScopedKey | None = None
        """The key whose state is in the answer, so that its loss is not reported twice."""

    async def session(self) -> SessionEntry:
        """Return the session for which the caller acts: that of the argument `session`, or its own.

        Raises `InvalidSessionError`, `SessionNeededError` or `SessionEndedError` if there is none.
        """
        handle = await self._handle()
        entry = self.registry.session_for(self.caller, handle)
        self.used = entry.session
        return entry

    async def reader(self) -> Session:
        """Return the session for which the caller acts, or the read-only one for a caller without any."""
        handle = await self._handle()
        self.used = self.registry.reader_for(self.caller, handle)
        return self.used

    async def _handle(self) -> str | None:
        handle: str | None = self.arguments.get("session")
        if self.registry.needs_secret(self.caller, handle):
            await self.runner.read(self.registry.read_only, self.registry.load_secret)
        return handle

    async def resolved(self, session: Session, request: Request) -> Request:
        """Return *request* with its keys resolved, which for a branch asks git."""
        keys: tuple[ScopedKey, ...] = (request.scoped,)
        if isinstance(request, ClaimRequest):
            keys = request.keys
        if not any(each.key.startswith(FORMS) for each in keys):
            return session.resolved(request)
        return await self.runner.scan(session, partial(session.resolved, request))

    def given(self) -> dict[str, Any]:
        """Return the arguments without the handle and without those that were left out and have no default."""
        return {name: value for name, value in self.arguments.items() if name != "session" and value is not None}


async def _try_claim(call: Call) -> Rendered:
    request = ClaimRequest.parse(**call.given())
    if not call.runner.is_heard:
        request = request._replace(wait_seconds=min(request.wait_seconds, LONGEST_SILENT_WAIT))
    entry = await call.session()
    request = await call.resolved(entry.session, request)
    began = monotonic()
    result = await call.runner.acquire(entry.session, request)
    if call.registry.metrics is not None:
        call.registry.metrics.count_call(result, monotonic() - began if request.wait_seconds > 0 else None)
    kept_alive = request.keep_alive and call.registry.keep_alive(entry, result, request.ttl)
    scoped = subject(request, result)
    call.about = scoped
    fleeting = call.registry.note_grant(call.caller, entry, result.now) if result.claimed else None
    near = entry.session.near_claims(scoped) if result.status is Status.ACQUIRED else ()
    is_new = result.status is Status.ACQUIRED or (result.status is Status.RENEWED and bool(result.grants))
    like_files = tuple(filter(entry.session.looks_like_files, request.keys)) if is_new else ()
    return claim_answer(
        scoped,
        result,
        keys=request.keys,
        use=request.use,
        kept_alive=kept_alive,
        fleeting=fleeting,
        near=near,
        like_files=like_files,
        contact_timeout=entry.session.contact_timeout(result),
    )


async def _is_claimed_by_other(call: Call) -> Rendered:
    request = InspectRequest.parse(**call.given())
    session = await call.reader()
    request = await call.resolved(session, request)
    inspection = await call.runner.read(session, partial(session.inspect_request, request))
    call.about = request.scoped
    return inspect_answer(request.scoped, inspection)


async def _release(call: Call) -> Rendered:
    request = ReleaseRequest.parse(**call.given(), retention_hours=call.registry.retention_hours)
    entry = await call.session()
    request = await call.resolved(entry.session, request)
    result = await call.runner.change(
        entry.session, lambda lock_timeout: entry.session.release_request(request, lock_timeout=lock_timeout)
    )
    call.about = request.scoped
    # A renewal of a key that is released and claimed again would report that new claim as lost.
    for key in (request.scoped, *result.keys):
        entry.keep_alive.remove(key)
    return release_answer(request.scoped, result)


async def _list_claims(call: Call) -> Rendered:
    after = decode_cursor(call.arguments["cursor"])
    session = await call.reader()
    scan = partial(session.list_claims, call.arguments["namespace"], mine=call.arguments["mine"], after=after)
    page = await call.runner.scan(session, scan)
    return list_answer(page, None if page.after is None else encode_cursor(page.after))


async def _open_session(call: Call) -> Rendered:
    label = parse_label(call.arguments["label"])  # Before the secret is read: the first read makes it.
    await call.runner.read(call.registry.read_only, call.registry.load_secret)
    handle, entry = call.registry.open(label, call.caller)
    return open_session_answer(handle, entry.session.holder.name)


async def _prune(call: Call) -> Rendered:
    session = await call.reader()
    return prune_answer(await call.runner.scan(session, partial(session.prune, call.arguments["namespace"])))


class Tool(NamedTuple):
    """How a tool is described to hosts, and the function that runs it."""

    title: str
    description: str
    arguments: arguments.Arguments
    answer: type
    run: Callable[[Call], Awaitable[Rendered]]
    read_only: bool = False
    idempotent: bool = True
    always_load: bool = False


TOOLS = {
    "try_claim": Tool(
        "Claim an event",
        "Ask for the right to act on an event, before you act. claimed=true: you act, until expires_at; with "
        "status=renewed only if it was you who claimed it before. claimed=false: another session is on it (held) or has "
        "done it (done); do not act. What is done stays done, so key one occurrence (commit, date): the next is a new key. A "
        "file, a branch, a slot or a shared key is never done.",
        arguments.TRY_CLAIM,
        ClaimAnswer,
        _try_claim,
        idempotent=False,
        always_load=True,
    ),
    "is_claimed_by_other": Tool(
        "See who holds an event",
        "See whether another session holds an event, and which. Free is no permission to act: only try_claim gives it.",
        arguments.INSPECT,
        InspectAnswer,
        _is_claimed_by_other,
        # It may remove a dead claim, which changes nobody's answer.
        read_only=True,
    ),
    "release": Tool(
        "Release your claim",
        "Release your claim on an event as soon as you are done or give up; pass an outcome, so that nobody repeats what "
        "is done. Never touches another session's claim.",
        arguments.RELEASE,
        ReleaseAnswer,
        _release,
        always_load=True,
    ),
    "list_claims": Tool(
        "List claims",
        "List claims and outcomes, 50 a page. What is expired or orphaned is free.",
        arguments.LIST,
        ListAnswer,
        _list_claims,
        read_only=True,
    ),
    "open_session": Tool(
        "Get an identity of your own",
        "Only for a sub-agent that shares a connection, or when a call says that it needs a session. Returns a secret: "
        "pass it as session in every call.",
        arguments.OPEN_SESSION,
        OpenSessionAnswer,
        _open_session,
        idempotent=False,
    ),
    "prune": Tool(
        "Remove dead claims",
        "Remove expired claims and those of dead sessions. Never needed: try_claim takes them over.",
        arguments.PRUNE,
        PruneAnswer,
        _prune,
    ),
}


class ToolAnswer(NamedTuple):
    """The answer of a call: text for the model, and the same as structured content; `None` if the call failed."""

    text: str
    structured: dict[str, Any] | None = None

    def result(self) -> dict[str, Any]:
        """Return it as the result of `tools/call`, in JSON that every protocol version has in common."""
        result: dict[str, Any] = {
            "content": [{"type": "text", "text": self.text}],
            "isError": self.structured is None,
        }
        return result if self.structured is None else result | {"structuredContent": self.structured}


async def call_tool(name: str, call: Call) -> ToolAnswer:
    """Run the tool *name*; every error becomes an answer."""
    try:
        answer = await TOOLS[name].run(call)
    except ClaimsError as error:
        return failure(name, error)
    except Exception:
        # A defect: the model must learn that it holds nothing, and the log must have the cause.
        logger.exception("%s failed", name)
        return ToolAnswer(
            f"{name} failed by a defect of mcp-claims; the server's log has the details. Do not act on this event; "
            "is_claimed_by_other returns what is stored."
        )
    # An agent that works on other keys must learn, too, that it has lost a claim.
    if call.used is not None and (losses := call.used.take_losses(but=call.about)):
        answer = with_losses(answer, losses, call.used.now())
    return ToolAnswer(answer.text, answer.structured)


def failure(name: str, error: ClaimsError) -> ToolAnswer:
    """Return the answer of a call of the tool *name* that failed with *error*, with what a model can do about it."""
    # A path may contain bytes that are not text; sent as they are, they would end the connection.
    return ToolAnswer(one_line(f"{name} failed: {error} {_advice(error)}"))


_OPEN_SESSION = "Call open_session once, then pass what it returns as `session` in every call"


def _advice(error: ClaimsError) -> str:
    match error:
        case InvalidInputError():
            return f"Call it again with {error.field} corrected."
        case InvalidSessionError():
            return "Pass exactly what open_session returned, or call open_session for a new one."
        case SessionNeededError():
            return f"{_OPEN_SESSION}; or a person lets the host send the header {SESSION_HEADER} with its bearer token."
        case SessionNameRefusedError():
            return f"{_OPEN_SESSION}; or a person corrects the header {SESSION_HEADER}."
        case SessionEndedError():
            return f"Stop what you did under its claims. Connect again, or: {_OPEN_SESSION}."
        case _:
            return "Until a call succeeds, do not act."
