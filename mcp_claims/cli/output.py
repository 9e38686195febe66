"""Printing, on standard streams that may be closed, no longer read, full, or unable to encode a character."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping
from typing import TextIO


def open_closed_streams() -> None:
    """Open each closed standard stream on `/dev/null`, and let the other two print any text.

    The next file that is opened would get the number of a closed stream, and be read or written as that stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest free number is that of the stream.  A command that `run` starts does not inherit it.
            number = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (open for good)
    for stream in (sys.stdout, sys.stderr):
        _wrapper(stream).reconfigure(errors="backslashreplace")


def print_result(text: str, facts: Mapping[str, object], *, as_json: bool) -> None:
    """Print *facts* as JSON, or else *text*; advice is for models, who call tools."""
    if as_json:
        text = format_json({name: value for name, value in facts.items() if name != "advice"}, indent=2)
    write_line(text)


def write_line(text: str) -> bool:
    """Print *text*; return whether that succeeded.

    A failure does not change the exit code: what a command has done is done, whether anybody can read about it or not.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            write_error(f"the output cannot be written: {error.strerror}")
        return False
    return True


def write_error(text: str) -> None:
    """Print an error or a warning on stderr, if anybody reads that."""
    try:
        # One write, since threads may report at the same time.
        print(f"mcp-claims: {text}\n", end="", file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Connect *stream* to `/dev/null`: what is left in its buffer would fail again at the end of the process."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def format_json(facts: object, *, indent: int | None = None) -> str:
    """Return *facts* as JSON, in ASCII where stdout is not UTF-8: readers of JSON expect UTF-8."""
    return json.dumps(facts, ensure_ascii=_wrapper(sys.stdout).encoding.lower() != "utf-8", indent=indent)


def _wrapper(stream: TextIO) -> io.TextIOWrapper:
    return stream  # type: ignore[return-value] # The interpreter's streams, and those opened above, are of this class.
