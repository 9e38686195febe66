"""What a session believes to hold: what its end has to free, and what tells it that it lost a claim."""

from __future__ import annotations

# As `threading.Lock`; importing all of `threading` is a fortieth of a check's time.
from _thread import allocate_lock

from mcp_claims.model.records import Claim, Found, ScopedKey


class HeldClaims:
    """The claims that session *name* was granted and has not given back; for use by several threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._granted: dict[ScopedKey, Claim] = {}
        self._lock = allocate_lock()

    def __bool__(self) -> bool:
        return bool(self._granted)

    def keys(self) -> list[ScopedKey]:
        """Return what is believed to be held just now."""
        return list(self._granted)

    def of(self, scoped: ScopedKey) -> Claim | None:
        """Return the claim on *scoped* that is believed to be held."""
        return self._granted.get(scoped)

    def add(self, claim: Claim) -> None:
        """Note that *claim* was granted; what a parallel call was granted since, and noted before us, stays."""
        with self._lock:
            newer = self._granted.get(claim.scoped)
            if newer is None or newer.generation <= claim.generation:
                self._granted[claim.scoped] = claim

    def forget(self, scoped: ScopedKey, generation: int) -> None:
        """Note that the claim on *scoped* of *generation*, and any before it, was given back."""
        with self._lock:
            cached = self._granted.get(scoped)
            if cached is not None and cached.generation <= generation:
                del self._granted[scoped]

    def lost(self, cached: Claim | None, found: Found) -> Claim | None:
        """Return *believed*, which was believed to be held before *found* was read, if that says otherwise; once.

        A parallel call may have claimed the key since; what it was granted is not judged by our older reading.
        """
        if cached is None:
            return None
        is_it = isinstance(found, Claim) and (found.scoped, found.holder.name, found.generation) == (
            cached.scoped,
            self._name,
            cached.generation,
        )
        if isinstance(found, Claim) and is_it:
            if found.ended is not None:
                # Another call of ours has given it back, maybe through another server.
                self.forget(cached.scoped, cached.generation)
            return None
        with self._lock:
            if self._granted.get(cached.scoped) is not cached:
                return None
            return self._granted.pop(cached.scoped)
