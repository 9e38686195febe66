"""Telling clients of both eras that resources have changed, whichever process changed them.

A 2026-07-28 client asks with `subscriptions/listen` and is told on the stream of that request; an older one asks with
`resources/subscribe` and is told on its connection.  The store says when something may have changed; what changes
within `TOGETHER` is told once.  That a claim has expired or its holder has died changes nothing that is stored, so
nobody is told of that before somebody acts on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import INVALID_PARAMS, SubscriptionsListenRequestParams, SubscriptionsListenResult

from mcp_claims.errors import ClaimsError, InvalidInputError
from mcp_claims.model.records import Claim
from mcp_claims.server.resources import MAX_SHOWN, list_in_thread, read_uri
from mcp_claims.session.offload import read_off_loop
from mcp_claims.session.session import Session

logger = logging.getLogger(__name__)

TOGETHER = 0.05
"""Seconds in which changes are gathered before they are told."""

MAX_URIS = 256
"""Resources that one client may be told of."""

_LOOK_AGAIN = 2.0  # s, where changes cannot be watched


@dataclass
class _Watch:
    """A resource that somebody is to be told of; `entered` is what the store watches for it, if it can."""

    entered: ExitStack | None = None
    seen: object = field(default_factory=list)


@dataclass
class _Listener:
    """A connection that is told in the way of the older era."""

    session: ServerSession
    uris: set[str] = field(default_factory=set)
    pending: set[str] = field(default_factory=set)
    due: anyio.Event = field(default_factory=anyio.Event)
    telling: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Subscriptions:
    """Who is to be told of which resources of one server; *claims* is through whose eyes it looks."""

    def __init__(self, claims: Session, tasks: TaskGroup) -> None:
        self._claims, self._tasks = claims, tasks
        self._loop = asyncio.get_running_loop()
        self._bus = InMemorySubscriptionBus()
        self._streams = ListenHandler(self._bus)
        self._users: Counter[str] = Counter()
        self._watches: dict[str, _Watch] = {}
        self._listeners: dict[str | None, _Listener] = {}
        self._changed: set[str] = set()
        self._something = anyio.Event()

    async def listen(
        self, context: ServerRequestContext[Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve one stream of a 2026-07-28 client, until it goes."""
        asked = set(params.notifications.resource_subscriptions or ())
        _check_number(asked)
        with self._using(uri for uri in asked if _is_ours(uri)):
            return await self._streams(context, params)

    def subscribe(self, connection: str | None, session: ServerSession, uri: str) -> None:
        """Tell *connection*, by way of *session*, of changes of *uri* from now on.

        Raises `MCPError` for a resource that there is not, and for one too many.
        """
        read_uri(uri)
        listener = self._listeners.get(connection)
        _check_number({uri} | (listener.uris if listener else set()))
        if listener is None:
            listener = self._listeners[connection] = _Listener(session)
            self._tasks.start_soon(self._tell, listener)
        # What is built for each message knows the way to the connection; the latest is as good as any.
        listener.session = session
        if uri not in listener.uris:
            listener.uris.add(uri)
            self._use(uri)

    def unsubscribe(self, connection: str | None, uri: str) -> None:
        """Tell *connection* no more of *uri*; nothing happens if it was not told of it."""
        listener = self._listeners.get(connection)
        if listener is not None and uri in listener.uris:
            listener.uris.remove(uri)
            self._leave(uri)

    def forget(self, connection: str | None) -> None:
        """Forget *connection*, which has ended."""
        listener = self._listeners.pop(connection, None)
        if listener is not None:
            listener.telling.cancel()
            for uri in listener.uris:
                self._leave(uri)

    async def publish(self) -> None:
        """Pass on what changes, for ever."""
        while True:
            await self._something.wait()
            await anyio.sleep(TOGETHER)
            self._something = anyio.Event()
            changed, self._changed = self._changed, set()
            for uri in changed:
                await self._bus.publish(ResourceUpdated(uri))
            for listener in self._listeners.values():
                listener.pending |= changed & listener.uris
                if listener.pending:
                    listener.due.set()

    async def look_now_and_then(self) -> None:
        """Look at what cannot be watched, because it is not there yet or the system does not tell, for ever."""
        while True:
            await anyio.sleep(_LOOK_AGAIN)
            for uri, watch in list(self._watches.items()):
                if watch.entered is not None:
                    continue
                try:
                    self._enter(uri, watch)
                    seen = await self._fingerprint(uri)
                except ClaimsError:
                    # Whoever reads it is told what is wrong; that the store cannot answer is no change.
                    continue
                except Exception:
                    # Were it raised, it would end the server: no more threads to read in, or a defect of ours.
                    logger.exception("looking at what is subscribed failed")
                    break
                if seen != watch.seen:
                    watch.seen = seen
                    self._note(uri)

    def close(self) -> None:
        """End all streams, and watch nothing any more."""
        self._streams.close()
        for connection in list(self._listeners):
            self.forget(connection)
        for watch in self._watches.values():
            _end(watch)
        self._watches.clear()

    async def _tell(self, listener: _Listener) -> None:
        # A task for each connection: one that does not read must not keep news from the others.
        with listener.telling:
            while True:
                await listener.due.wait()
                listener.due = anyio.Event()
                pending, listener.pending = listener.pending, set()
                for uri in pending:
                    if uri not in listener.uris:
                        continue  # It has been unsubscribed since.
                    try:
                        await listener.session.send_resource_updated(uri)
                    except Exception:
                        # Were it raised, it would end the server, for everybody.
                        logger.exception("a client could not be told of a change")

    @contextmanager
    def _using(self, uris: Iterable[str]) -> Iterator[None]:
        used = list(uris)
        for uri in used:
            self._use(uri)
        try:
            yield
        finally:
            for uri in used:
                self._leave(uri)

    def _use(self, uri: str) -> None:
        self._users[uri] += 1
        if uri not in self._watches:
            watch = self._watches[uri] = _Watch()
            self._enter(uri, watch)

    def _leave(self, uri: str) -> None:
        self._users[uri] -= 1
        if self._users[uri] <= 0:
            del self._users[uri]
            if watch := self._watches.pop(uri, None):
                _end(watch)

    def _enter(self, uri: str, watch: _Watch) -> None:
        """Have the store watch *uri*; if it cannot, `watch.entered` stays empty."""

        def tell() -> None:
            # Another thread may have begun to tell when the server ended.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._note, uri)

        with ExitStack() as entered:
            try:
                watched = entered.enter_context(self._claims.watch(read_uri(uri), tell))
            except InvalidInputError:
                return  # No such name can be in this store; whoever reads it is told.
            if watched:
                watch.entered = entered.pop_all()

    def _note(self, uri: str) -> None:
        self._changed.add(uri)
        self._something.set()

    async def _fingerprint(self, uri: str) -> object:
        of = read_uri(uri)
        if of is None or isinstance(of, str):
            listing = await list_in_thread(self._claims, of, at_most=MAX_SHOWN)
        else:
            listing = await read_off_loop(self._claims, partial(self._claims.stored, of.key, of.namespace))
        return [
            (each.found.scoped, each.found.generation, each.found.expires, each.found.ended)
            if isinstance(each.found, Claim)
            else each.found
            for each in listing.page
        ]


@asynccontextmanager
async def subscriptions(claims: Session) -> AsyncIterator[Subscriptions]:
    """Tell of changes meanwhile."""
    async with anyio.create_task_group() as tasks:
        made = Subscriptions(claims, tasks)
        tasks.start_soon(made.publish)
        tasks.start_soon(made.look_now_and_then)
        try:
            yield made
        finally:
            made.close()
            tasks.cancel_scope.cancel()


def _end(watch: _Watch) -> None:
    if watch.entered is not None:
        watch.entered.close()
        watch.entered = None


def _is_ours(uri: str) -> bool:
    try:
        read_uri(uri)
    except MCPError:
        return False
    return True


def _check_number(uris: set[str]) -> None:
    if len(uris) > MAX_URIS:
        raise MCPError(INVALID_PARAMS, f"At most {MAX_URIS} resources can be watched at a time; claims://all has all.")
