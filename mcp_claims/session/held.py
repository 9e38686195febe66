"""The claims that a session was granted: `close` releases them, and each loss is reported once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import RLock

from mcp_claims.errors import SessionEndedError, StoreBusyError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Found, ScopedKey
from mcp_claims.stores.base import Store
from mcp_claims.stores.history.history import History

_MAX_LOOKS = 100
_MAX_KNOWN = 1_000  # keys, which take 0.2 s of etcd; from there on a look at the whole list is not much dearer


class HeldClaims:
    """The grants that session *name* has not released.  Thread-safe."""

    def __init__(self, name: str, history: History | None = None) -> None:
        self._name, self._history = name, history
        self._granted: dict[ScopedKey, Claim] = {}
        # New grants as they were passed to the store, which has not answered yet or whose answer got lost.
        self._in_doubt: list[Claim] = []
        # Grants whose release was sent and not answered: if they are gone, that is no loss.
        self._perhaps_released: dict[ScopedKey, int] = {}
        # Keys on which it has left an outcome, the first ones.
        self._ended: dict[ScopedKey, None] = {}
        # Grants that a renewal found lost, and what it found instead: no call has reported them yet.
        self._found_lost: dict[ScopedKey, tuple[Claim, Found]] = {}
        # What was cached, and the fingerprint of its record, when `take_losses` last looked.
        self._looked_at: dict[ScopedKey, tuple[Claim, object]] = {}
        # Reentrant: a signal handler that closes the session may interrupt the thread that holds it.
        self._lock = RLock()

    def __bool__(self) -> bool:
        return bool(self._granted or self._in_doubt)

    def keys(self) -> list[ScopedKey]:
        """Return the keys that are or may be held just now; twice where a cached grant may have been followed by another."""
        with self._lock:
            return [*self._granted, *(claim.scoped for claim in self._in_doubt)]

    def known(self) -> list[ScopedKey] | None:
        """Return the keys on which something of this session may be stored; `None` if there may be too many."""
        with self._lock:
            every = dict.fromkeys([*self._granted, *(claim.scoped for claim in self._in_doubt), *self._ended])
        return None if len(every) >= _MAX_KNOWN else list(every)

    def note_end(self, scoped: ScopedKey) -> None:
        """Note that the session has left an outcome on *scoped*."""
        with self._lock:
            if len(self._ended) < _MAX_KNOWN:
                self._ended[scoped] = None

    def granted(self) -> list[ScopedKey]:
        """Return the keys that are held for certain, as far as is known: not that of a grant in progress."""
        return list(self._granted)

    def get(self, scoped: ScopedKey) -> Claim | None:
        """Return the cached grant of *scoped*, if there is one."""
        return self._granted.get(scoped)

    @contextmanager
    def in_doubt(self, new: Claim) -> Iterator[None]:
        """Count *new* as possibly granted in the block, and after it if an exception leaves open what was written.

        Without this, a Ctrl-C or a signal handler's exception between the store's write and `add` would leave a claim
        that `close` does not release.
        """
        with self._lock:
            self._in_doubt.append(new)
        try:
            yield
        except (StoreBusyError, UnsafeDirectoryError, SessionEndedError):
            self._settle(new)  # Nothing was written, or it was released.
            raise
        except BaseException:
            with self._lock:
                if not any(doubtful is new for doubtful in self._in_doubt):  # A parallel call has settled it too early.
                    self._in_doubt.append(new)
            raise
        self._settle(new)

    @contextmanager
    def releasing(self, claims: Sequence[Claim]) -> Iterator[None]:
        """Count *claims* as perhaps released if what the block sends is not answered: their loss is not reported later."""
        try:
            yield
        except StoreUnavailableError as error:
            if error.outcome_unknown:
                with self._lock:
                    self._perhaps_released |= {claim.scoped: claim.generation for claim in claims}
            raise

    def doubts(self, scoped: ScopedKey) -> list[Claim]:
        """Return what may have been granted for *scoped* although no call has returned it."""
        with self._lock:
            return [doubtful for doubtful in self._in_doubt if doubtful.scoped == scoped]

    def settle(self, doubts: list[Claim], found: Found) -> None:
        """Forget each of *doubts* that is not the stored claim *found*.

        Read *found* after `doubts`: an older read proves nothing.
        """
        for doubtful in doubts:
            if not _is_written(doubtful, found):
                self._settle(doubtful)

    def take_doubt(self, found: Claim) -> bool:
        """Return whether *found* was granted to a call that failed, so that nobody knows of it yet; true only once."""
        with self._lock:
            doubt = next((doubtful for doubtful in self._in_doubt if _is_written(doubtful, found)), None)
            if doubt is not None:
                self._settle(doubt)
            return doubt is not None

    def add(self, claim: Claim, cached: Claim | None = None) -> Claim | None:
        """Record the grant *claim*, unless a parallel call has recorded a newer one; return *cached* if it was lost before.

        *cached* is the grant of this key that was recorded when the call began.
        """
        with self._lock:
            lost = self.lost(cached, claim)
            newer = self._granted.get(claim.scoped)
            if newer is None or newer.generation <= claim.generation:
                self._granted[claim.scoped] = claim
                self._perhaps_released.pop(claim.scoped, None)
            return lost

    def remove(self, released: Claim) -> None:
        """Record that the grant *released*, and any before it of the same key, is no longer held."""
        with self._lock:
            self._in_doubt = [doubtful for doubtful in self._in_doubt if not _is_written(doubtful, released)]
            cached = self._granted.get(released.scoped)
            if cached is not None and cached.generation <= released.generation:
                del self._granted[released.scoped]
                self._perhaps_released.pop(released.scoped, None)

    def lost(self, cached: Claim | None, found: Found) -> Claim | None:
        """Return the cached grant, and forget it, if *found* shows that we lost it.  At most once per grant.

        *cached* is the grant as it was cached before *found* was read: a parallel call may have claimed the key since,
        and an older reading says nothing about that grant.
        """
        if cached is None:
            return None
        # The time as well: where somebody removes a namespace, its counter goes too, and a new grant may get an old number.
        ours = (cached.scoped, cached.generation, cached.claimed.wall)
        if (
            isinstance(found, Claim)
            and (found.scoped, found.generation, found.claimed.wall) == ours
            and is_same_session(found.holder.name, self._name)
        ):
            if found.ended is None:
                return None
            if found.ended.by_holder:
                # Another call of this session has released it, perhaps through another server.
                self.remove(cached)
                return None
        with self._lock:
            if self._granted.get(cached.scoped) is not cached:
                return None
            lost = self._granted.pop(cached.scoped)
            if self._perhaps_released.pop(cached.scoped, None) == cached.generation:
                return None
        if self._history is not None:
            self._history.lost(lost, found)
        return lost

    def note_loss(self, scoped: ScopedKey, found: Found) -> None:
        """Keep for `take_losses` that *found* was read where the cached grant of *scoped* should be."""
        with self._lock:
            if (cached := self._granted.get(scoped)) is not None:
                self._found_lost[scoped] = (cached, found)

    def take_losses(self, store: Store | None, but: ScopedKey | None) -> list[tuple[Claim, Found]]:
        """Return each lost grant that no call has reported yet, with what is stored instead.

        These are the noted losses, and those that *store* shows for up to 100 of the keys held, except *but*.
        """
        with self._lock:
            seen, self._found_lost = [*self._found_lost.values()], {}
            held = [cached for cached in self._granted.values() if cached.scoped != but]
        looked_at: dict[ScopedKey, tuple[Claim, object]] = {}
        if store is not None:
            seen += self._read_changed(store, held[:_MAX_LOOKS], looked_at)
        losses = [(cached, found) for cached, found in seen if self.lost(cached, found) is not None]
        # Not before: after an interrupt a loss that was read and not judged would be read never again.
        self._looked_at = looked_at
        return losses

    def _read_changed(
        self, store: Store, held: list[Claim], looked_at: dict[ScopedKey, tuple[Claim, object]]
    ) -> Iterator[tuple[Claim, Found]]:
        """Yield what is stored for each of *held* whose record is not the one that was read the last time.

        All that is looked at is put into *looked_at*.
        """
        before = self._looked_at
        for cached in held:
            # Before the record is read: should it change meanwhile, this does not pass for that of the new one.
            look = cached, store.fingerprint(cached.scoped)
            with suppress(StoreUnavailableError, UnsafeDirectoryError):
                if look[1] is None or before.get(cached.scoped) != look:
                    yield cached, store.read(cached.scoped)
                looked_at[cached.scoped] = look

    def _settle(self, doubt: Claim) -> None:
        with self._lock:
            self._in_doubt = [doubtful for doubtful in self._in_doubt if doubtful is not doubt]


def _is_written(new: Claim, found: Found) -> bool:
    """Return whether *found* is the grant that *new* asked for, renewed or not: only the store knows its generation."""
    return (
        isinstance(found, Claim)
        and found.ended is None
        and (found.scoped, found.claimed) == (new.scoped, new.claimed)
        and is_same_session(found.holder.name, new.holder.name)
    )
