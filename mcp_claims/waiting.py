"""Waiting for another process without keeping the event loop, and so every other call, waiting too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio

from mcp_claims.errors import StoreBusyError
from mcp_claims.stores.base import LOCK_WAIT

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_GROWTH = 0.000_5, 0.02, 1.5


async def without_blocking(operation: Callable[[float], T]) -> T:
    """Run *operation*, given that it may wait 0 seconds, again and again until nobody is in its way.

    *operation* must change nothing when it raises `StoreBusyError`, which is raised here after `LOCK_WAIT` seconds.

    Not in threads: calls that wait for a stopped process would take all that the SDK reads stdin with, and a thread
    whose call was cancelled would claim after its caller has given up.
    """
    deadline = anyio.current_time() + LOCK_WAIT
    pause = _FIRST_PAUSE
    while True:
        try:
            return operation(0.0)
        except StoreBusyError as busy:
            left = deadline - anyio.current_time()
            if left <= 0:
                raise type(busy)(busy.where, LOCK_WAIT) from busy
        await anyio.sleep(min(pause, left))
        pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)
