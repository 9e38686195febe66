"""Notifying clients that resources have changed, whichever process changed them.

A 2026-07-28 client subscribes with `subscriptions/listen` and gets its notices on the stream of that request; an older
client subscribes with `resources/subscribe` and gets them on its connection.  The store says when something may have
changed; changes within `BATCH_INTERVAL` make one notice.  An expiry or a death changes nothing that is stored, so it
makes no notice before somebody acts on it.
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
from mcp_types import (
    INVALID_PARAMS,
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)

from mcp_claims.errors import ClaimsError, InvalidInputError
from mcp_claims.model.records import Claim
from mcp_claims.server.resources import MAX_SHOWN, scan_page, target_of
from mcp_claims.session.offload import run_read
from mcp_claims.session.session import Session

logger = logging.getLogger(__name__)

BATCH_INTERVAL = 0.05
"""Seconds for which changes are collected before a notice is sent."""

MAX_URIS = 256
"""Resources that one client may subscribe to."""

_POLL_INTERVAL = 2.0  # s, where changes cannot be watched
_CHECK_INTERVAL = 30.0
"""Seconds after which a watch is checked: the system drops notices when its queue overflows, and it goes on watching a
directory that has been removed or moved away while others make it again."""


@dataclass
class _Watch:
    """A subscribed resource; `entered` is the store's watch on it, `None` while it cannot be watched.

    `notified` is whether the watch has reported a change since `seen` was read, at `read_at`.
    """

    entered: ExitStack | None = None
    seen: object = field(default_factory=list)
    notified: bool = True
    read_at: float = field(default_factory=anyio.current_time)


@dataclass
class _Listener:
    """A connection that subscribed with `resources/subscribe`."""

    session: ServerSession
    uris: set[str] = field(default_factory=set)
    pending: set[str] = field(default_factory=set)
    due: anyio.Event = field(default_factory=anyio.Event)
    sending: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Subscriptions:
    """The subscriptions to the resources of one server; it reads the resources with *session*."""

    def __init__(self, session: Session, tasks: TaskGroup) -> None:
        self._session, self._tasks = session, tasks
        self._loop = asyncio.get_running_loop()
        self._bus = InMemorySubscriptionBus()
        self._streams = ListenHandler(self._bus)
        self._users: Counter[str] = Counter()
        self._watches: dict[str, _Watch] = {}
        self._listeners: dict[str | None, _Listener] = {}
        self._changed: set[str] = set()
        self._any_changed = anyio.Event()

    async def listen(
        self, context: ServerRequestContext[Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve one stream of a 2026-07-28 client, until the client closes it."""
        requested = set(params.notifications.resource_subscriptions or ())
        _check_number(requested)
        served = sorted(uri for uri in requested if _is_resource(uri))
        # What is acknowledged is what will be sent, and none of our lists ever changes.
        notifications = SubscriptionFilter(resource_subscriptions=served)
        with self._using(served):
            return await self._streams(context, params.model_copy(update={"notifications": notifications}))

    def subscribe(self, connection: str | None, session: ServerSession, uri: str) -> None:
        """Notify *connection*, through *session*, of changes of *uri* from now on.

        Raises `MCPError` for a resource that does not exist, and for one too many.
        """
        target_of(uri)
        listener = self._listeners.get(connection)
        _check_number({uri} | (listener.uris if listener else set()))
        if listener is None:
            listener = self._listeners[connection] = _Listener(session)
            self._tasks.start_soon(self._send, listener)
        # The SDK builds a session object for each message; any of them reaches the connection.
        listener.session = session
        if uri not in listener.uris:
            listener.uris.add(uri)
            self._use(uri)

    def unsubscribe(self, connection: str | None, uri: str) -> None:
        """Stop notifying *connection* of *uri*, if it subscribed to it."""
        listener = self._listeners.get(connection)
        if listener is not None and uri in listener.uris:
            listener.uris.remove(uri)
            self._leave(uri)

    def forget(self, connection: str | None) -> None:
        """Drop the subscriptions of *connection*, which has ended."""
        listener = self._listeners.pop(connection, None)
        if listener is not None:
            listener.sending.cancel()
            for uri in listener.uris:
                self._leave(uri)

    async def publish(self) -> None:
        """Send notices of changes until cancelled."""
        while True:
            await self._any_changed.wait()
            await anyio.sleep(BATCH_INTERVAL)
            self._any_changed = anyio.Event()
            changed, self._changed = self._changed, set()
            for uri in changed:
                await self._bus.publish(ResourceUpdated(uri))
            for listener in self._listeners.values():
                listener.pending |= changed & listener.uris
                if listener.pending:
                    listener.due.set()

    async def poll(self) -> None:
        """Poll the resources that the store cannot watch (not there yet, no notices from the system) until cancelled.

        Those that it watches are polled as well, rarely: a change without a notice shows that the watch is broken.
        """
        while True:
            await anyio.sleep(_POLL_INTERVAL)
            for uri, watch in list(self._watches.items()):
                now, watched = anyio.current_time(), watch.entered is not None
                if watched and (self._session.remote or now - watch.read_at < _CHECK_INTERVAL):
                    continue
                try:
                    if not watched:
                        self._enter(uri, watch)
                    notified, watch.notified, watch.read_at = watch.notified, False, now
                    seen = await self._fingerprint(uri)
                except ClaimsError:
                    # A store that cannot answer is no change; a client that reads the resource gets the error.
                    continue
                except Exception:
                    # No thread can be started, or there is a defect.  Raised here, it would end the server.
                    logger.exception("polling the subscribed resources failed")
                    break
                if seen == watch.seen:
                    continue
                watch.seen = seen
                if watched and notified:
                    continue
                self._mark_changed(uri)
                if watched and self._watches.get(uri) is watch:  # Otherwise somebody has unsubscribed meanwhile.
                    _end(watch)
                    self._enter(uri, watch)

    def close(self) -> None:
        """End all streams and watches."""
        self._streams.close()
        for connection in list(self._listeners):
            self.forget(connection)
        for watch in self._watches.values():
            _end(watch)
        self._watches.clear()

    async def _send(self, listener: _Listener) -> None:
        # A task for each connection: one that does not read must not delay the others.
        with listener.sending:
            while True:
                await listener.due.wait()
                listener.due = anyio.Event()
                pending, listener.pending = listener.pending, set()
                for uri in pending:
                    if uri not in listener.uris:
                        continue  # Unsubscribed meanwhile.
                    try:
                        await listener.session.send_resource_updated(uri)
                    except Exception:
                        # Raised here, it would end the server for every client.
                        logger.exception("a client could not be notified of a change")

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

        def notify() -> None:
            # Another thread may notify while the server ends.
            watch.notified = True
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._mark_changed, uri)

        with ExitStack() as entered:
            try:
                watched = entered.enter_context(self._session.watch(target_of(uri), notify))
            except InvalidInputError:
                return  # This store cannot have such a name; a client that reads it gets the error.
            if watched:
                watch.entered = entered.pop_all()

    def _mark_changed(self, uri: str) -> None:
        self._changed.add(uri)
        self._any_changed.set()

    async def _fingerprint(self, uri: str) -> object:
        target = target_of(uri)
        if target is None or isinstance(target, str):
            page = await scan_page(self._session, target, limit=MAX_SHOWN)
        else:
            page = await run_read(self._session, partial(self._session.read, target.key, target.namespace))
        return [
            (each.found.scoped, each.found.generation, each.found.expires, each.found.ended)
            if isinstance(each.found, Claim)
            else each.found
            for each in page.claims
        ]


@asynccontextmanager
async def subscriptions(session: Session) -> AsyncIterator[Subscriptions]:
    """Serve subscriptions during the block."""
    async with anyio.create_task_group() as tasks:
        made = Subscriptions(session, tasks)
        tasks.start_soon(made.publish)
        tasks.start_soon(made.poll)
        try:
            yield made
        finally:
            made.close()
            tasks.cancel_scope.cancel()


def _end(watch: _Watch) -> None:
    if watch.entered is not None:
        watch.entered.close()
        watch.entered = None


def _is_resource(uri: str) -> bool:
    try:
        target_of(uri)
    except MCPError:
        return False
    return True


def _check_number(uris: set[str]) -> None:
    if len(uris) > MAX_URIS:
        raise MCPError(INVALID_PARAMS, f"At most {MAX_URIS} resources can be watched at a time; claims://all has all.")
