"""Waiting for another process without keeping the event loop, and so every other call, waiting too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

from mcp_claims.errors import StoreBusyError
from mcp_claims.stores.base import LOCK_WAIT

T = TypeVar("T")


async def without_blocking(operation: Callable[[float], T]) -> T:
    """Run *operation*, given the seconds that it may wait, here if it need not wait, else in a thread.

    Nearly always nobody is in the way and the whole operation takes less than the hand-over to a thread would.
    *operation* must change nothing when it raises `StoreBusyError`.

    The thread is left behind when the call is cancelled: a session that ends must not wait for a stopped process.
    """
    try:
        return operation(0.0)
    except StoreBusyError:
        return await anyio.to_thread.run_sync(operation, LOCK_WAIT, abandon_on_cancel=True)
