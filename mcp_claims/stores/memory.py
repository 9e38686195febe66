"""A store in memory, for tests and for agents that share one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from math import inf
from threading import Lock

from mcp_claims.model import keys
from mcp_claims.model.records import Claim, Found, ScopedKey, Ticket, Unreadable
from mcp_claims.stores.base import (
    LOCK_TIMEOUT,
    SECRET_BYTES,
    Blocks,
    Change,
    GivesWay,
    Swap,
    Swaps,
    TicketChange,
    check_changes,
    first_overlap,
    without_head,
)


class MemoryStore:
    """Claims of one process; they end with it."""

    remote = False
    contact_timeout = None
    has_tickets = True
    serves_queue = False
    has_places = True
    history = None

    def __init__(self) -> None:
        self._stored: dict[ScopedKey, Claim | Unreadable] = {}
        self._generation = 0
        self._lock = Lock()
        self._watchers: list[tuple[ScopedKey | str | None, Callable[[], None]]] = []
        self._tickets: dict[str, tuple[Ticket, ...]] = {}
        self._numbers = count(1)
        self._alarms: dict[int, Callable[[], None]] = {}
        self._secret = os.urandom(SECRET_BYTES)

    def read(self, scoped: ScopedKey) -> Found:
        return self._stored.get(scoped)

    def read_all(self, keys: Sequence[ScopedKey]) -> list[Found]:
        return [self.read(scoped) for scoped in keys]

    def fingerprint(self, scoped: ScopedKey) -> None:
        return None

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
            if blocks is not None:
                overlap = first_overlap([Change(scoped, old, new)], blocks, self.overlapping)
                if overlap is not None:
                    return Swap(False, found, overlap=overlap)
            after = self._put(scoped, new)
        self._notify(scoped)
        return Swap(True, after)

    def swap_all(
        self,
        changes: Sequence[Change],
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swaps:
        check_changes(changes)
        with self._lock:
            found = tuple(self._stored.get(change.scoped) for change in changes)
            if found != tuple(change.old for change in changes):
                return Swaps(False, found)
            namespaces = sorted({change.scoped.namespace for change in changes})
            tickets = (ticket for namespace in namespaces for ticket in self._tickets.get(namespace, ()))
            if gives_way is not None and gives_way(tuple(tickets)):
                return Swaps(False, found, queued=True)
            overlap = None if blocks is None else first_overlap(changes, blocks, self.overlapping)
            if overlap is not None:
                return Swaps(False, found, overlap=overlap)
            after = tuple(self._put(change.scoped, change.new) for change in changes)
        for change in changes:
            self._notify(change.scoped)
        return Swaps(True, after)

    def overlapping(self, scoped: ScopedKey) -> Iterator[Claim | Unreadable]:
        for other, stored in list(self._stored.items()):
            if other != scoped and not other.member and keys.conflict(other, scoped):
                yield from without_head(stored, self.read_all)

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
        names = [scoped.key for scoped in list(self._stored) if scoped.namespace == namespace and not scoped.member]
        return names[:limit]

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

    def _put(self, scoped: ScopedKey, new: Claim | None) -> Claim | None:
        """Store *new*, numbered if it is a new grant, and return it; the caller holds the lock."""
        if new is None:
            self._stored.pop(scoped, None)
            return None
        if not new.generation:
            # One counter for all: each of several holders of a key has a generation that no other has had.
            new = new._replace(generation=self._generation + 1)
        self._generation = max(new.generation, self._generation)
        self._stored[scoped] = new
        return new
