"""Until when whoever asks a store over a network wants to know, however many questions that takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WANTED: ContextVar[float | None] = ContextVar("wanted", default=None)


@contextmanager
def answered_by(until: float) -> Iterator[None]:
    """Let what is asked in this block be answered, or fail, *until* then (`time.monotonic`), whatever was said outside it."""
    token = _WANTED.set(until)
    try:
        yield
    finally:
        _WANTED.reset(token)


def soon(seconds: float) -> float:
    """Return the time (`time.monotonic`) that is *seconds* from now, or that of `answered_by` if it is sooner."""
    until, wanted = time.monotonic() + seconds, _WANTED.get()
    return until if wanted is None else min(until, wanted)
