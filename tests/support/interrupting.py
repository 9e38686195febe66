"""Stores around another store; one lets rivals act in the gap between a read and its swap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from math import inf
from typing import Any

from mcp_claims.model.records import Claim, Found, ScopedKey, Ticket, Unreadable
from mcp_claims.stores.base import LOCK_TIMEOUT, Alarm, Change, Store, Swap, Swaps, TicketChange


class DelegatingStore:
    """Passes everything on to another store."""

    def __init__(self, store: Store) -> None:
        self._inner = store
        self.remote = store.remote
        self.has_tickets = store.has_tickets
        self.serves_queue = store.serves_queue
        self.has_places = store.has_places
        self.history = store.history
        self.contact_timeout = store.contact_timeout

    @property
    def _store(self) -> Store:
        return self._inner

    def read(self, scoped: ScopedKey) -> Found:
        return self._store.read(scoped)

    def fingerprint(self, scoped: ScopedKey) -> object:
        return self._store.fingerprint(scoped)

    def read_all(self, keys: Sequence[ScopedKey]) -> list[Found]:
        # By `read`, so that what a test does there is done here too.
        return [self.read(scoped) for scoped in keys]

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        return self._store.swap(scoped, old, new, lock_timeout=lock_timeout, **options)

    def swap_all(self, changes: Sequence[Change], *, lock_timeout: float = LOCK_TIMEOUT, **options: Any) -> Swaps:
        return self._store.swap_all(changes, lock_timeout=lock_timeout, **options)

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        return self._store.discard(found, lock_timeout=lock_timeout)

    def overlapping(self, scoped: ScopedKey) -> Iterator[Claim | Unreadable]:
        return self._store.overlapping(scoped)

    def names(self, namespace: str, limit: int) -> Iterable[str]:
        return self._store.names(namespace, limit)

    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        return self._store.watch(target, notify)

    def tickets(self, target: ScopedKey | str | None) -> tuple[Ticket, ...]:
        return self._store.tickets(target)

    def change_tickets(
        self, target: ScopedKey | str, change: TicketChange, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> tuple[Ticket, ...]:
        return self._store.change_tickets(target, change, lock_timeout=lock_timeout)

    def alarm(self, ticket: Ticket, notify: Callable[[], None]) -> AbstractContextManager[Alarm | None]:
        return self._store.alarm(ticket, notify)

    def wake(self, ticket: Ticket) -> bool:
        return self._store.wake(ticket)

    def position(self, found: Claim | Unreadable) -> str:
        return self._store.position(found)

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        return self._store.secret(lock_timeout=lock_timeout)

    def scan(self, namespace: str | None = None, after: str = "", since: float = inf) -> Iterator[Claim | Unreadable]:
        return self._store.scan(namespace, after, since)

    def close(self, *, within: float) -> None:
        self._store.close(within=within)


class Interrupting(DelegatingStore):
    """Passes everything on to *store*, but runs the next of *rivals* before each change that it passes on.

    `ran` counts the rivals that have acted, so that a test can prove that the interleaving took place.
    """

    def __init__(self, store: Store, *rivals: Callable[[], object]) -> None:
        super().__init__(store)
        self._rivals = deque(rivals)
        self.ran = 0

    def interrupt_with(self, *rivals: Callable[[], object]) -> None:
        """Let *rivals* act before the next changes, now that what led up to the race is done."""
        self._rivals.extend(rivals)

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        self._interrupt()
        return self._store.swap(scoped, old, new, lock_timeout=lock_timeout, **options)

    def swap_all(self, changes: Sequence[Change], *, lock_timeout: float = LOCK_TIMEOUT, **options: Any) -> Swaps:
        self._interrupt()
        return self._store.swap_all(changes, lock_timeout=lock_timeout, **options)

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        self._interrupt()
        return self._store.discard(found, lock_timeout=lock_timeout)

    def _interrupt(self) -> None:
        if self._rivals:
            self.ran += 1
            self._rivals.popleft()()
