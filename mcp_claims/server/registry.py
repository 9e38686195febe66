"""The sessions of one server: finds the session of a call, keeps its claims alive, and ends it.

| who calls | session | its claims end by |
|---|---|---|
| a connection that is a process (stdio) | the server's own | its end, its death, expiry |
| a connection with an id that the transport has checked (HTTP with handshake) | one per id | its end, idle time, the server's death, expiry |
| a caller that passes a handle | the handle's | release, expiry; over stdio as the server's own |
| a caller with a bearer token that names a session (HTTP) | that of the token and the name | release, expiry |
| anybody else | none: may read and prune | |
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from mcp_claims.errors import SessionEndedError, SessionNameRefusedError, SessionNeededError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.records import Claim, Maker, Moment
from mcp_claims.model.text import one_line
from mcp_claims.model.validation import DEFAULT_RETENTION_HOURS, MAX_WAIT_SECONDS
from mcp_claims.render.answers import Fleeting
from mcp_claims.server.brief_connections import BriefConnections
from mcp_claims.session.handles import Handles, OpenedSession, decode_handle
from mcp_claims.session.host_session import HostSession
from mcp_claims.session.identity import handle_session, process_session
from mcp_claims.session.keepalive import DEFAULT_KEEP_ALIVE_LIMIT, KeepAlive
from mcp_claims.session.results import ClaimResult
from mcp_claims.session.session import Session
from mcp_claims.session.turns import CLOSE_TIMEOUT
from mcp_claims.stores.base import Store, call_before

if TYPE_CHECKING:
    # Only a server over HTTP counts.
    from mcp_claims.server.metrics import Metrics

DEFAULT_IDLE = 30 * 60.0
"""Seconds without a request after which a session over HTTP ends, or is no longer kept alive."""

# The end of an id: Codex makes UUIDs of version 7, which begin with the time, so that sessions of one day begin alike.
_SHOWN = 8
# Codex sends its thread and its session in each request, under these names.  Claude Code has its session in the
# environment of the server alone, where it is wrong after `/clear`: the server goes on, and its environment is the old one.
_SESSION_IN_META = ("threadId", "sessionId")

# Without `$` and braces, and no word for a missing value: a variable that a host did not fill in would make one session of
# all.
_SESSION_NAME = r"(?!(?i:undefined|null|none|nil|nan)\Z)[A-Za-z0-9._:@/+=~-]{1,64}"
_MAX_HANDLES = 10_000
_RETRY_INTERVAL = 0.5  # s between two tries to release what an ended session holds
_CLOSE_STORE_TIMEOUT, _RELEASE_TIMEOUT = 1.0, 4.0  # s
_BRIEF, _JUST_NOW = 60.0, 1.0
"""Seconds.  A host connects for each call if its connection ends within `_BRIEF` after at most one call, or within
`_JUST_NOW` of a grant that it still holds."""

_LATE_CALLS = 60.0
"""Seconds for which late calls of a connection that its client has ended are refused."""

_PROBED = "mcp-claims"
"""The namespace of the claims of readiness probes."""


class Caller(NamedTuple):
    """What a server knows about the sender of a request.

    `connection` is an id that the transport itself has issued and checked; `principal` names the credential that
    authenticated the request; `client` returns the client's description of itself, for people, and is called only until
    the session has one.  `named` is the name that the caller gives its session: it counts only with a
    `principal`, since anybody could send it.  `in_host` returns the ids of the host's session and of the sub-agent in it
    that the request names.
    """

    connection: str | None = None
    principal: str | None = None
    client: Callable[[], str | None] = lambda: None
    named: str | None = None
    in_host: Callable[[], tuple[str, str | None] | None] = lambda: None


class SessionEntry:
    """One session as this server knows it: when it was last used, for how many calls, and when it was last granted a key.

    Times are in ticks of the machine's clock.  `peer` identifies the client that opened the connection.
    """

    def __init__(self, session: Session, keep_alive: KeepAlive, used: float) -> None:
        self.session, self.keep_alive, self.used = session, keep_alive, used
        self.calls = 0
        self.granted = -math.inf
        self.peer = ""


class SessionRegistry:
    """The sessions of one server on *store*.

    With *own*, calls without a handle belong to that session, and everything ends with the process (stdio).  Without
    it there are as many sessions as connections and handles (HTTP), and what belongs to a handle outlives the process.
    So does everything if *own* is *lasting*: a session that does not end with the process.  *idle* is in seconds.
    *brief* remembers hosts whose connections end right after a call; over stdio *host* is the host that started this
    server.

    For use by one thread.  `close` may come from a signal handler in it, and `load_secret`, `release_ended` and what
    `begin_maintenance` returns may run in other threads.
    """

    def __init__(
        self,
        store: Store,
        *,
        own: Session | None,
        lasting: bool = False,
        machine: Machine | None = None,
        idle: float = DEFAULT_IDLE,
        keep_alive_limit: timedelta = DEFAULT_KEEP_ALIVE_LIMIT,
        retention_hours: float = DEFAULT_RETENTION_HOURS,
        brief: BriefConnections | None = None,
        host: str | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._store, self.metrics = store, metrics
        self._brief, self._host, self._calls = brief, host, 0
        self._machine = machine or local_machine()
        self._began = self._clock()
        self._idle, self._keep_alive_limit = idle, keep_alive_limit
        self.retention_hours = retention_hours
        # Over stdio the server works where its host does; over HTTP a client may be anywhere.
        self._is_here = own is not None
        self._own = None if own is None else self._entry(own)
        self._bound = own is not None and not lasting
        self._read_only = process_session(store, self._machine)
        self._prober: Session | None = None
        self._read_only.is_here = self._is_here
        self._connections: dict[str, SessionEntry] = {}
        self._requests: Counter[str] = Counter()
        self._ending: list[Session] = []
        # When each was ended by its client; see `end_connection`.
        self._ended_at: dict[str, float] = {}
        # Called when maintenance is due earlier than `begin_maintenance` planned; set by the code that runs maintenance.
        self.on_due: Callable[[], None] = lambda: None
        # Called with each connection that has ended; set by the code that keeps subscriptions.
        self.on_ended: Callable[[str], None] = lambda _: None
        # Whether the client has ended its input: what is granted now ends with the answer.
        self.input_ended = False
        self._handles: Handles | None = None
        # By the nonce of the handle, never by the handle; the longest unused first.
        self._opened: dict[bytes, SessionEntry] = {}

    @property
    def store(self) -> Store:
        """The store of all sessions."""
        return self._store

    @property
    def read_only(self) -> Session:
        """Read-only session for callers without one."""
        return self._read_only

    def check_claims(self) -> None:
        """Claim a key that nobody else claims, and release it; raise the error that any claim would raise now."""
        if self._prober is None:
            self._prober = process_session(self._store, self._machine)
            self._prober.maker = Maker.PROBE
        key = f"mcp-claims:ready:{self._prober.holder.name}"
        # Most claims are in this one.  The probe's is in one of its own, lest it wakes everybody who subscribes to another.
        self._prober.inspect(key)
        if self._prober.try_claim(key, _PROBED, ttl_minutes=1).claimed:
            self._prober.release(key, _PROBED)

    def needs_secret(self, caller: Caller, handle: str | None) -> bool:
        """Return whether the session of *caller* is found with the secret of the store.

        Raises `InvalidSessionError` or `SessionNameRefusedError` for what cannot be a handle or a name.
        """
        # Here, before the secret is read: the first read makes the secret, and a typing error must change nothing.
        if handle is not None:
            decode_handle(handle)
            return True
        if self._own is not None or caller.named is None:
            return False
        if caller.principal is None:
            raise SessionNameRefusedError("counts only in requests with a bearer token")
        if not re.fullmatch(_SESSION_NAME, caller.named):
            raise SessionNameRefusedError(
                "must be 1 to 64 letters, digits and any of . _ : @ / + = ~ -, and no word for a missing value, such as null"
            )
        return True

    def load_secret(self) -> None:
        """Read the secret that handles are checked with from the store, unless it is known."""
        self._known_handles()

    def open(self, label: str | None, caller: Caller) -> tuple[str, SessionEntry]:
        """Open a session for *caller*; return its handle, which is a secret, and the session."""
        self._calls += 1
        handle, opened = self._known_handles().issue(self._machine.pid(), label, caller.principal)
        return handle, self._of_handle(opened, caller)

    def session_for(self, caller: Caller, handle: str | None) -> SessionEntry:
        """Return the session on whose behalf *caller* acts, with *handle* if it passed one.

        Raises `InvalidSessionError` for a handle that is not this caller's, `SessionNeededError` for a caller without any
        identity, and `SessionEndedError` for a connection that its client has just ended.
        """
        entry = self._find(caller, handle)
        if entry is None:
            raise SessionNeededError
        return entry

    def reader_for(self, caller: Caller, handle: str | None) -> Session:
        """Return the session with which *caller* reads: its own, or the read-only one."""
        entry = self._find(caller, handle)
        return self._read_only if entry is None else entry.session

    def note_grant(self, caller: Caller, entry: SessionEntry, at: Moment) -> Fleeting | None:
        """Note that *entry* was granted a key just now, *at*; return why the claim may end with this call, if it may."""
        entry.granted = at.ticks
        is_own = self._own is not None and self._bound
        if is_own and self.input_ended:
            return Fleeting.INPUT_ENDED
        # A host that makes a second call on a connection does not open one for each call.
        if self._brief is None or (self._calls if is_own else entry.calls) > 1:
            return None
        if is_own:
            return Fleeting.PER_CALL if self._host and self._brief.remembers(self._host) else None
        is_connection = entry is self._connections.get(caller.connection or "")
        return Fleeting.PER_CALL_OVER_HTTP if is_connection and self._brief.remembers(_peer(caller)) else None

    def keep_alive(self, entry: SessionEntry, result: ClaimResult, ttl: timedelta) -> bool:
        """Keep what *entry* was granted alive while the session is there; return whether there was a grant."""
        if not result.claimed or not isinstance(result.found, Claim):
            return False
        # The call may have waited for longer than the idle time.
        entry.used = self._clock()
        entry.keep_alive.add(result.found, ttl, entry.used)
        self.on_due()
        return True

    def begin_request(self, connection: str) -> None:
        """Record that *connection* has a request in progress, or an open stream: it is not idle."""
        self._requests[connection] += 1

    def end_request(self, connection: str) -> None:
        """Record that a request of *connection* has been answered."""
        self._requests[connection] -= 1
        if not self._requests[connection]:
            del self._requests[connection]
        if entry := self._connections.get(connection):
            entry.used = self._clock()

    def end_connection(self, connection: str) -> None:
        """End the session of *connection*, which its client has ended: release what it holds.

        A call that the client sent before may arrive only now.  It gets no new session: nobody could end that one, and
        what it claims would be held until it is idle.
        """
        self._ended_at[connection] = self._clock()
        entry = self._connections.get(connection)
        if entry and self._brief and self._granted_just_now(entry):
            self._brief.remember(entry.peer)
        self._close_connection(connection)

    def _close_connection(self, connection: str) -> None:
        self.on_ended(connection)
        if entry := self._connections.pop(connection, None):
            # Never wait for locks here: every other call would wait too.  What another process keeps locked is
            # released later, as is everything that takes a network to release.
            if entry.session.remote:
                entry.session.begin_close()
            else:
                entry.session.close(within=0)
            if entry.session.has_anything_to_end:
                self._ending.append(entry.session)
                self.on_due()

    def release_ended(self) -> None:
        """Release what ended sessions hold, as far as possible now; maintenance does the rest."""
        # One deadline for all of them: each would wait by itself for a cluster that does not answer.
        call_before(
            time.monotonic() + _RELEASE_TIMEOUT, lambda: [session.close(within=0) for session in list(self._ending)]
        )

    def begin_maintenance(self) -> Callable[[], float]:
        """End idle connections; return a function for what needs the store, to run in another thread.

        It renews the claims that are kept alive, and returns the seconds until the next maintenance is due.
        """
        now = self._clock()
        for connection, entry in list(self._connections.items()):
            if connection not in self._requests and now - entry.used > self._idle:
                self._close_connection(connection)
        for connection, ended in list(self._ended_at.items()):
            if now - ended > _LATE_CALLS:
                del self._ended_at[connection]
        # A call that still waits for its key uses the session that it found.
        unused = max(self._idle, 2 * MAX_WAIT_SECONDS)
        for nonce, entry in list(self._opened.items()):
            if now - entry.used > unused and not entry.session.holds_anything:
                del self._opened[nonce]
        self._ending = [session for session in self._ending if session.has_anything_to_end]
        ending = list(self._ending)
        # Over stdio every handle lives as long as the process.  Over HTTP the connections that are left are not idle; of a
        # handle only its use shows that somebody still has it.
        stays = self._own is not None
        active = [entry for entry in self._opened.values() if stays or now - entry.used <= self._idle]
        own = [] if self._own is None else [self._own]
        kept = [entry.keep_alive for entry in [*own, *self._connections.values(), *active]]

        def ask_store() -> float:
            self.release_ended()
            left = any(session.has_anything_to_end for session in ending)
            due = min(self._idle / 2, _RETRY_INTERVAL) if left else self._idle / 2
            return max(0.0, min([due, *(each.renew_due(now) for each in kept)]))

        return ask_store

    def close(self, *, dying: bool = False) -> None:
        """End every session that is bound to this process and release what it holds, as `Session.close` does."""
        if not dying:
            self._remember_host()
        bound = list(self._connections.values())
        if self._own is not None and self._bound:
            bound += [self._own, *self._opened.values()]
        if self._store.remote:
            # In one step: if the cluster does not answer, each single release would take seconds, in which no signal is
            # handled.  The claims of sessions that are bound to nothing stay.
            for entry in bound:
                entry.session.begin_close()
            self._store.close(within=CLOSE_TIMEOUT if dying else _CLOSE_STORE_TIMEOUT)
            for entry in bound:
                entry.session.note_end()
            return
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for session in [*self._ending, *(entry.session for entry in bound)]:
            session.close(within=max(0.0, deadline - time.monotonic()), dying=dying)
        for entry in self._opened.values():
            entry.session.begin_close()  # Ends its waits, which would keep the process.
        self._connections.clear()
        self._opened.clear()

    def _remember_host(self) -> None:
        """Note that the host has ended this connection, if that was right after its call."""
        if self._own is None or not self._bound or self._brief is None or self._host is None:
            return
        brief = self._calls <= 1 and self._clock() - self._began < _BRIEF
        if brief or any(map(self._granted_just_now, [self._own, *self._opened.values()])):
            self._brief.remember(self._host)

    def _granted_just_now(self, entry: SessionEntry) -> bool:
        return entry.session.holds_anything and self._clock() - entry.granted < _JUST_NOW

    def _find(self, caller: Caller, handle: str | None) -> SessionEntry | None:
        if self.needs_secret(caller, handle):
            entry = self._of_secret(caller, handle)
        elif self._own is not None:
            entry = self._own
        elif caller.connection is None:
            return None
        elif (known := self._connections.get(caller.connection)) is not None:
            entry = known
        elif caller.connection in self._ended_at:
            raise SessionEndedError
        else:
            entry = self._entry(process_session(self._store, self._machine))
            entry.peer = _peer(caller)
            self._connections[caller.connection] = entry
        entry.used = self._clock()
        entry.calls += 1
        self._calls += 1
        if entry.session.holder.client is None and (client := caller.client()):
            entry.session.describe_client(client)
        # Not with a handle: the host does not say for whom of its agents that is.
        if handle is None and (ids := caller.in_host()) is not None:
            session, agent = ids
            entry.session.act_in((entry.session.host or HostSession())._replace(id=session, agent=agent))
        return entry

    def _of_secret(self, caller: Caller, handle: str | None) -> SessionEntry:
        handles, principal = self._known_handles(), caller.principal
        if handle is None:
            assert caller.named is not None and principal is not None
            opened = handles.named(caller.named, principal)
        else:
            opened = handles.check(handle, principal)
        return self._of_handle(opened, caller)

    def _of_handle(self, opened: OpenedSession, caller: Caller) -> SessionEntry:
        entry = self._opened.pop(opened.nonce, None)
        if entry is None:
            session = handle_session(
                self._store,
                self._machine,
                opened.pid,
                opened.nonce,
                bound=self._bound,
                of_agent=opened.host_session is not None,
            )
            if described := caller.client():
                session.describe_client(described)
            own = None if self._own is None else self._own.session
            session.describe(label=opened.label, directory=None if own is None else own.holder.directory)
            host = (own and own.host) or HostSession()
            if opened.host_session is not None:
                host = host._replace(id=opened.host_session, agent=opened.agent)
            session.act_in(host)
            entry = self._entry(session)
            if len(self._opened) >= _MAX_HANDLES:
                del self._opened[self._least_used()]
        self._opened[opened.nonce] = entry
        return entry

    def _least_used(self) -> bytes:
        """Return the longest unused handle that holds nothing, and so loses nothing when it is dropped.

        If all hold something, it is the longest unused: notices of lost claims and keep-alive go with it.
        """
        idle = (nonce for nonce, entry in self._opened.items() if not entry.session.holds_anything)
        return next(idle, next(iter(self._opened)))

    def _entry(self, session: Session) -> SessionEntry:
        session.maker = Maker.TOOL if self._is_here else Maker.HTTP
        session.is_here = self._is_here
        return SessionEntry(session, KeepAlive(session, self._keep_alive_limit), self._clock())

    def _clock(self) -> float:
        return self._machine.now().ticks

    def _known_handles(self) -> Handles:
        if self._handles is None:
            self._handles = Handles(self._store.secret(lock_timeout=CLOSE_TIMEOUT))
        return self._handles


def _peer(caller: Caller) -> str:
    return f"{caller.principal} {caller.client()}"


def host_ids(meta: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """Return the ids of the host's session and of the sub-agent in it that *meta* of a request names, as Codex does."""
    turn = meta.get("x-codex-turn-metadata")
    session, thread = (turn.get("session_id"), turn.get("thread_id")) if isinstance(turn, dict) else (None, None)
    if not isinstance(session, str) or not session:
        return None
    return session, thread if isinstance(thread, str) and thread not in ("", session) else None


def client_label(name: str | None, meta: Mapping[str, Any]) -> str | None:
    """Return *name*, of the client and its version, and its host's session in *meta* of a request, for people.

    The session is a label, never an identity: a client could send that of another.
    """
    session = next((meta[field] for field in _SESSION_IN_META if isinstance(meta.get(field), str)), "")
    label = ("…" if len(session) > _SHOWN else "") + one_line(session[-_SHOWN:])
    return ", ".join(part for part in (name, label and f"session {label}") if part) or None
