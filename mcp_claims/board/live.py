"""The board of one store: what is stored now, read again as it changes, while anybody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import cache, partial
from threading import Condition, Event, Lock
from typing import NamedTuple

from mcp_claims.board.facts import Row, Wait, milliseconds, row_id, row_of, waits_of
from mcp_claims.board.past import Past, PastEvent
from mcp_claims.errors import ClaimsError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, tickets
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Found, Moment, ScopedKey, Unreadable
from mcp_claims.model.text import one_line
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store, call_before, without_head
from mcp_claims.stores.threads import start_daemon_thread

_SETTLE = 0.02  # s in which changes are gathered
_TICK = 1.0  # s: an expiry or a death changes nothing that is stored
_LONGEST = 10.0
"""Seconds that a reading of the store may take, and after which a board that nobody looks at is no longer read."""

_RATIO = 20
"""A reading of everything is followed by a pause this many times as long, unless something changes: 5 % of a core at most."""

_LONGEST_PAUSE = 60.0
"""Seconds after which everything is read, however often something changes: a store can miss a notice."""

_MANY = 1_000
"""Claims from which on a change makes only those read again that have changed: to read 10,000 takes half a second."""

_CONSISTENT = 1.5
"""Seconds from the start of a reading for which the fingerprints of what was read can be taken: a store has none for what
changed within the last 2 s, so none can belong to a newer record than the one that was read."""


class Snapshot(NamedTuple):
    """What the board shows at one time; never changed, and what has not changed is the same object in the next one.

    `total` is how many events there have been, those of `events` included.
    """

    at: int
    rows: Mapping[str, Row]
    waits: tuple[Wait, ...]
    events: tuple[PastEvent, ...]
    total: int
    problem: str | None = None


class _Entry(NamedTuple):
    found: Claim | Unreadable
    state: ClaimState
    row: Row
    fingerprint: object = None


class Board:
    """The claims of *store* for people who look on; *session* reads them, *where* names the store, *past* its history."""

    def __init__(self, store: Store, session: Session, machine: Machine, *, where: str, past: Past) -> None:
        self.where, self.has_history = where, past.is_kept
        self._store, self._session, self._machine, self._past = store, session, machine, past
        self._entries: dict[str, _Entry] = {}
        self._read_at, self._took, self._consistent_until = 0.0, 0.0, 0.0
        self._latest: Snapshot | None = None
        self._unchecked = False
        self._reading, self._changed, self._noticed = Lock(), Condition(), Event()
        self._watching, self._asked = False, 0.0

    def wait(self, seen: Snapshot | None, seconds: float) -> Snapshot | None:
        """Return the latest snapshot once it is another one than *seen*, or after *seconds*; `None` if there is none yet."""
        with self._changed:
            self._asked = time.monotonic()
            if not self._watching:
                self._watching, self._latest = True, None
                start_daemon_thread(self._watch, "mcp-claims board")
            self._changed.wait_for(lambda: self._latest is not None and self._latest is not seen, seconds)
            return self._latest

    def claim_of(self, row: str) -> Claim | None:
        """Return the claim that a row of the latest snapshot is about; `None` if there is none, or it cannot be read."""
        entry = self._entries.get(row)
        return entry.found if entry is not None and isinstance(entry.found, Claim) else None

    def read(self) -> Snapshot:
        """Return what is stored now; if the store cannot answer, what was read last, with the reason."""
        with self._reading:
            return self._read_in_time(changed=True)

    def refresh(self) -> None:
        """Let what is stored be read again soon."""
        self._noticed.set()

    def _watch(self) -> None:
        try:
            while not self._is_left():
                with self._session.watch(None, self._noticed.set) as watched:
                    self._follow(watched)
        finally:
            with self._changed:
                self._watching = False

    def _follow(self, watched: bool) -> None:
        noticed = True
        while not self._is_left():
            self._noticed.clear()
            began = time.monotonic()
            with self._reading:
                self._publish(self._read_in_time(changed=noticed))
                self._take_fingerprints()
            ended = time.monotonic()
            if noticed := self._unchecked:
                continue
            noticed = self._noticed.wait(_TICK)
            if noticed:
                # Half of a core at most, however often something changes.
                time.sleep(max(_SETTLE, 2 * ended - began - time.monotonic()))
            elif not watched:
                return  # Perhaps it can be watched by now.

    def _is_left(self) -> bool:
        with self._changed:
            self._watching = time.monotonic() - self._asked < 2 * _LONGEST
            return not self._watching

    def _publish(self, snapshot: Snapshot) -> None:
        with self._changed:
            before = self._latest
            if before is None or snapshot._replace(at=before.at) != before:
                self._latest = snapshot
                self._changed.notify_all()

    def _read_in_time(self, *, changed: bool) -> Snapshot:
        events = self._past.read()
        read = partial(self._read, changed=changed or bool(self._past.changed))
        try:
            call_before(time.monotonic() + _LONGEST, read)
            problem = None
        except ClaimsError as error:
            problem = one_line(str(error))
        now = self._machine.now()
        rows = {row: entry.row for row, entry in self._entries.items()}
        waits = self._latest.waits if self._latest is not None else ()
        with suppress(ClaimsError):
            waits = self._waits(now)
        return Snapshot(milliseconds(now.wall), rows, waits, events, self._past.total, problem)

    def _read(self, *, changed: bool) -> None:
        began = time.monotonic()
        age, pause = began - self._read_at, _RATIO * self._took
        if not changed and age < pause:
            return
        if not changed or age >= _LONGEST_PAUSE or self._store.remote or len(self._entries) < _MANY:
            page = self._session.list_claims(limit=sys.maxsize)
            rows = ((row_id(each.found), each) for each in page.claims)
            self._entries = {row: self._entry(row, each.found, each.state, page.now) for row, each in rows}
            self._read_at, self._took = began, time.monotonic() - began
        elif self._past.changed and not self._unchecked:
            # What the history names is read at once; whether anything else has changed is seen right after that.
            self._read_keys(self._past.changed)
            self._unchecked = True
            return
        else:
            self._read_changed()
        self._unchecked = False
        self._consistent_until = began + _CONSISTENT

    def _read_keys(self, keys: Collection[ScopedKey]) -> None:
        entries = {
            row: entry
            for row, entry in self._entries.items()
            if not (isinstance(entry.found, Claim) and entry.found.scoped.base in keys)
        }
        add = self._adding(entries)
        for scoped in keys:
            add(self._store.read(scoped))
        self._entries = entries

    def _adding(self, entries: dict[str, _Entry]) -> Callable[[Found], None]:
        """Return a function that puts into *entries* what was found at a key now."""
        now, provably_dead = self._machine.now(), cache(self._machine.provably_dead)

        def add(found: Found) -> None:
            for each in [] if found is None else without_head(found, self._store.read_all):
                state = expiry.state_of(each, now, provably_dead)
                entries[row_id(each)] = self._entry(row_id(each), each, state, now)

        return add

    def _read_changed(self) -> None:
        """Read again what may have changed, and what is new in the namespaces that are known, by the history, too."""
        entries: dict[str, _Entry] = {}
        add = self._adding(entries)
        known: set[ScopedKey] = set()
        for row, entry in self._entries.items():
            if not isinstance(entry.found, Claim):
                entries[row] = entry
                continue
            scoped = entry.found.scoped
            if scoped.member is None:
                known.add(scoped)
            fingerprint = self._store.fingerprint(scoped)
            if fingerprint is None or fingerprint != entry.fingerprint:
                add(self._store.read(scoped))
            else:
                entries[row] = entry
        found = (entry.found for entry in self._entries.values())
        namespaces = {each.scoped.namespace for each in found if isinstance(each, Claim)}
        for namespace in namespaces | self._past.namespaces:
            for key in self._store.names(namespace, sys.maxsize):
                if (scoped := ScopedKey(namespace, key)) not in known:
                    add(self._store.read(scoped))
        self._entries = entries

    def _entry(self, row: str, found: Claim | Unreadable, state: ClaimState, now: Moment) -> _Entry:
        before = self._entries.get(row)
        if before is not None and before.found == found and before.state is state:
            return before
        return _Entry(found, state, row_of(found, state, now))

    def _take_fingerprints(self) -> None:
        if len(self._entries) < _MANY or self._store.remote:
            return
        entries = dict(self._entries)
        for row, entry in entries.items():
            if time.monotonic() > self._consistent_until:
                break
            if entry.fingerprint is None and isinstance(entry.found, Claim):
                fingerprint = self._store.fingerprint(entry.found.scoped)
                entries[row] = entry._replace(fingerprint=fingerprint)
        self._entries = entries

    def _waits(self, now: Moment) -> tuple[Wait, ...]:
        found = tickets.current(self._store.tickets(None), now, cache(self._machine.provably_dead))
        waiting = [ticket for ticket in found if tickets.is_waiting(ticket, now)]
        claims = (
            (row, entry.found)
            for row, entry in self._entries.items()
            if isinstance(entry.found, Claim) and entry.state in (ClaimState.HELD, ClaimState.RESERVED)
        )
        return waits_of(waiting, claims) if waiting else ()
