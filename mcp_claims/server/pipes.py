"""The pipes to and from the host, read and written by the event loop.

The SDK hands each line, either way, to a worker thread, which costs more than all else in a call.  Here a line is read
when the kernel says that there is one, and written when it says that there is room.  The descriptors stay as the host
made them: nothing is set to non-blocking, since that would affect every process that shares them.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from typing import TYPE_CHECKING, cast

import anyio

if TYPE_CHECKING:
    # The declared type of the parameters of the SDK's `stdio_server`, which uses only the methods that are defined below.
    Text = anyio.AsyncFile[str]

if sys.platform != "win32":
    import fcntl

    # A pipe that has room at all has room for so much (pipe(7)), so writing it does not block.
    _ROOM = select.PIPE_BUF

_READ = 64 * 1024


def host_pipes() -> tuple[Text, Text] | tuple[None, None]:
    """Take over stdin and stdout, as lines of text; return `(None, None)` if either is not a pipe or a socket.

    From then on stdin is empty and stdout is stderr, for handlers and child processes: what they print by mistake must
    not end up between messages.
    """
    if sys.platform != "win32" and _is_pipe(0) and _is_pipe(1):
        reading, writing = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (0, 1))
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        # If the host has closed stderr, 2 may be another file of this process by now.
        os.dup2(2 if sys.stderr else nowhere, 1)
        os.close(nowhere)
        return cast("Text", _Lines(reading)), cast("Text", _Output(writing))
    return None, None


def _is_pipe(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class _Lines:
    """The lines that arrive at *fd*, until its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._ready: list[bytes] = []
        self._begun: list[bytes] = []

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> str:
        while not self._ready:
            await anyio.wait_readable(self._fd)
            part = os.read(self._fd, _READ)
            if not part:
                if not any(self._begun):
                    raise StopAsyncIteration
                part = b"\n"  # The last line may have no end.
            # Joined only when its end is there: a line may be megabytes long.
            first, *others = part.split(b"\n")
            self._begun.append(first)
            if others:
                self._ready = [b"".join(self._begun), *others[:-1]][::-1]
                self._begun = [others[-1]]
        return self._ready.pop().decode(errors="replace")


if sys.platform != "win32":

    class _Output:
        """The output to *fd*; while the host does not read, `write` waits and the event loop goes on."""

        def __init__(self, fd: int) -> None:
            self._fd = fd
            self._room = select.poll()
            self._room.register(fd, select.POLLOUT)

        async def write(self, text: str) -> None:
            data = memoryview(text.encode())
            while data:
                if not self._room.poll(0):
                    await anyio.wait_writable(self._fd)
                data = data[os.write(self._fd, data[:_ROOM]) :]

        async def flush(self) -> None:
            """Do nothing: `write` has passed everything to the kernel."""
