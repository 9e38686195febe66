"""Stores in which something goes wrong: they are busy, they fail, or they take their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model.records import Claim, Found, ScopedKey, Unreadable
from mcp_claims.stores.base import LOCK_TIMEOUT, Store, Swap
from tests.support.interrupting import DelegatingStore
from tests.support.machines import World


class Busy(DelegatingStore):
    """Somebody else is changing the namespace all the time: each change waits as long as it may, then gives up.

    Unless `idle`; then it passes everything on.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.idle = False
        self.waits: list[float] = []

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        self._wait_in_vain(lock_timeout)
        return super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        self._wait_in_vain(lock_timeout)
        return super().discard(found, lock_timeout=lock_timeout)

    def _wait_in_vain(self, lock_timeout: float) -> None:
        if not self.idle:
            self.waits.append(lock_timeout)
            time.sleep(lock_timeout)
            raise StoreBusyError("lock", lock_timeout)


class Sluggish(DelegatingStore):
    """Takes `each_takes` seconds for each change."""

    each_takes = 0.0

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        time.sleep(self.each_takes)
        return super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)


class Changing(DelegatingStore):
    """Each comparison fails: somebody else is always faster."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.rounds = 0

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        self.rounds += 1
        return Swap(False, self.read(scoped))

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        self.rounds += 1
        return False


class Failing(DelegatingStore):
    """Cannot change *keys*; their disk is full."""

    def __init__(self, store: Store, keys: set[str]) -> None:
        super().__init__(store)
        self.keys = keys

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        self._fail(scoped)
        return super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        if isinstance(found, Claim):
            self._fail(found.scoped)
        return super().discard(found, lock_timeout=lock_timeout)

    def _fail(self, scoped: ScopedKey) -> None:
        if scoped.key in self.keys:
            raise StoreUnavailableError(scoped.key, OSError(28, "No space left on device"))


class Slow(DelegatingStore):
    """Takes the next of *delays*, in seconds of *world*, over each change; `left` are those still to come."""

    def __init__(self, store: Store, world: World, *delays: float) -> None:
        super().__init__(store)
        self._world = world
        self.left = list(delays)

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        if self.left:
            self._world.pass_time(self.left.pop(0))
        return super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)


class Overtaken(DelegatingStore):
    """Lets *rival* act once, right after the first read or lost swap, whose result is then out of date."""

    def __init__(self, store: Store, rival: Callable[[], object] | None = None) -> None:
        super().__init__(store)
        self.rival = rival
        self.ran = 0

    def read(self, scoped: ScopedKey) -> Found:
        found = super().read(scoped)
        self._let_act()
        return found

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        swap = super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)
        if not swap.won:
            self._let_act()
        return swap

    def scan(self, namespace: str | None = None, after: str = "", since: float = inf) -> Iterator[Claim | Unreadable]:
        for found in super().scan(namespace, after, since):
            self._let_act()
            yield found

    def _let_act(self) -> None:
        if (rival := self.rival) is not None:
            self.rival = None
            self.ran += 1
            rival()


class Delayed(DelegatingStore):
    """Lets *rival* act once, right after the next change: its result is out of date before anybody hears of it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.rival: Callable[[], object] | None = None
        self.ran = 0

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        swap = super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)
        if (rival := self.rival) is not None:
            self.rival = None
            self.ran += 1
            rival()
        return swap
