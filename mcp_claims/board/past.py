"""What the history says of the last hours, as the page gets it; without a history it is empty."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Protocol

from mcp_claims.board.facts import Session, milliseconds
from mcp_claims.model.history import Event, Kind
from mcp_claims.model.names import user_and_host
from mcp_claims.model.records import ScopedKey
from mcp_claims.render.phrases import shown
from mcp_claims.stores.base import Store
from mcp_claims.stores.history.reader import HistoryReader

WINDOW = timedelta(hours=24)
_MAX_EVENTS = 20_000
_LEFT_OUT = (Kind.RENEWED, Kind.TAKEN_OVER, Kind.FORGOTTEN)
"""They neither begin a hold nor end one."""


class Reader(Protocol):
    """Reads a history."""

    def events(self, since: datetime | None = None, until: datetime | None = None) -> Iterator[Event]:
        """Yield the events from *since* on and before *until*, by time."""

    def new_events(self) -> list[Event]:
        """Return what was written since the last call; the first call returns nothing."""


class PastEvent(Session, total=False):
    """One event; `seconds` is how long the key was held, `times` how often a refusal was repeated."""

    at: int
    kind: str
    ns: str
    key: str
    generation: int
    note: str
    outcome: str
    found: str
    by: str
    times: int
    seconds: float


class Past:
    """The events of the last day of a history, as far as they fit: 20,000."""

    def __init__(self, reader: Reader | None) -> None:
        self._reader = reader
        self._events: deque[PastEvent] = deque(maxlen=_MAX_EVENTS)
        self._began = False
        self.changed: set[ScopedKey] = set()
        """The keys of the events that the last `read` has found."""
        self.namespaces: set[str] = set()
        """Those of all events."""
        self.is_kept = reader is not None
        self.total = 0
        """How many events there were so far, those that are no longer kept included."""

    def read(self) -> tuple[PastEvent, ...]:
        """Return the events, those that have come since the last call included."""
        if self._reader is None:
            return ()
        new: list[Event] = []
        with suppress(OSError):  # The claims are shown all the same.
            # What is written between these two calls comes twice, never not at all; the page takes equal events for one.
            new = self._reader.new_events()
            if not self._began:
                new = list(self._reader.events(datetime.now(UTC) - WINDOW))
                self._began = True
        self.changed = {event.scoped for event in new if event.key}
        self.namespaces.update(scoped.namespace for scoped in self.changed)
        events = [event_of(event) for event in new if event.kind not in _LEFT_OUT]
        self._events.extend(events)
        self.total += len(events)
        return tuple(self._events)


def event_of(event: Event) -> PastEvent:
    """Return *event* as the page gets it."""
    past: PastEvent = {
        "at": milliseconds(event.at),
        "kind": event.kind.value,
        "ns": shown(event.namespace),
        "key": shown(event.key),
        "generation": event.generation,
        "session": shown(event.holder),
    }
    if (person := user_and_host(event.holder)) is not None:
        past["client"] = shown(f"{person[0]} (a person)")
    elif event.client:
        past["client"] = shown(event.client)
    for name, text in (
        ("label", event.label),
        ("directory", event.directory),
        ("note", event.note),
        ("outcome", event.outcome),
        ("found", event.found),
        ("by", event.by),
    ):
        if text:
            past[name] = shown(text)  # type: ignore[literal-required]
    if event.times is not None:
        past["times"] = event.times
    if event.duration_seconds is not None:
        past["seconds"] = round(event.duration_seconds, 3)
    return past


def past_of(store: Store) -> Past:
    """Return the past of *store*, as far as its history is kept."""
    history = store.history
    return Past(HistoryReader(history.directory) if history is not None and history.is_kept else None)
