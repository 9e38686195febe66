"""An exception at any line: what Ctrl-C, or a time-out raised by a signal handler, does to a program."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Any

from mcp_claims.stores.files.filesystem import LOCK, FileSystem


class Interrupt(BaseException):
    """What the signal handler raises."""


class InterruptAtLine:
    """Raises `Interrupt` before the line with number *at*, counted from one as they are executed, in *package*."""

    def __init__(self, at: int, package: ModuleType) -> None:
        assert package.__file__ is not None
        self._left, self._directory = at, os.path.dirname(package.__file__)
        self.interrupted: CodeType | None = None
        self._lines: dict[int, int] = {}

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(self._directory):
            return None
        if event == "call":
            self._lines.pop(id(frame), None)
        if event == "line" and not self._is_edge_of_a_block(frame) and self.interrupted is None:
            self._left -= 1
            if not self._left:
                self.interrupted = frame.f_code
                raise Interrupt
        return self._trace

    def _is_edge_of_a_block(self, frame: FrameType) -> bool:
        # CPython runs no signal handler between the last line of a `with` block and the call of its exit, nor between its
        # beginning and a `try` that is its first line, where the exit would not be called.
        before, self._lines[id(frame)] = self._lines.get(id(frame), 0), frame.f_lineno
        previous, line = (
            linecache.getline(frame.f_code.co_filename, each).lstrip() for each in (before, frame.f_lineno)
        )
        if line.startswith("with "):
            return frame.f_lineno < before
        return line.startswith("try:") and previous.startswith("with ")


def no_lock_is_held(claims_directory: str) -> bool:
    """Return whether a second opening of each lock file in *claims_directory* gets the lock."""
    fs = FileSystem()
    free = True
    for path in Path(claims_directory).glob("*/.lock"):
        fd = fs.open(str(path), LOCK)
        free = fs.try_lock(fd) and free
        fs.close(fd)
    return free
