"""Whether a history keeps what is promised: one holder, generations that grow, ends, and work that stays done.  Pure.

It replays the events and remembers which grants are in force.  What it cannot know, it counts as unknown and not as broken: a
generation without a line, since a process may die between a change and its line, and what lies behind a line that is damaged or
could not be written.  On etcd a lease ends claims without a line of anybody, so that a grant of a free key says nothing there of
the one before; but whoever still changes a claim after that has held it beside another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from mcp_claims.model.history import Event, Kind
from mcp_claims.model.keys import PLACES, conflict, is_file_key
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Maker, ScopedKey


class Promise(StrEnum):
    """What a history is checked for."""

    ONE_HOLDER = "one holder"
    GENERATIONS_GROW = "generations grow"
    EVERY_HOLD_ENDS = "every hold ends"
    DONE_STAYS_DONE = "done stays done"


class Violation(NamedTuple):
    """An event that breaks a promise, the event that it is at odds with, and why, for people."""

    promise: Promise
    event: Event
    other: Event | None
    why: str


@dataclass
class Findings:
    """What a check has found; `unknown` counts grants whose begin or end no line says, `in_force` those without an end yet."""

    grants: int = 0
    reservations: int = 0
    refusals: int = 0
    in_force: int = 0
    unknown: int = 0
    gaps: int = 0
    violations: list[Violation] = field(default_factory=list)


@dataclass(eq=False)
class _Hold:
    """A grant: the event that began it or, if that is unknown, was the first about it."""

    event: Event
    holder: str
    expires: datetime | None
    mode: str
    slot: int | None
    slots: int | None
    is_over: bool = False
    superseded_by: Event | None = None
    """The grant to somebody else that was made although no line says how this one ended."""
    uncertain: bool = False
    """Whether lines are missing that may say how it ended."""


_DONE = "done"


class _Replay:
    def __init__(self, *, complete: bool) -> None:
        self.findings = Findings()
        self._complete = complete
        self._holds: dict[tuple[ScopedKey, int], _Hold] = {}
        self._open: dict[ScopedKey, list[_Hold]] = {}
        self._highest: dict[ScopedKey, int] = {}
        self._done: dict[ScopedKey, Event] = {}
        self._binding: dict[tuple[ScopedKey, int], Event] = {}
        self._dead: dict[tuple[str, int | None, int | None], Event] = {}

    def add(self, event: Event) -> None:
        match event.kind:
            case Kind.GRANTED | Kind.RESERVED:
                self._begin(event)
            case Kind.RENEWED | Kind.TAKEN_OVER:
                self._go_on(event)
            case Kind.RELEASED | Kind.EXPIRED | Kind.ORPHANED | Kind.REVOKED | Kind.LOST:
                self._end(event)
            case Kind.KEPT:
                if (hold := self._holds.get((event.scoped, event.generation))) is not None and hold.is_over:
                    self._reopen(hold)
            case Kind.FORGOTTEN:
                self._done.pop(event.scoped, None)
                if not event.generation:
                    self._doubt(event.namespace, event.key)
            case Kind.GAP:
                self.findings.gaps += 1
                self._doubt(event.namespace, "")
            case Kind.REFUSED:
                self.findings.refusals += event.times or 1

    def finish(self) -> Findings:
        holds = [hold for hold in self._holds.values() if not hold.is_over]
        self.findings.unknown += sum(hold.superseded_by is not None for hold in holds)
        self.findings.in_force = sum(hold.superseded_by is None for hold in holds)
        return self.findings

    def _begin(self, event: Event) -> None:
        taken = self._holds.get((event.scoped, event.generation))
        if event.kind is Kind.GRANTED:
            self.findings.grants += 1
        else:
            self.findings.reservations += 1
        if taken is not None and taken.event.kind is Kind.RESERVED and event.kind is Kind.GRANTED:
            # A turn that is taken.
            if taken.is_over or not is_same_session(taken.holder, event.holder):
                self._violated(Promise.ONE_HOLDER, event, taken.event, "the turn was another's, or over")
            taken.event, taken.expires = event, event.expires
        elif event.generation and event.generation <= self._highest.get(event.scoped, 0):
            other = None if taken is None else taken.event
            self._violated(
                Promise.GENERATIONS_GROW, event, other, "the key had this generation, or a higher one, before"
            )
        self._check_done(event, was_reserved=taken is not None)
        if event.kind is Kind.GRANTED and (dead := self._dead.get((event.holder, event.pid, event.start))) is not None:
            self._violated(Promise.ONE_HOLDER, event, dead, "its process had been found dead, and lives")
        if event.found_generation is not None:
            self._mention(event.scoped, event.found_generation)
        for hold in self._beside(event):
            self._judge(hold, event)
        if taken is None:
            self._hold(event)
        self._highest[event.scoped] = max(event.generation, self._highest.get(event.scoped, 0))

    def _judge(self, hold: _Hold, event: Event) -> None:
        """Judge *event*, which grants what *hold* excludes, although no line says that it is over."""
        old = hold.event
        if old.scoped == event.scoped and event.found_generation == old.generation:
            self._close(hold)  # It was met dead, or as a marker.
        elif hold.superseded_by is not None:
            return
        elif hold.uncertain or old.revision is not None or not self._complete:
            hold.superseded_by = event
        elif hold.expires is not None and hold.expires <= event.at:
            hold.superseded_by = event
            self._violated(Promise.EVERY_HOLD_ENDS, event, old, "its time was up, but no line says who found that")
        else:
            hold.superseded_by = event
            self._violated(Promise.ONE_HOLDER, event, old, f"{hold.holder} had it, and no line says that this ended")

    def _go_on(self, event: Event) -> None:
        hold = self._holds.get((event.scoped, event.generation))
        if hold is None:
            self.findings.unknown += 1
            self._mention(event.scoped, event.generation)
            hold = self._hold(event)
        elif hold.is_over or hold.superseded_by is not None:
            self._violated(Promise.ONE_HOLDER, event, hold.superseded_by or hold.event, "it goes on after it was over")
        if event.kind is Kind.TAKEN_OVER and not _may_take_over(hold.event, event):
            self._violated(Promise.ONE_HOLDER, event, hold.event, "another session has it under the same generation")
        hold.holder, hold.expires = event.holder, event.expires
        if (event.mode, event.slot) != (hold.mode, hold.slot):
            hold.mode, hold.slot, hold.slots = event.mode, event.slot, event.slots
            for other in self._beside(event):
                self._judge(other, event)

    def _end(self, event: Event) -> None:
        hold = self._holds.get((event.scoped, event.generation))
        if event.kind is Kind.ORPHANED and event.pid is not None and not event.turn:
            self._dead[event.holder, event.pid, event.start] = event
        is_late = hold is not None and (hold.is_over or hold.superseded_by is not None)
        if hold is None:
            if event.kind is not Kind.LOST:
                self.findings.unknown += 1
                self._mention(event.scoped, event.generation)
        else:
            if event.kind is Kind.RELEASED and hold.superseded_by is not None:
                if hold.event.revision is not None and event.revision is None:
                    # No answer to it came, and the key was found free: its lease may have ended long before.
                    self.findings.unknown += 1
                else:
                    # Only its holder releases it, and finds it in its place.
                    why = "it was released after another was granted the key"
                    self._violated(Promise.ONE_HOLDER, event, hold.superseded_by, why)
            self._close(hold)
        # One that had no answer may be noted after another was granted the key, who has asked for it again.
        if event.kind is Kind.RELEASED and event.outcome == _DONE and _is_binding(event) and not is_late:
            self._done[event.scoped] = self._binding[event.scoped, event.generation] = event

    def _check_done(self, event: Event, *, was_reserved: bool) -> None:
        done = self._done.pop(event.scoped, None)
        if event.found == _DONE:
            done = self._binding.get((event.scoped, event.found_generation or 0))
        elif event.found is not None or (done is not None and (done.expires is None or done.expires <= event.at)):
            return
        # Of several keys that are asked for together, the first is the work.
        is_first = not event.group or event.group[0] == event.scoped
        if done is not None and is_first and not (event.redo or was_reserved or event.kind is Kind.RESERVED):
            self._violated(Promise.DONE_STAYS_DONE, event, done, "the work was done, and nobody asked for it again")

    def _mention(self, scoped: ScopedKey, generation: int) -> None:
        """Note that there was a grant of this *generation*: how an earlier one without an end ended is unknown."""
        if (scoped, generation) not in self._holds:
            for hold in self._open.get(scoped, ()):
                hold.uncertain = hold.uncertain or hold.event.generation < generation
        self._highest[scoped] = max(generation, self._highest.get(scoped, 0))

    def _doubt(self, namespace: str, key: str) -> None:
        for scoped, holds in self._open.items():
            if scoped.namespace == namespace and key in ("", scoped.key):
                for hold in holds:
                    hold.uncertain = True
        for scoped in [scoped for scoped in self._done if scoped.namespace == namespace and key in ("", scoped.key)]:
            del self._done[scoped]

    def _beside(self, event: Event) -> list[_Hold]:
        """Return what is in force, of other sessions, and excludes that *event* begins."""
        scoped = event.scoped
        keys = [scoped]
        if is_file_key(scoped):
            keys = [other for other in self._open if other.namespace == PLACES and conflict(other, scoped)]
        return [
            hold
            for key in keys
            for hold in self._open.get(key, ())
            if hold.event.generation != event.generation or key != scoped
            if not is_same_session(hold.holder, event.holder) and not _goes_with(hold, event, same_key=key == scoped)
        ]

    def _hold(self, event: Event) -> _Hold:
        hold = _Hold(event, event.holder, event.expires, event.mode, event.slot, event.slots)
        self._holds[event.scoped, event.generation] = hold
        # A session that has the key anew has lost what it had before.
        for other in [each for each in self._open.get(event.scoped, ()) if is_same_session(each.holder, event.holder)]:
            self._close(other)
        self._open.setdefault(event.scoped, []).append(hold)
        return hold

    def _close(self, hold: _Hold) -> None:
        hold.is_over = True
        holds = self._open.get(hold.event.scoped, [])
        if hold in holds:
            holds.remove(hold)
        if not holds:
            self._open.pop(hold.event.scoped, None)

    def _reopen(self, hold: _Hold) -> None:
        hold.is_over = False
        self._open.setdefault(hold.event.scoped, []).append(hold)

    def _violated(self, promise: Promise, event: Event, other: Event | None, why: str) -> None:
        self.findings.violations.append(Violation(promise, event, other, why))


def check(events: Iterable[Event], *, complete: bool = True) -> Findings:
    """Return what *events* of one store, those of each namespace in the order of its changes, show of the promises.

    They are not *complete* where other programs change claims, too, and write no history.
    """
    replay = _Replay(complete=complete)
    for event in events:
        replay.add(event)
    return replay.finish()


def by_revision(machines: Iterable[Iterable[Event]]) -> list[Event]:
    """Return the events of several machines in the order of the changes of the cluster that they share.

    A line without a revision comes after the one before it on its machine, and after its grant, whose revision is its generation:
    another process may have written a line that is older than that grant in between.
    """
    ordered: list[tuple[int, Event]] = []
    for events in machines:
        revision = 0
        for event in events:
            revision = event.revision or revision
            ordered.append((event.revision or max(revision, event.generation), event))
    return [event for _, event in sorted(ordered, key=lambda item: item[0])]


def _may_take_over(old: Event, new: Event) -> bool:
    """Return whether the session of *new* may go on with the claim of *old*: it is the same, or that was made for it."""
    of_one_host = old.host_session is not None and old.host_session == new.host_session
    return of_one_host or old.maker == Maker.GUARD or is_same_session(old.holder, new.holder)


def _goes_with(hold: _Hold, event: Event, *, same_key: bool) -> bool:
    if hold.mode == event.mode == "shared":
        return True
    is_slot = same_key and hold.mode == event.mode == "slot" and hold.slots == event.slots
    return is_slot and hold.slot != event.slot


def _is_binding(event: Event) -> bool:
    """Return whether work that *event* says is done must not be done again."""
    is_first = not event.group or event.group[0] == event.scoped
    return event.mode == "alone" and event.namespace != PLACES and is_first
