"""The standard streams as whoever started us left them: closed, no longer read, full, or without our characters."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import io
    from typing import TextIO


def open_closed_streams() -> None:
    """See to it that there are the three streams, and that the two for printing take any text.

    Where one is closed, the next file that is opened would get its number, and be read or written as that stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest number that is free, so that of the stream.  A command that we run does not inherit it.
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        _text(stream).reconfigure(errors="backslashreplace")


def write_line(text: str) -> bool:
    """Print *text*; tell whether that went well.

    What a command has done is done: whether anybody can read of it does not change the exit code.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            write_error(f"what there is to say cannot be written: {error.strerror}")
        return False
    return True


def write_error(text: str) -> None:
    """Say on stderr what is wrong, or different from what was asked for."""
    try:
        print(f"mcp-claims: {text}", file=sys.stderr, flush=True)
    except OSError:
        # Nobody is left to be told, and the exit code says it, too.
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Let *stream* lead nowhere: what is left in its buffer would fail again when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def format_json(facts: object, *, indent: int | None = None) -> str:
    """Return *facts* as JSON, which is read as UTF-8, whatever the terminal's encoding."""
    import json

    return json.dumps(facts, ensure_ascii=_text(sys.stdout).encoding.lower() != "utf-8", indent=indent)


def _text(stream: TextIO) -> io.TextIOWrapper:
    return stream  # type: ignore[return-value] # What the interpreter opens, and what is opened above, is one.
