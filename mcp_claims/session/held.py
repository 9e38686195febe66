"""The claims that a session was granted: `close` releases them, and each loss is reported once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

from mcp_claims.errors import StoreBusyError, UnsafeDirectoryError
from mcp_claims.model.records import Claim, Found, ScopedKey


class HeldClaims:
    """The grants that session *name* has not released.  Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._granted: dict[ScopedKey, Claim] = {}
        self._in_doubt: list[ScopedKey] = []
        self._lock = Lock()

    def __bool__(self) -> bool:
        return bool(self._granted or self._in_doubt)

    def keys(self) -> list[ScopedKey]:
        """Return the keys that are or may be held just now."""
        return [*self._granted, *(scoped for scoped in self._in_doubt if scoped not in self._granted)]

    def get(self, scoped: ScopedKey) -> Claim | None:
        """Return the cached grant of *scoped*, if there is one."""
        return self._granted.get(scoped)

    @contextmanager
    def in_doubt(self, scoped: ScopedKey) -> Iterator[None]:
        """Count *scoped* as possibly held in the block, and after it if an exception leaves the outcome of a write open.

        Without this, a Ctrl-C or a signal handler's exception between the store's write and `add` would leave a claim
        that `close` does not release.
        """
        self._in_doubt.append(scoped)
        try:
            yield
        except (StoreBusyError, UnsafeDirectoryError):
            self._settle(scoped)  # Nothing was written.
            raise
        self._settle(scoped)

    def add(self, claim: Claim) -> None:
        """Record the grant *claim*, unless a parallel call has recorded a newer one."""
        with self._lock:
            newer = self._granted.get(claim.scoped)
            if newer is None or newer.generation <= claim.generation:
                self._granted[claim.scoped] = claim

    def remove(self, scoped: ScopedKey, generation: int) -> None:
        """Record that the grant of *scoped* with *generation*, and any before it, was released."""
        with self._lock:
            self._in_doubt = [doubtful for doubtful in self._in_doubt if doubtful != scoped]
            cached = self._granted.get(scoped)
            if cached is not None and cached.generation <= generation:
                del self._granted[scoped]

    def lost(self, cached: Claim | None, found: Found) -> Claim | None:
        """Return the cached grant, and forget it, if *found* shows that we lost it.  At most once per grant.

        *cached* is the grant as it was cached before *found* was read: a parallel call may have claimed the key since,
        and an older reading says nothing about that grant.
        """
        if cached is None:
            return None
        ours = (cached.scoped, self._name, cached.generation)
        if isinstance(found, Claim) and (found.scoped, found.holder.name, found.generation) == ours:
            if found.ended is not None:
                # Another call of this session has released it, perhaps through another server.
                self.remove(cached.scoped, cached.generation)
            return None
        with self._lock:
            if self._granted.get(cached.scoped) is not cached:
                return None
            return self._granted.pop(cached.scoped)

    def _settle(self, scoped: ScopedKey) -> None:
        with self._lock, suppress(ValueError):  # A release by a parallel call may have settled it.
            self._in_doubt.remove(scoped)
