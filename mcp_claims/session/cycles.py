"""Cycles of waits: sessions each of which waits for the next one, so that none would ever go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from mcp_claims.errors import StoreBusyError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, tickets
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import is_file_key
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Found, Mode, ScopedKey, Ticket
from mcp_claims.stores.base import Store, without_head

_MAX_READS = 100


class CycleSearch:
    """One search for a cycle, among the tickets *found* of all namespaces.  Each key is read once, and 100 at most."""

    def __init__(self, store: Store, machine: Machine, found: tuple[Ticket, ...]) -> None:
        self._store, self._machine, self._found = store, machine, found
        self._waiting = self._by_session(found)
        # The keys from which no way leads back, and the claims that are in the way of one on a key.
        self._seen: set[ScopedKey] = set()
        self._known: dict[ScopedKey, list[Claim]] = {}

    def find(self, scoped: ScopedKey, own: str, read_all: Callable[[], tuple[Ticket, ...]]) -> tuple[Claim, ...]:
        """Return the claims of a cycle that the wait of session *own* for *scoped* is in, if that wait has to give way.

        The first claim is in the way of that wait, or of one that goes before it; the holder of each waits for the key of the
        next, or behind a wait for that, and the last belongs to *own*.  Of the waits of these sessions the one that began last
        gives way.  *read_all* returns the tickets as they are by then.
        """
        ours = next((each for each in self._waiting.get(own, []) if scoped in each.keys), None)
        if ours is None or _has_choice(ours):
            return ()
        cycle = self._path(ours, ours)
        if not cycle:
            return ()
        # A wait or a holder may have ended while we read.  If all go on, all claims were held throughout.
        again, now = self._by_session(read_all()), self._machine.now()
        names = {own, *(each.holder.name for step in cycle for each in step)}
        go_on = all(self._waiting.get(name) == again.get(name) for name in names)
        claims = tuple(claim for _, claim in cycle)
        held = all(expiry.state_of(each, now, self._machine.provably_dead) is ClaimState.HELD for each in claims)
        return claims if go_on and held else ()

    def _by_session(self, found: tuple[Ticket, ...]) -> dict[str, list[Ticket]]:
        """Return those of *found* that count."""
        waiting: dict[str, list[Ticket]] = {}
        now = self._machine.now()
        for ticket in found:
            if tickets.is_waiting(ticket, now):
                waiting.setdefault(ticket.holder.name, []).append(ticket)
        return waiting

    def _path(self, ticket: Ticket, ours: Ticket) -> tuple[tuple[Ticket, Claim], ...]:
        """Return what leads from the wait of *ticket* back to the session of *ours*, by waits that began before that one.

        Each step is a ticket and a claim that is in its way.
        """
        for first, key in self._waited_for(ticket):
            if key in self._seen:
                continue
            if ticket is not ours:
                self._seen.add(key)
            for found in self._in_the_way(key):
                if is_same_session(found.holder.name, ours.holder.name):
                    # A session does not stand in its own way.
                    if ticket is not ours:
                        return ((first, found),)
                    continue
                for each in self._waiting.get(found.holder.name, []):
                    is_before = not _has_choice(each) and self._began(each) < self._began(ours)
                    if is_before and (rest := self._path(each, ours)):
                        return ((first, found), *rest)
        return ()

    def _waited_for(self, ticket: Ticket) -> Iterator[tuple[Ticket, ScopedKey]]:
        """Yield the keys that have to become free before the session of *ticket* is served, each with the ticket that is for it.

        Those are its own, and the further keys of whoever goes before it: of a set, or of a directory.
        """
        yield from ((ticket, key) for key in ticket.keys)
        now = self._machine.now()
        for before in tickets.ahead_of(self._found, ticket.keys[0], ticket.holder, now, ticket.keys, ticket.use):
            further = [key for key in before.keys if not any(_is_within(key, own) for own in ticket.keys)]
            # Nobody looks at the numbers of another namespace.
            is_elsewhere = before.keys[0].namespace != ticket.keys[0].namespace
            if not further or is_elsewhere or _has_choice(before) or self._machine.provably_dead(before.holder):
                continue
            # It does not give way to one that waits for what it holds itself.
            if not any(
                is_same_session(each.holder.name, ticket.holder.name)
                for key in before.keys
                for each in self._in_the_way(key)
            ):
                yield from ((before, key) for key in further)

    def _began(self, ticket: Ticket) -> tuple[float, float, str]:
        """Return a key that orders the waits of all namespaces in the same way for every session."""
        if self._store.serves_queue:
            # Not by clocks, which differ between machines: the session whose wait closes a cycle would not find it.
            return ticket.number, 0.0, ""
        return ticket.taken.wall.timestamp(), ticket.taken.ticks, ticket.holder.name

    def _in_the_way(self, scoped: ScopedKey) -> list[Claim]:
        """Return the claims that are held on *scoped*, and on the files that overlap with it; none beyond the keys to read."""
        if scoped not in self._known:
            self._known[scoped] = self._read(scoped) if len(self._known) < _MAX_READS else []
        return self._known[scoped]

    def _read(self, scoped: ScopedKey) -> list[Claim]:
        stored: list[Found] = []
        with suppress(StoreUnavailableError, StoreBusyError, UnsafeDirectoryError):
            if (found := self._store.read(scoped)) is not None:
                stored += without_head(found, self._store.read_all)
            stored += self._store.overlapping(scoped) if is_file_key(scoped) else ()
        now, provably_dead = self._machine.now(), self._machine.provably_dead
        return [
            found
            for found in stored
            if isinstance(found, Claim) and expiry.state_of(found, now, provably_dead) is ClaimState.HELD
        ]


def _is_within(scoped: ScopedKey, other: ScopedKey) -> bool:
    """Return whether all that is in the way of a claim on *scoped* is in the way of one on *other*, too."""
    return scoped == other or (is_file_key(other) and other.key.endswith("/") and scoped.key.startswith(other.key))


def _has_choice(ticket: Ticket) -> bool:
    """Return whether the session of *ticket* waits for one of several: while any of their holders can go on, it can."""
    return ticket.any or ticket.use.mode is Mode.SLOT
