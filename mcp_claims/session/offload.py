"""Waiting for another process, or for a store over a network, without keeping the event loop and every other call waiting."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT, call_deadline

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_GROWTH = 0.000_5, 0.02, 1.5
_THREADS = 64
_ASKING, _READING = anyio.CapacityLimiter(_THREADS), anyio.CapacityLimiter(_THREADS)

_ANSWERED_WITHIN = 4.5
"""Seconds from the call on in which a store over a network has answered or failed, whatever it is asked and waits for."""


async def run_off_loop(
    claims: Session, operation: Callable[[float], T], undo: Callable[[T], object] = lambda _: None
) -> T:
    """Run *operation* of *claims*, given how many seconds it may wait, while other calls go on.

    On a store of this machine it may wait 0 seconds, and is run again and again until nobody is in its way; so it must
    change nothing when it raises `StoreBusyError`, which is raised here after `LOCK_WAIT` seconds.  Not in threads: calls
    that wait for a stopped process would take all that the SDK reads stdin with, and a thread whose call was cancelled
    would claim after its caller has given up.

    Over a network each answer is waited for, so there it is a thread.  It is one of our own `_THREADS`, none of those that
    the SDK reads with; the store answers or fails within `_ANSWERED_WITHIN` seconds, the wait for a thread included; and what
    it did for a call that was cancelled meanwhile is undone, by *undo* with what it returned.
    """
    if claims.remote:
        return await _in_a_thread(partial(operation, LOCK_TIMEOUT), undo)
    deadline: float | None = None
    pause = _FIRST_PAUSE
    while True:
        try:
            return operation(0.0)
        except StoreBusyError as busy:
            # Asked for the time only here, since nearly every call finds nobody in its way.
            now = anyio.current_time()
            deadline = deadline or now + LOCK_TIMEOUT
            left = deadline - now
            if left <= 0:
                raise type(busy)(busy.where, LOCK_TIMEOUT) from busy
        await anyio.sleep(min(pause, left))
        pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)


async def read_off_loop(claims: Session, look: Callable[[], T]) -> T:
    """Run *look*, which waits for nobody on this machine but maybe for a network, while other calls go on."""
    return await _in_a_thread(look, lambda _: None) if claims.remote else look()


async def maintain_off_loop(claims: Session, tend: Callable[[], T]) -> T:
    """Run *tend*, which asks about so many claims that it may take its time, as `looking` does."""
    return await anyio.to_thread.run_sync(tend, limiter=_ASKING) if claims.remote else tend()


async def scan_off_loop(claims: Session, read: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
    """Run *read*, which lists claims, in a thread of *limiter*; over a network, where all may have to wait, in one of ours."""
    if not claims.remote:
        return await anyio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=limiter)
    in_time = partial(_answered, read, time.monotonic() + _ANSWERED_WITHIN)
    return await anyio.to_thread.run_sync(in_time, abandon_on_cancel=True, limiter=_READING)


def _answered(ask: Callable[[], T], until: float) -> T:
    with call_deadline(until):
        return ask()


async def _in_a_thread(ask: Callable[[], T], undo: Callable[[T], object]) -> T:
    # Whoever gets a thread late has so much less time for what it asks.
    in_time = partial(_answered, ask, time.monotonic() + _ANSWERED_WITHIN)
    try:
        # Of no consequence once the thread has begun: it is waited for to its end.
        with anyio.fail_after(_ANSWERED_WITHIN):
            result = await anyio.to_thread.run_sync(in_time, limiter=_ASKING)
    except TimeoutError as error:
        cause = OSError(errno.ETIMEDOUT, f"{_THREADS} questions to it are under way, and none has been answered")
        raise StoreUnavailableError("the store", cause) from error
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(undo, result, limiter=_ASKING)
        raise
    return result
