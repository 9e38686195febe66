"""The board of one store: what is stored now, read again as it changes, while a page is open."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from math import inf
from threading import Condition, Event, Lock
from typing import NamedTuple

from mcp_claims.board.facts import Row, Wait, milliseconds, row_id, row_of, waits_of
from mcp_claims.board.past import Past, PastEvent
from mcp_claims.errors import ClaimsError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, tickets
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Moment, ScopedKey, Unreadable, is_head
from mcp_claims.model.text import one_line
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store, call_before, without_head
from mcp_claims.stores.threads import start_daemon_thread

_SETTLE = 0.02  # s in which changes are gathered
_TICK = 1.0  # s: an expiry or a death changes nothing that is stored
_LONGEST = 10.0
"""Seconds that a reading of the store may take; a board that nobody has open is read for twice as long."""

_RATIO = 20
"""A scan of all that is stored is followed by a pause this many times as long, so it takes 5 % of a core at most."""

_LONGEST_PAUSE = 60.0
"""Seconds after which everything is read, whatever the fingerprints say: not every namespace is known by name."""

_MANY = 1_000
"""With this many claims or more, a change makes only those be read that have changed: all of 10,000 take a second or two."""

_SLICE = 0.03
"""Seconds of a scan of many claims after which it stops, for what has changed meanwhile to be shown."""

_CONSISTENT = 1.5
"""Seconds after the beginning of a read for which the fingerprint can be taken: a store has none for what changed within the last
2 s, so none can belong to a newer record than the one that was read."""


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
    base: ScopedKey | None
    fingerprint: object = None


_Judge = Callable[[Claim | Unreadable, object], _Entry]


class Board:
    """The claims of *store* for people; *session* reads them, *where* names the store, *past* its history."""

    def __init__(self, store: Store, session: Session, machine: Machine, *, where: str, past: Past) -> None:
        self.where, self.has_history = where, past.is_kept
        self._store, self._session, self._machine, self._past = store, session, machine, past
        self._entries: dict[str, _Entry] = {}
        self._scan: Iterator[None] | None = None
        """The scan of all that is stored, if one has begun and not ended: it stops after each claim."""
        self._scan_took, self._scan_ended, self._all_read_at = 0.0, -inf, -inf
        self._latest: Snapshot | None = None
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
            snapshot = self._read_in_time(changed=True)
            while self._scan is not None:
                snapshot = self._read_in_time(changed=False)
            return snapshot

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
            # Half of a core at most, however often something changes.
            pause = time.monotonic() - began
            noticed = self._noticed.wait(_TICK if self._scan is None else pause)
            if noticed:
                time.sleep(max(_SETTLE, began + 2 * pause - time.monotonic()))
            elif not watched and self._scan is None:
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
        is_many = len(self._entries) >= _MANY and not self._store.remote
        if is_many:
            self._read_keys(self._past.changed)
        if self._scan is None:
            # What has changed is known by the history, if there are many.
            is_due = changed and not (is_many and self._past.is_kept)
            if not is_due and time.monotonic() - self._scan_ended < _RATIO * self._scan_took:
                return
            is_all_due = not is_many or time.monotonic() - self._all_read_at >= _LONGEST_PAUSE
            self._scan, self._scan_took = self._read_all() if is_all_due else self._read_changed(), 0.0
        self._go_on(_SLICE if is_many and self._past.is_kept else inf)

    def _go_on(self, seconds: float) -> None:
        """Go on with the scan of all that is stored, for so many *seconds*."""
        assert self._scan is not None
        began, scan, self._scan = time.monotonic(), self._scan, None
        self._scan_ended = -inf  # If the store does not answer, it is asked again soon.
        for _ in scan:
            if time.monotonic() - began >= seconds:
                self._scan = scan
                break
        self._scan_ended = time.monotonic()
        self._scan_took += self._scan_ended - began

    def _read_all(self) -> Iterator[None]:
        """Read everything."""
        judge, before, seen = self._judging(), dict(self._entries), set[str]()
        for found in self._store.scan():
            if not is_head(found):  # Its members are in the list.
                seen.add(row := row_id(found))
                self._entries[row] = judge(found, None)
            yield
        for row, entry in before.items():
            if row not in seen and self._entries.get(row) is entry:
                del self._entries[row]
        self._all_read_at = time.monotonic()

    def _read_changed(self) -> Iterator[None]:
        """Judge what is known anew, read what may have changed, and what is new in the namespaces that are known."""
        judge, known = self._judging(), set[ScopedKey]()
        for row, entry in list(self._entries.items()):
            yield
            if not isinstance(entry.found, Claim) or self._entries.get(row) is not entry:
                continue  # The latter has been read meanwhile.
            scoped = entry.found.scoped
            if scoped.member is None:
                known.add(scoped)
            fingerprint = self._store.fingerprint(scoped)
            if fingerprint is not None and fingerprint == entry.fingerprint:
                self._entries[row] = judge(entry.found, fingerprint)
            else:
                self._replace([row], self._read_at(scoped, judge))
        namespaces = {scoped.namespace for scoped in known} | self._past.namespaces
        for namespace in namespaces:
            for key in self._store.names(namespace, sys.maxsize):
                yield
                if (scoped := ScopedKey(namespace, key)) not in known:
                    self._replace([], self._read_at(scoped, judge))

    def _read_keys(self, keys: Collection[ScopedKey]) -> None:
        if keys:
            judge = self._judging()
            found = [entry for scoped in keys for entry in self._read_at(scoped, judge)]
            self._replace([row for row, entry in self._entries.items() if entry.base in keys], found)

    def _replace(self, rows: Collection[str], entries: Iterable[_Entry]) -> None:
        for row in rows:
            self._entries.pop(row, None)
        self._entries.update((row_id(entry.found), entry) for entry in entries)

    def _read_at(self, scoped: ScopedKey, judge: _Judge) -> list[_Entry]:
        """Return what is stored at *scoped* now: nothing, one, or all who hold it."""
        began = time.monotonic()
        found = self._store.read(scoped)
        if is_head(found):
            return [judge(each, None) for each in without_head(found, self._store.read_all)]
        fingerprint = self._store.fingerprint(scoped)
        if time.monotonic() - began > _CONSISTENT:
            fingerprint = None
        return [] if found is None else [judge(found, fingerprint)]

    def _judging(self) -> _Judge:
        """Return a function that makes the entry of what was found; what has not changed keeps its row."""
        now, provably_dead = self._machine.now(), cache(self._machine.provably_dead)

        def judge(found: Claim | Unreadable, fingerprint: object) -> _Entry:
            state, before = expiry.state_of(found, now, provably_dead), self._entries.get(row_id(found))
            if before is not None and before.found == found and before.state is state:
                return before if fingerprint in (None, before.fingerprint) else before._replace(fingerprint=fingerprint)
            base = found.scoped.base if isinstance(found, Claim) else None
            return _Entry(found, state, row_of(found, state, now), base, fingerprint)

        return judge

    def _waits(self, now: Moment) -> tuple[Wait, ...]:
        found = tickets.current(self._store.tickets(None), now, cache(self._machine.provably_dead))
        waiting = [ticket for ticket in found if tickets.is_waiting(ticket, now)]
        claims = (
            (row, entry.found)
            for row, entry in self._entries.items()
            if isinstance(entry.found, Claim) and entry.state in (ClaimState.HELD, ClaimState.RESERVED)
        )
        return waits_of(waiting, claims) if waiting else ()
