"""Calling a session from an event loop: no other process and no network blocks the loop."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model.records import Claim
from mcp_claims.model.requests import ClaimRequest
from mcp_claims.session.acquire import ANSWER_TIMEOUT, Wakeup, acquire
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT, call_deadline

T = TypeVar("T")
Report = Callable[[float, float, str], Coroutine[Any, Any, None]]
"""Sends the client a progress notice: seconds waited, of how many, and for what."""

_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_GROWTH = 0.000_5, 0.02, 1.5  # s, s, factor
_MAX_THREADS, _MAX_WAITING, _MAX_SCANS = 64, 512, 4
# Limits of their own: the SDK reads stdin in the shared worker threads, and waiting calls would occupy all of those.
_calling = anyio.CapacityLimiter(_MAX_THREADS)
_scanning_remote = anyio.CapacityLimiter(_MAX_THREADS)
_scanning = anyio.CapacityLimiter(_MAX_SCANS)
_waiting = anyio.CapacityLimiter(_MAX_WAITING)


async def acquire_async(session: Session, request: ClaimRequest, report: Report | None = None) -> ClaimResult:
    """Acquire the key without blocking the event loop; if the call was cancelled meanwhile, release the grant.

    A wait blocks a thread.  Beyond 512 waits in one process a call is answered at once, as without `wait_seconds`.
    """

    def undo(result: ClaimResult) -> None:
        if result.status is Status.ACQUIRED and isinstance(result.found, Claim):
            session.release_grant(result.found)

    if request.wait_seconds <= 0 or _waiting.available_tokens < 1:
        attempt = partial(_try_once, session, request)
        return await change_off_loop(session, attempt, undo)
    wakeup = Wakeup()

    def progress(waited: float) -> None:
        if report is not None:
            anyio.from_thread.run(report, waited, request.wait_seconds, "still held by another session")

    async def stop_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            wakeup.stop()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_when_cancelled)
        with anyio.CancelScope(shield=True):
            call = partial(acquire, session, request, progress=progress, wakeup=wakeup)
            result = await anyio.to_thread.run_sync(call, limiter=_waiting)
        tasks.cancel_scope.cancel()
    await _undo_if_cancelled(undo, result)
    return result


async def change_off_loop(
    session: Session, change: Callable[[float], T], undo: Callable[[T], object] = lambda _: None
) -> T:
    """Run *change* of *session*, given its lock timeout in seconds, while other calls go on.

    On a store of this machine it gets 0 seconds, and runs again and again until the lock is free; so it must change
    nothing when it raises `StoreBusyError`, which is raised here after `LOCK_TIMEOUT`.  A thread would outlive a call
    that is cancelled, and claim after its caller has given up.

    A remote store is called in a thread and answers or fails within `ANSWER_TIMEOUT`, the wait for a thread included.
    If the call was cancelled meanwhile, *undo* is called with the result.
    """
    if session.remote:
        result = await _in_thread(partial(change, LOCK_TIMEOUT))
        await _undo_if_cancelled(undo, result)
        return result
    deadline: float | None = None
    pause = _FIRST_PAUSE
    while True:
        try:
            return change(0.0)
        except StoreBusyError as busy:
            now = anyio.current_time()
            deadline = deadline or now + LOCK_TIMEOUT
            left = deadline - now
            if left <= 0:
                raise type(busy)(busy.where, LOCK_TIMEOUT) from busy
        await anyio.sleep(min(pause, left))
        pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)


async def read_off_loop(session: Session, read: Callable[[], T]) -> T:
    """Run *read* while other calls go on: a local store never makes it wait, and a remote one is called in a thread."""
    return await _in_thread(read) if session.remote else read()


async def maintain_off_loop(session: Session, maintain: Callable[[], T]) -> T:
    """Run *maintain* as `read_off_loop` does, but without its time limit: it sends a request for each claim."""
    return await anyio.to_thread.run_sync(maintain, limiter=_calling) if session.remote else maintain()


async def scan_off_loop(session: Session, scan: Callable[[], T]) -> T:
    """Run *scan*, which reads any number of claims, in a thread."""
    if not session.remote:
        return await anyio.to_thread.run_sync(scan, abandon_on_cancel=True, limiter=_scanning)
    in_time = partial(_with_deadline, scan, time.monotonic() + ANSWER_TIMEOUT)
    return await anyio.to_thread.run_sync(in_time, abandon_on_cancel=True, limiter=_scanning_remote)


def _try_once(session: Session, request: ClaimRequest, lock_timeout: float) -> ClaimResult:
    return session.try_request(request, lock_timeout=lock_timeout)


def _with_deadline(call: Callable[[], T], until: float) -> T:
    with call_deadline(until):
        return call()


async def _in_thread(call: Callable[[], T]) -> T:
    # A call that gets its thread late has less time left for the store.
    in_time = partial(_with_deadline, call, time.monotonic() + ANSWER_TIMEOUT)
    try:
        # Bounds the wait for a thread alone: once the thread runs, it is awaited to its end.
        with anyio.fail_after(ANSWER_TIMEOUT):
            return await anyio.to_thread.run_sync(in_time, limiter=_calling)
    except TimeoutError as error:
        cause = OSError(errno.ETIMEDOUT, f"{_MAX_THREADS} calls are waiting for its answer")
        raise StoreUnavailableError("the store", cause) from error


async def _undo_if_cancelled(undo: Callable[[T], object], result: T) -> None:
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(undo, result, limiter=_calling)
        raise
