"""Reading a history: events of a time, in order, and those that come later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import groupby

from mcp_claims.model.history import Event, Kind, LineError, beginning_of_last, from_line
from mcp_claims.stores.files.filenames import file_name, key_of
from mcp_claims.stores.history.files import HistoryFile, parse_name

_EVER = datetime.min.replace(tzinfo=UTC)
_LONGEST_LINE = 1024 * 1024
_A_DAY = timedelta(days=1)


class HistoryReader:
    """Reads the history in *directory*, which need not exist; with a *namespace*, that of it alone.

    `damaged` counts the lines that `events` and `new_events` could not read so far: torn by a crash, or of a newer version.
    One that may still be being written does not count.  With *gaps*, `events` yields a `gap` in the place of each.
    """

    def __init__(self, directory: str, namespace: str | None = None, *, gaps: bool = False) -> None:
        self.directory = directory
        self.damaged = 0
        self._gaps = gaps
        self._namespace = None if namespace is None else file_name(namespace)
        self._follows = False
        self._read_up_to: dict[HistoryFile, int] = {}

    def events(self, since: datetime | None = None, until: datetime | None = None) -> Iterator[Event]:
        """Yield the events from *since* on and before *until*, by time; those of one namespace in the order of its changes.

        A file that is removed meanwhile, since it has become old, is passed over.
        """
        chosen = self._files(since, until)
        by_namespace = groupby(sorted(chosen, key=lambda file: (file.namespace, file)), key=lambda file: file.namespace)
        parts = [list(files) for _, files in by_namespace]
        for _, event in merge(*(self._in_order(files) for files in parts), key=lambda item: item[0]):
            if (since is None or event.at >= since) and (until is None or event.at < until):
                yield event

    def new_events(self) -> list[Event]:
        """Return what was written since the last call, as far as it is complete; the first call returns nothing."""
        first, self._follows, found = not self._follows, True, list[Event]()
        for file in self._files(None, None):
            if first:
                self._read_up_to[file] = self._size(file)
                continue
            at = self._read_up_to.get(file, 0)
            if self._size(file) <= at:
                continue  # Most are of earlier days.
            for line, end in self._lines(file, at):
                if not line.endswith(b"\n"):
                    break  # Somebody is writing it.
                self._read_up_to[file] = end
                if (event := self._parse(line)) is not None:
                    found.append(event)
        return sorted(found, key=lambda event: event.at)

    def _files(self, since: datetime | None, until: datetime | None) -> list[HistoryFile]:
        try:
            names = os.listdir(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        # A day more on either side: a clock that was set, or a line that waited for its lock over midnight.
        first = "" if since is None else (since.astimezone(UTC) - _A_DAY).date().isoformat()
        last = "9" if until is None else (until.astimezone(UTC) + _A_DAY).date().isoformat()
        return sorted(
            file
            for name in names
            if (file := parse_name(name)) is not None
            and first <= file.day <= last
            and self._namespace in (None, file.namespace)
        )

    def _in_order(self, files: list[HistoryFile]) -> Iterator[tuple[datetime, Event]]:
        """Yield the events of one namespace, each with the latest time so far: a clock that was set back changes no order."""
        latest = _EVER
        for file in files:
            for line, _ in self._lines(file, 0):
                damaged = self.damaged
                event = self._parse(line)
                if self._gaps and self.damaged > damaged:
                    yield latest, Event(latest, Kind.GAP, key_of(file.namespace, "") or "", "", times=1)
                if event is not None:
                    latest = max(latest, event.at)
                    yield latest, event

    def _lines(self, file: HistoryFile, start: int) -> Iterator[tuple[bytes, int]]:
        """Yield the lines of *file* from the byte *start* on, and where each ends; the last may have no end."""
        try:
            with open(f"{self.directory}/{file.name}", "rb") as opened:
                opened.seek(start)
                while line := opened.readline(_LONGEST_LINE):
                    yield line, opened.tell()
        except FileNotFoundError:
            return

    def _parse(self, line: bytes) -> Event | None:
        whole = line[beginning_of_last(line) :]
        # What comes before it is the rest of one that was torn.
        self.damaged += len(whole) < len(line)
        try:
            return from_line(whole) if whole.strip() else None
        except LineError:
            self.damaged += 1
            return None

    def _size(self, file: HistoryFile) -> int:
        try:
            return os.stat(f"{self.directory}/{file.name}").st_size
        except FileNotFoundError:
            return 0
