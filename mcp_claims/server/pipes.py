"""The pipes to and from the host: whole lines in and out, for a thread that waits for other things as well.

The SDK hands each line, either way, to a worker thread, which costs more than all else in a call.  Here a line is read
when the kernel reports input, and written when it reports room.  The descriptors stay as the host
made them: nothing is set to non-blocking, since that would affect every process that shares them.
"""

from __future__ import annotations

import math
import os
import select
import stat
import sys
from collections import deque
from io import FileIO
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

_READ = 64 * 1024
# A pipe that has room at all has room for so much (pipe(7)), so writing it does not block.
_ROOM: int = getattr(select, "PIPE_BUF", 512)


class HostPipes(NamedTuple):
    """The lines that the host sends, and the output that it reads."""

    lines: Lines
    output: Output


def take_over() -> HostPipes | None:
    """Take over stdin and stdout; return `None`, with nothing changed, if either is neither a pipe, a socket nor a file.

    From then on stdin is empty and stdout is stderr for everything else in this process and for its children: a stray
    print must not end up between messages.
    """
    if sys.platform != "win32" and _can_be_polled(0) and _can_be_polled(1):
        reading, writing = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (0, 1))
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        # If the host has closed stderr, 2 may be another file of this process by now.
        os.dup2(2 if sys.stderr else nowhere, 1)
        os.close(nowhere)
        return HostPipes(Lines(reading), Output(writing))
    return None


def _can_be_polled(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


class Lines:
    """The lines that arrive at the descriptor `fd`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        # A regular file is always readable, and an event loop refuses it.
        self.always_ready = stat.S_ISREG(os.fstat(fd).st_mode)
        self._whole: deque[bytes] = deque()
        self._begun: list[bytes] = []

    def next(self) -> bytes | None:
        """Return the next line that has arrived whole, `None` if there is none."""
        return self._whole.popleft() if self._whole else None

    @property
    def waiting(self) -> bool:
        """Whether `next` has a line to return."""
        return bool(self._whole)

    def put_back(self, line: bytes) -> None:
        """Make *line* the next one again."""
        self._whole.appendleft(line)

    def read(self) -> bool:
        """Read once, which blocks unless there is something to read; return false at the end of the input."""
        part = os.read(self.fd, _READ)
        if not part:
            if not any(self._begun):
                return False
            part = b"\n"  # The last line may lack its newline.
        # Joined only at its end: a line may be megabytes long, and adding each part to it would copy it each time.
        first, *others = part.split(b"\n")
        self._begun.append(first)
        if others:
            self._whole += [b"".join(self._begun), *others[:-1]]
            self._begun = [others[-1]]
        return True


class Output:
    """Writes to the descriptor `fd`, and keeps what there is no room for; for one thread."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.always_ready = stat.S_ISREG(os.fstat(fd).st_mode)
        self._pending: deque[memoryview] = deque()
        self.size = 0
        """Bytes that are kept."""

    def put(self, data: bytes) -> None:
        """Keep *data* for the next `write`."""
        self._pending.append(memoryview(data))
        self.size += len(data)

    def write(self) -> None:
        """Write what there is room for, without blocking; raise `OSError` if nobody can read it any more."""
        while self._pending and (self.always_ready or wait_for(0, writable=self.fd)):
            data = self._pending[0]
            written = os.write(self.fd, data[:_ROOM])
            self.size -= written
            if written == len(data):
                self._pending.popleft()
            else:
                self._pending[0] = data[written:]


if sys.platform != "win32":

    def wait_for(seconds: float | None, *readable: int, writable: int | None = None) -> set[int]:
        """Wait until one of these descriptors is ready, or for *seconds*, without end if `None`; return those that are ready.

        One whose other end is closed is ready: to read or write it shows that.
        """
        # Not `selectors`: it takes ten times as long, for each message twice.
        poll = select.poll()
        for fd in readable:
            poll.register(fd, select.POLLIN)
        if writable is not None:
            poll.register(writable, select.POLLOUT)
        return {fd for fd, _ in poll.poll(None if seconds is None else math.ceil(seconds * 1_000))}

    def make_wake_pipe() -> tuple[FileIO, FileIO]:
        """Return the ends of a pipe, for reading and writing, that block nobody: a byte written wakes who waits for it."""
        ends = os.pipe()
        for fd in ends:
            os.set_blocking(fd, False)
        return FileIO(ends[0]), FileIO(ends[1], "w")

else:

    def wait_for(seconds: float | None, *readable: int, writable: int | None = None) -> set[int]:
        """Raise an error: `take_over` returns no pipes on Windows, which cannot be polled."""
        raise NotImplementedError

    def make_wake_pipe() -> tuple[FileIO, FileIO]:
        """Raise an error, too."""
        raise NotImplementedError
