"""The tickets of a namespace, in one file, and the alarm of each: a FIFO that wakes one waiter and no other.

The list is replaced whole, under the lock of the namespace, and read without it.  It decides only the order of those who
wait: what cannot be read counts as empty.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from weakref import WeakSet

from mcp_claims.model.codec import RecordError, tickets_from_json
from mcp_claims.model.records import Claim, Ticket
from mcp_claims.stores.files.filesystem import LISTEN, WAKE, FileSystem, OpenFile, read_file

TICKETS_FILE = ".tickets"
"""No claim's file name begins with a dot."""

_ALARM = ".alarm-"
_MAX_BYTES = 4 * 1024 * 1024


def read_tickets(fs: FileSystem, directory: str) -> tuple[Ticket, ...]:
    """Return the tickets of the namespace in *directory*, in order; none if they cannot be read."""
    try:
        file = read_file(fs, f"{directory}/{TICKETS_FILE}", _MAX_BYTES)
        return () if file is None else tickets_from_json(file[0])
    except (OSError, RecordError):
        return ()


def numbered(tickets: tuple[Ticket, ...]) -> tuple[Ticket, ...]:
    """Return *tickets* with a number for those that have none yet, in order."""
    last = max((ticket.number for ticket in tickets), default=0)
    result: list[Ticket] = []
    for ticket in tickets:
        last += not ticket.number
        result.append(ticket if ticket.number else ticket._replace(number=last))
    return tuple(sorted(result))


class Alarm:
    """A FIFO that becomes readable when its waiter is woken."""

    def __init__(self, fs: FileSystem, path: str) -> None:
        with suppress(FileExistsError):
            fs.make_fifo(path)
        self._file = OpenFile(fs, path, LISTEN)
        _alarms.add(self)
        if not stat.S_ISFIFO(fs.status(self._file.fd).st_mode):
            # A file is always readable: its waiter would never sleep.
            self.close()
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), path)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._file.fd

    def reset(self) -> None:
        """Consume the wake-ups that have come so far."""
        with suppress(BlockingIOError):
            while os.read(self._file.fd, 64):
                pass

    def aim(self, blocking: Claim | Ticket) -> bool:
        """Return false: a session that changes something wakes the next waiter itself."""
        return False

    def close(self) -> None:
        """Free the descriptor."""
        self._file.close()


@contextmanager
def listening(fs: FileSystem, directory: str, ticket: Ticket) -> Iterator[Alarm | None]:
    """Yield the alarm of *ticket*; `None` where the system or the file system has none."""
    alarm = None
    with suppress(OSError):
        alarm = Alarm(fs, _alarm_path(directory, ticket))
    try:
        yield alarm
    finally:
        if alarm is not None:
            alarm.close()


def wake(fs: FileSystem, directory: str, ticket: Ticket) -> bool:
    """Wake the waiter that has *ticket*; return whether it has its alarm open."""
    try:
        with OpenFile(fs, _alarm_path(directory, ticket), WAKE) as fd:
            if not stat.S_ISFIFO(fs.status(fd).st_mode):
                return False
            with suppress(BlockingIOError):  # Full, so the waiter is woken already.
                fs.write(fd, b"!")
            return True
    except OSError:
        return False  # There is none, or nobody has it open.


def remove_alarms(fs: FileSystem, directory: str, before: tuple[Ticket, ...], after: tuple[Ticket, ...]) -> None:
    """Remove the alarms of tickets that are in *before* and not in *after*; the caller holds the lock of the namespace."""
    kept = {ticket.number for ticket in after}
    for ticket in before:
        if ticket.number not in kept:
            with suppress(OSError):
                fs.remove(_alarm_path(directory, ticket))


_alarms: WeakSet[Alarm] = WeakSet()


def _close_inherited_alarms() -> None:
    # If a child kept one open, a wake-up after our death would seem to have reached a waiter.
    for alarm in list(_alarms):
        alarm.close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_inherited_alarms)


def _alarm_path(directory: str, ticket: Ticket) -> str:
    return f"{directory}/{_ALARM}{ticket.number}"
