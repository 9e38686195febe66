"""The sessions of one server: which one a call belongs to, what is kept alive for it, and when it ends.

| who calls | session | its claims end by |
|---|---|---|
| a connection that is a process (stdio) | the server's own | its end, its death, TTL |
| a connection with an id that the transport has checked (HTTP with handshake) | one per id | its end, idle time, the server's death, TTL |
| whoever passes a handle | the handle's | release, TTL; over stdio as the server's own |
| anybody else | none: may look and prune | |
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from mcp_claims.errors import SessionEndedError, SessionNeededError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model import validation
from mcp_claims.model.records import Claim
from mcp_claims.server.handles import Handles, decoded
from mcp_claims.session.identity import handle_session, process_session
from mcp_claims.session.keepalive import DEFAULT_LONGEST_KEEPING, KeepAlive
from mcp_claims.session.session import CLOSE_TIMEOUT, Session
from mcp_claims.stores.base import Store, call_deadline

DEFAULT_IDLE = 30 * 60.0
"""Seconds without a request after which a session over HTTP has ended, or is no longer kept alive."""

_MOST_REMEMBERED = 10_000
_AGAIN = 0.5  # s
_LEAVING = 1.0  # s
_RELEASING = 4.0  # s
_STRAGGLING = 60.0
"""Seconds for which calls of a connection that its client has ended are turned away."""

DEFAULT_RETENTION_HOURS = validation.DEFAULT_RETENTION.total_seconds() / 3600


@dataclass(frozen=True, slots=True)
class Caller:
    """What a server knows of whoever sent a request.

    `connection` is an id that the transport itself has given out and checked; `principal` names the credential that
    the request was authenticated with; `client` returns what the client says of itself, for people.  It is called only
    where a session does not know that yet.
    """

    connection: str | None = None
    principal: str | None = None
    client: Callable[[], str | None] = lambda: None


@dataclass(slots=True)
class SessionEntry:
    """One session as this server knows it."""

    session: Session
    keep_alive: KeepAlive
    used: float


class SessionRegistry:
    """The sessions of one server on *store*.

    With *own*, calls without a handle belong to that session, and everything ends with the process (stdio).  Without
    it there are as many sessions as connections and handles (HTTP).  What belongs to a handle outlives the process then,
    and so does all if *own* is *lasting*, a session of which the process is not the end.  *clock* is in seconds.  For use by one
    thread; `end` may come from a signal handler in it, and `know_handles`, `release_ended` and what `tidy` returns may run in
    others.
    """

    def __init__(
        self,
        store: Store,
        *,
        own: Session | None,
        lasting: bool = False,
        machine: Machine | None = None,
        idle: float = DEFAULT_IDLE,
        longest_keeping: float = DEFAULT_LONGEST_KEEPING,
        retention_hours: float = DEFAULT_RETENTION_HOURS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._machine = machine or local_machine()
        self._clock = clock or (lambda: self._machine.now().ticks)
        self._idle, self._longest_keeping = idle, longest_keeping
        self.retention_hours = retention_hours
        self._own = None if own is None else self._session(own)
        self._bound = own is not None and not lasting
        self._nobody = process_session(store, self._machine)
        self._connections: dict[str, SessionEntry] = {}
        self._requests: Counter[str] = Counter()
        self._ending: list[Session] = []
        # When each was ended by its client; see `end_connection`.
        self._gone: dict[str, float] = {}
        # Called when something is due earlier than `tend` said; whoever calls `tend` sets it.
        self.changed: Callable[[], None] = lambda: None
        # Called with each connection that has ended; whoever keeps something else for connections sets it.
        self.ended: Callable[[str], None] = lambda _: None
        self._handles: Handles | None = None
        # By the nonce of the handle, never by the handle; the longest unused first.
        self._opened: dict[bytes, SessionEntry] = {}

    @property
    def read_only(self) -> Session:
        """Through whose eyes those look who have no session; it holds nothing."""
        return self._nobody

    def check_store(self) -> None:
        """Raise what a call would raise if the store cannot answer."""
        self._nobody.inspect("is the store there?")

    def know_handles(self) -> None:
        """Ask the store for what handles are checked with, unless that is known."""
        self._checker()

    def open(self, label: str | None, caller: Caller) -> tuple[str, SessionEntry]:
        """Open a session for *caller*; return its handle, which is a secret, and the session."""
        handle, opened = self._checker().issue(self._machine.pid(), label, caller.principal)
        return handle, self._of_nonce(opened.nonce, opened.pid, opened.label, caller)

    def session_for(self, caller: Caller, handle: str | None) -> SessionEntry:
        """Return the session that a call by *caller*, with *handle* if it has one, acts for.

        Raises `InvalidSessionError` for a handle that is not this caller's, `SessionNeededError` where nothing tells who
        is calling, and `SessionEndedError` for a connection that its client has just ended.
        """
        session = self._find(caller, handle)
        if session is None:
            raise SessionNeededError
        return session

    def reader_for(self, caller: Caller, handle: str | None) -> Session:
        """Return through whose eyes *caller* looks: its session's, or those of nobody, who holds nothing."""
        session = self._find(caller, handle)
        return self._nobody if session is None else session.session

    def keep(self, session: SessionEntry, granted: Claim, ttl_minutes: float) -> None:
        """Keep *granted*, a claim of *session*, alive by renewals while the session is there; `tend` makes them."""
        # The call that asks may have waited for longer than the idle time.
        session.used = self._clock()
        session.keep_alive.keep(granted, ttl_minutes, session.used)
        self.changed()

    def entered(self, connection: str) -> None:
        """Note that a request of *connection* is being answered, or its stream is open: it is not idle."""
        self._requests[connection] += 1

    def left(self, connection: str) -> None:
        """Note that a request of *connection* has been answered."""
        self._requests[connection] -= 1
        if not self._requests[connection]:
            del self._requests[connection]
        if session := self._connections.get(connection):
            session.used = self._clock()

    def end_connection(self, connection: str) -> None:
        """End the session of *connection*, which its client has ended: release what it holds.

        A call that the client sent before may come only now.  Were it to get a session, that would be a new one that
        nobody can use or end, and what it claims would be held until it is idle.
        """
        self._gone[connection] = self._clock()
        self._let_go(connection)

    def _let_go(self, connection: str) -> None:
        self.ended(connection)
        if session := self._connections.pop(connection, None):
            # Never waiting for other processes: other calls would wait too.  What somebody else keeps locked is released later, as is all that
            # takes a network to release.
            if session.session.remote:
                session.session.begin_close()
            else:
                session.session.end(within=0)
            if session.session.holds_anything:
                self._ending.append(session.session)
                self.changed()

    def release_ended(self) -> None:
        """Release what sessions hold that have ended, as far as that can be done now; `tend` does the rest."""
        # For all of them together, however many have ended: each would wait by itself for a cluster that does not answer.
        with call_deadline(time.monotonic() + _RELEASING):
            for claims in list(self._ending):
                claims.end(within=0)

    def tend(self) -> float:
        """Do what is due: end idle connections, renew what is kept alive.  Return in how many seconds to call again."""
        return self.tidy()()

    def tidy(self) -> Callable[[], float]:
        """Do what is due and asks no store; return what does the rest, and returns in how many seconds to call again."""
        now = self._clock()
        for connection, session in list(self._connections.items()):
            if connection not in self._requests and now - session.used > self._idle:
                self._let_go(connection)
        for connection, ended in list(self._gone.items()):
            if now - ended > _STRAGGLING:
                del self._gone[connection]
        # A call that still waits for its key uses the session that it found.
        forgotten = max(self._idle, 2 * validation.MAX_WAIT_SECONDS)
        for nonce, session in list(self._opened.items()):
            if now - session.used > forgotten and not session.session.holds_anything:
                del self._opened[nonce]
        self._ending = [claims for claims in self._ending if claims.holds_anything]
        ending = list(self._ending)
        # Over stdio whoever has a handle is there as long as the process.  Elsewhere a connection that is left is not idle,
        # and a handle has nothing but its use to show that somebody is there.
        stays = self._own is not None
        active = [session for session in self._opened.values() if stays or now - session.used <= self._idle]
        keep_alive = [session.keep_alive for session in [*self._always_there(), *active]]

        def ask() -> float:
            self.release_ended()
            left = any(claims.holds_anything for claims in ending)
            due = min(self._idle / 2, _AGAIN) if left else self._idle / 2
            return max(0.0, min([due, *(kept.renew(now) for kept in keep_alive)]))

        return ask

    def end(self, *, dying: bool = False) -> None:
        """End all that is bound to this process: release what it holds, as `Claims.end` does."""
        bound = list(self._connections.values())
        if self._own is not None and self._bound:
            bound += [self._own, *self._opened.values()]
        if self._store.remote:
            # In one step: where nobody answers, one after the other would take seconds each, in which no signal is heard.
            # What is bound to nothing stays.
            for session in bound:
                session.session.begin_close()
            self._store.close(within=CLOSE_TIMEOUT if dying else _LEAVING)
            return
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for claims in [*self._ending, *(session.session for session in bound)]:
            claims.end(within=max(0.0, deadline - time.monotonic()), dying=dying)
        self._connections.clear()
        self._opened.clear()

    def _find(self, caller: Caller, handle: str | None) -> SessionEntry | None:
        if handle is not None:
            # First of all: the secret is made when it is first asked for, and a mistake is to change nothing.
            decoded(handle)
            opened = self._checker().check(handle, caller.principal)
            session = self._of_nonce(opened.nonce, opened.pid, opened.label, caller)
        elif self._own is not None:
            session = self._own
        elif caller.connection is None:
            return None
        elif (known := self._connections.get(caller.connection)) is not None:
            session = known
        elif caller.connection in self._gone:
            raise SessionEndedError
        else:
            session = self._session(process_session(self._store, self._machine))
            self._connections[caller.connection] = session
        if session is not self._own:  # That one is there as long as the process, used or not.
            session.used = self._clock()
        if session.session.holder.client is None and (client := caller.client()):
            session.session.describe_client(client)
        return session

    def _of_nonce(self, nonce: bytes, pid: int, label: str | None, caller: Caller) -> SessionEntry:
        session = self._opened.pop(nonce, None)
        if session is None:
            claims = handle_session(self._store, self._machine, pid, nonce, bound=self._bound)
            described = ", ".join(part for part in (caller.client(), label) if part)
            if described:
                claims.describe_client(described)
            session = self._session(claims)
            if len(self._opened) >= _MOST_REMEMBERED:
                del self._opened[self._least_worth()]
        self._opened[nonce] = session
        return session

    def _least_worth(self) -> bytes:
        """Return the longest unused handle that holds nothing, and so loses nothing when it is forgotten.

        If all hold something, it is the longest unused: what would be told of lost claims, and what is kept alive, goes.
        """
        idle = (nonce for nonce, session in self._opened.items() if not session.session.holds_anything)
        return next(idle, next(iter(self._opened)))

    def _session(self, claims: Session) -> SessionEntry:
        return SessionEntry(claims, KeepAlive(claims, self._longest_keeping), self._clock())

    def _checker(self) -> Handles:
        if self._handles is None:
            self._handles = Handles(self._store.secret(lock_timeout=CLOSE_TIMEOUT))
        return self._handles

    def _always_there(self) -> list[SessionEntry]:
        own = [] if self._own is None else [self._own]
        return [*own, *self._connections.values()]
