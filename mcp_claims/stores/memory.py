"""A store in memory, for tests and for agents that share one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from math import inf
from threading import Lock

from mcp_claims.model import keys
from mcp_claims.model.records import Claim, Found, ScopedKey, Ticket, Unreadable
from mcp_claims.stores.base import LOCK_TIMEOUT, SECRET_BYTES, Blocks, GivesWay, Swap, TicketChange


class MemoryStore:
    """Claims of one process; they end with it."""

    remote = False
    has_tickets = True
    serves_queue = False
    has_places = True

    def __init__(self) -> None:
        self._stored: dict[ScopedKey, Claim | Unreadable] = {}
        self._generations: dict[ScopedKey, int] = {}
        self._lock = Lock()
        self._watchers: list[tuple[ScopedKey | str | None, Callable[[], None]]] = []
        self._tickets: dict[str, tuple[Ticket, ...]] = {}
        self._numbers = count(1)
        self._alarms: dict[int, Callable[[], None]] = {}
        self._secret = os.urandom(SECRET_BYTES)

    def read(self, scoped: ScopedKey) -> Found:
        return self._stored.get(scoped)

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swap:
        with self._lock:
            found = self._stored.get(scoped)
            if found != old:
                return Swap(False, found)
            if gives_way is not None and gives_way(self._tickets.get(scoped.namespace, ())):
                return Swap(False, found, queued=True)
            if blocks is not None and (overlap := next(filter(blocks, self.overlapping(scoped)), None)) is not None:
                return Swap(False, found, overlap=overlap)
            if new is None:
                self._stored.pop(scoped, None)
            else:
                if not new.generation:
                    new = new._replace(generation=self._generations.get(scoped, 0) + 1)
                self._generations[scoped] = max(new.generation, self._generations.get(scoped, 0))
                self._stored[scoped] = new
        self._notify(scoped)
        return Swap(True, new)

    def overlapping(self, scoped: ScopedKey) -> Iterator[Claim | Unreadable]:
        for other, stored in list(self._stored.items()):
            if other != scoped and keys.conflict(other, scoped):
                yield stored

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        with self._lock:
            scoped = next((scoped for scoped, stored in self._stored.items() if stored == found), None)
            if scoped is None:
                return False
            del self._stored[scoped]
        self._notify(scoped)
        return True

    def scan(self, namespace: str | None = None, after: str = "", since: float = inf) -> Iterator[Claim | Unreadable]:
        for scoped, stored in sorted(self._stored.items(), key=lambda item: item[0]):
            if namespace in (None, scoped.namespace) and f"{scoped.namespace}\0{scoped.key}" > after:
                yield stored

    def names(self, namespace: str, limit: int) -> list[str]:
        return [scoped.key for scoped in list(self._stored) if scoped.namespace == namespace][:limit]

    @contextmanager
    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> Iterator[bool]:
        watcher = (target, notify)
        with self._lock:
            self._watchers.append(watcher)
        try:
            yield True
        finally:
            with self._lock:
                self._watchers.remove(watcher)

    def tickets(self, target: ScopedKey | str | None) -> tuple[Ticket, ...]:
        namespace = target.namespace if isinstance(target, ScopedKey) else target
        with self._lock:
            return tuple(each for name, all_ in self._tickets.items() if namespace in (None, name) for each in all_)

    def change_tickets(
        self, target: ScopedKey | str, change: TicketChange, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> tuple[Ticket, ...]:
        namespace = target.namespace if isinstance(target, ScopedKey) else target
        with self._lock:
            after = tuple(
                ticket if ticket.number else ticket._replace(number=next(self._numbers))
                for ticket in change(self._tickets.get(namespace, ()))
            )
            self._tickets[namespace] = after
            return after

    @contextmanager
    def alarm(self, ticket: Ticket, notify: Callable[[], None]) -> Iterator[None]:
        self._alarms[ticket.number] = notify
        try:
            yield
        finally:
            self._alarms.pop(ticket.number, None)

    def wake(self, ticket: Ticket) -> bool:
        notify = self._alarms.get(ticket.number)
        if notify is not None:
            notify()
        return notify is not None

    def close(self, *, within: float) -> None:
        """Do nothing: claims in memory end with the process by themselves."""

    def position(self, found: Claim | Unreadable) -> str:
        for scoped, stored in list(self._stored.items()):
            if stored == found:
                return f"{scoped.namespace}\0{scoped.key}"
        return f"{found.scoped.namespace}\0{found.scoped.key}" if isinstance(found, Claim) else ""

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        return self._secret

    def corrupt(self, scoped: ScopedKey, unreadable: Unreadable) -> None:
        """Store something unreadable, as a faulty disk would; for tests."""
        self._stored[scoped] = unreadable
        self._notify(scoped)

    def _notify(self, scoped: ScopedKey) -> None:
        with self._lock:
            watching = [notify for target, notify in self._watchers if target in (None, scoped.namespace, scoped)]
        for notify in watching:
            notify()
