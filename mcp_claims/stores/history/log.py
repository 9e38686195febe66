"""Appending to a history: one write for the lines of one change, which no other process tears.

A process can die, and a disk fill up, in the middle of a line; the next line then begins right behind it.  A reader finds that
beginning (see `model.history.beginning_of_last`), so that a torn line costs no other.  Lines that could not be written are
counted, and the next one that can be written is preceded by their number.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta

from mcp_claims.errors import StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.liveness import Machine
from mcp_claims.model.history import Event, Kind, to_line
from mcp_claims.model.records import Claim, Found, Holder, Moment, ScopedKey
from mcp_claims.stores.base import Change
from mcp_claims.stores.files.directories import PrivateDirectories
from mcp_claims.stores.files.filesystem import APPEND, CREATE_TO_APPEND, FileSystem, OpenFile
from mcp_claims.stores.history.events import begins, end_of_trace, ends, ends_beside, event_of, plain
from mcp_claims.stores.history.files import HistoryFile, file_of, parse_name
from mcp_claims.stores.history.history import Limits, report_once

_MEGABYTE = 1 << 20
_PARTS = 8
"""How many parts a history that is full has at least: the oldest is removed as a whole."""
_MAX_OPEN = 16
_LOOKS_AFTER = 1.0  # s
_BETWEEN_REFUSALS = 60.0  # s
_MAX_REFUSALS = 1_000
_MAX_PASSED = 10_000


class _Open:
    """A file that is being written, and when we `looked` whether somebody has removed it."""

    def __init__(self, file: HistoryFile, day: date, opened: OpenFile, looked: float) -> None:
        self.file, self.day, self.opened, self.looked = file, day, opened, looked


class _Refusals:
    """How often one session was refused one grant since the line that was written at `written`."""

    def __init__(self, event: Event, written: float) -> None:
        self.event, self.written = event, written
        self.times = 0


class Log:
    """Appends to the history in *directory*."""

    def __init__(self, directory: str, limits: Limits, fs: FileSystem, machine: Machine) -> None:
        self._directory, self._limits, self._fs, self._machine = directory, limits, fs, machine
        self._part_bytes = limits.megabytes * _MEGABYTE // _PARTS
        self._private = PrivateDirectories(fs, directory)
        # Not locked, since a forked child would inherit a locked lock: of two threads that open one file, one closes it again.
        self._open_files: dict[str, _Open] = {}
        self._missing: dict[str, int] = {}
        # By key and generation, the dead claims on files of which we have noted that somebody passed over them.
        self._passed_before: set[tuple[ScopedKey, int]] = set()
        self._refusals: dict[tuple[str, ScopedKey, int, str | None], _Refusals] = {}

    def changed(
        self,
        changes: Sequence[Change],
        traces: Sequence[Claim | None],
        revision: int | None,
        passed: Sequence[Claim],
    ) -> None:
        now = self._machine.now()
        is_plain = len(changes) == 1 and not any(traces) and not passed and not self._missing
        if is_plain and (line := plain(changes[0], now, revision)) is not None:
            self._write_line(changes[0].scoped.namespace, now.wall, line)
            return
        events = [end_of_trace(trace, now, changes) for trace in traces if trace is not None]
        events += self._passed(changes, passed, now)
        events += [*ends(changes, now, self._proof_of_death), *begins(changes, now)]
        self._write([event._replace(revision=revision) for event in events] if revision is not None else events)

    def ending(self, changes: Sequence[Change], passed: Sequence[Claim]) -> None:
        now = self._machine.now()
        self._write([*self._passed(changes, passed, now), *ends(changes, now, self._proof_of_death)])

    def begun(self, changes: Sequence[Change]) -> None:
        self._write(begins(changes, self._machine.now()))

    def kept(self, changes: Sequence[Change]) -> None:
        now = self._machine.now()
        ended = {event.generation for event in ends(changes, now, lambda _: None)}
        held = [change.old for change in changes if change.old is not None and change.old.generation in ended]
        self._write([event_of(Kind.KEPT, claim, now) for claim in held])

    def removed(self, scoped: ScopedKey, problem: str) -> None:
        note = f"it could not be read: {problem}"
        self._write([Event(self._machine.now().wall, Kind.FORGOTTEN, scoped.namespace, scoped.key, note=note)])

    def refused(self, asked: Sequence[ScopedKey], holder: Holder, found: Found) -> None:
        claim = found if isinstance(found, Claim) else None
        generation = 0 if claim is None else claim.generation
        outcome = claim.ended.outcome.value if claim is not None and claim.ended is not None else None
        which = (holder.name, asked[0], generation, outcome)
        now = self._machine.now()
        refusals = self._refusals.get(which)
        if refusals is None:
            self._forget_refusals(now)
            event = Event(
                now.wall,
                Kind.REFUSED,
                asked[0].namespace,
                asked[0].base.key,
                generation,
                group=tuple(asked) if len(asked) > 1 else (),
                holder=holder.name,
                client=holder.client,
                label=holder.label,
                directory=holder.directory,
                host_session=holder.host_session,
                pid=holder.pid,
                start=holder.proof.start,
                outcome=outcome,
                by=None if claim is None else claim.holder.name,
            )
            refusals = self._refusals[which] = _Refusals(event, self._fs.monotonic() - _BETWEEN_REFUSALS)
        refusals.times += 1
        if self._fs.monotonic() - refusals.written >= _BETWEEN_REFUSALS:
            self._write_refusals(refusals, now)

    def lost(self, grant: Claim, found: Found) -> None:
        by = found.holder.name if isinstance(found, Claim) and found.holder.name != grant.holder.name else None
        self._write([event_of(Kind.LOST, grant, self._machine.now(), by=by)])

    def session_ends(self, holder: Holder) -> None:
        for which in [which for which in list(self._refusals) if which[0] == holder.name]:
            self._write_refusals(self._refusals.pop(which), self._machine.now())

    def _passed(self, changes: Sequence[Change], passed: Sequence[Claim], now: Moment) -> list[Event]:
        """Return how those of *passed* ended that are dead: they stay stored, and nobody may ever meet them at their own keys."""
        dead = [claim for claim in passed if (claim.scoped, claim.generation) not in self._passed_before]
        if len(self._passed_before) > _MAX_PASSED:
            self._passed_before.clear()
        events = ends_beside(changes, dead, now, self._proof_of_death)
        self._passed_before |= {(claim.scoped, claim.generation) for claim, _ in events}
        return [event for _, event in events]

    def _write_refusals(self, refusals: _Refusals, now: Moment) -> None:
        times, refusals.times, refusals.written = refusals.times, 0, self._fs.monotonic()
        if times:
            self._write([refusals.event._replace(at=now.wall, times=times)])

    def _forget_refusals(self, now: Moment) -> None:
        """Write the counts of refusals that are a minute old, once there are many."""
        if len(self._refusals) < _MAX_REFUSALS:
            return
        for which, refusals in list(self._refusals.items()):
            if self._fs.monotonic() - refusals.written >= _BETWEEN_REFUSALS:
                self._write_refusals(refusals, now)
                self._refusals.pop(which, None)

    def _proof_of_death(self, holder: Holder) -> str | None:
        if not self._machine.provably_dead(holder):
            return None
        start = self._machine.proof(holder.pid).start
        if start is None or start == holder.proof.start:
            return f"process {holder.pid} has ended"
        return f"process {holder.pid} is another one: it began at {start}, not at {holder.proof.start}"

    def _write(self, events: Sequence[Event]) -> None:
        """Append *events*, with one write for those of each namespace."""
        by_namespace: dict[str, list[Event]] = {}
        for event in events:
            by_namespace.setdefault(event.namespace, []).append(event)
        for namespace, lines in by_namespace.items():
            if missing := self._missing.get(namespace, 0):
                lines.insert(0, Event(lines[0].at, Kind.GAP, namespace, "", pid=os.getpid(), times=missing))
            if self._write_line(namespace, lines[0].at, b"".join(map(to_line, lines))):
                self._missing.pop(namespace, None)
            elif namespace in self._missing:
                self._missing[namespace] += len(lines) - 1 - bool(missing)

    def _write_line(self, namespace: str, at: datetime, data: bytes) -> bool:
        """Append *data* to the file for the time *at*; return whether that succeeded, else count one line that is missing.

        That time is read under the lock: by that of a grant which has waited for it, its line would come before earlier ones.
        """
        try:
            self._append(namespace, at.date(), data)
        except (OSError, UnsafeDirectoryError, StoreUnavailableError) as error:
            self._missing[namespace] = self._missing.get(namespace, 0) + 1
            self._open_files.pop(namespace, None)
            report_once(self._directory, error)
            return False
        return True

    def _append(self, namespace: str, day: date, data: bytes) -> None:
        current = self._open_files.get(namespace)
        if current is None or current.day != day:
            current = self._open(file_of(day.isoformat(), namespace), day)
        fs, fd = self._fs, current.opened.fd
        while True:
            if (now := fs.monotonic()) - current.looked >= _LOOKS_AFTER:
                current.looked = now
                if fs.status(fd).st_nlink == 0:
                    # Somebody has removed it, or it was the oldest of a full history.
                    current = self._open(current.file, day)
            elif fs.seek(fd, 0, os.SEEK_END) >= self._part_bytes:
                # All who write see the same size, under the lock of the namespace: nobody writes to this part any more.
                current = self._open(current.file._replace(part=current.file.part + 1), day)
            else:
                break
            fd = current.opened.fd
        if fs.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{self._directory}/{current.file.name}")
        if self._open_files.get(namespace) is not current:
            self._keep(namespace, current)

    def _keep(self, namespace: str, current: _Open) -> None:
        # An open file cannot be removed on Windows, and the claims directory with it.
        if sys.platform == "win32":
            current.opened.close()
            return
        # Never closed by hand: another thread may be writing to it, and its number would be that of a record by then.
        self._open_files[namespace] = current
        while len(self._open_files) > _MAX_OPEN:
            self._open_files.pop(next(iter(self._open_files)), None)

    def _open(self, wanted: HistoryFile, day: date) -> _Open:
        """Open the file *wanted*, or a later part of that day if it is gone; make it if there is none."""
        with suppress(FileNotFoundError):
            return self._opened(wanted, day, APPEND)
        if not self._private.exists():
            self._fs.make_directory(self._directory)
            self._private.exists()
        found = [file for file in map(parse_name, self._fs.names(self._directory)) if file is not None]
        same_day = [file for file in found if (file.day, file.namespace) == (wanted.day, wanted.namespace)]
        file = max([wanted, *same_day])
        current = self._opened(file, day, CREATE_TO_APPEND)
        self._sweep([each for each in found if each != file], day)
        return current

    def _opened(self, file: HistoryFile, day: date, flags: int) -> _Open:
        path = f"{self._directory}/{file.name}"
        opened = OpenFile(self._fs, path, flags)
        if not stat.S_ISREG(self._fs.status(opened.fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a file", path)
        return _Open(file, day, opened, self._fs.monotonic())

    def _sweep(self, found: Sequence[HistoryFile], today: date) -> None:
        """Remove what is too old of *found*, and the oldest of the rest as far as it is too much."""
        first = (today - timedelta(days=self._limits.days)).isoformat()
        room = self._limits.megabytes * _MEGABYTE * (_PARTS - 1) // _PARTS
        for file in sorted(found, reverse=True):
            path = f"{self._directory}/{file.name}"
            # Another process may have removed it.
            with suppress(OSError):
                room -= self._fs.status_of(path).st_size
                if file.day <= first or room < 0:
                    self._fs.remove(path)
