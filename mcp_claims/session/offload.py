"""Calling a session from an event loop: no other process and no network blocks the loop."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from threading import Event, Lock
from typing import Any, Generic, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model.records import Claim
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import ANSWER_TIMEOUT, STILL_HELD, acquire, begin_wait, end_wait
from mcp_claims.session.results import ClaimResult
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT, call_before

T = TypeVar("T")
Report = Callable[[float, float, str], Coroutine[Any, Any, None]]
"""Sends the client a progress notice: seconds waited, of how many, and for what."""

_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_GROWTH = 0.000_5, 0.02, 1.5  # s, s, factor
_MAX_THREADS, _MAX_SCANS = 64, 4
# Limits of their own: the SDK reads stdin in the shared worker threads, and waiting calls would occupy all of those.
_calling = anyio.CapacityLimiter(_MAX_THREADS)
_scanning_remote = anyio.CapacityLimiter(_MAX_THREADS)
_scanning = anyio.CapacityLimiter(_MAX_SCANS)
_unlimited = anyio.CapacityLimiter(math.inf)


async def acquire_async(
    session: Session,
    request: ClaimRequest,
    report: Report | None = None,
    *,
    reserve: bool = False,
    outlives_call: bool = False,
) -> ClaimResult:
    """Acquire the key without blocking the event loop; if the call was cancelled meanwhile, release the grant.

    With *reserve* a wait ends in a reservation, as in `acquire`.  If it *outlives_call*, the cancellation of the call does
    not end the wait or the reservation.  A wait blocks a thread.  Beyond 512 waits in one process a call is answered at
    once, as without `wait_seconds`.
    """

    def undo(result: ClaimResult) -> None:
        session.undo(result, turns=not outlives_call)

    wakeup = begin_wait() if request.wait_seconds > 0 else None
    if wakeup is None:
        return await run_change(session, partial(_try_once, session, request), undo)

    reporting: list[anyio.CancelScope] = []

    async def send(waited: float) -> None:
        if report is not None and not wakeup.stopped:
            with anyio.CancelScope() as scope:
                reporting[:] = [scope]
                await report(waited, request.wait_seconds, STILL_HELD)

    def progress(waited: float) -> None:
        # The call may be cancelled meanwhile, or the loop be gone.
        with suppress(CancelledError, RuntimeError):
            anyio.from_thread.run(send, waited)

    def wait() -> ClaimResult:
        try:
            told = None if report is None else progress
            return acquire(session, request, progress=told, wakeup=wakeup, reserve=reserve)
        finally:
            end_wait(wakeup)

    job = _Job(wait, undo)
    try:
        return await anyio.to_thread.run_sync(job.run, abandon_on_cancel=True, limiter=_unlimited)
    except anyio.get_cancelled_exc_class():
        if not outlives_call:
            wakeup.stop()
        for scope in reporting:  # The client may no longer read, and the thread waits for its report.
            scope.cancel()
        await job.abandon(goes_on=outlives_call)
        raise
    finally:
        if not job.begun:
            end_wait(wakeup)
            wakeup.close()


class Offload:
    """Runs the steps of one call of a tool off the event loop; *report* sends the client a notice while it waits.

    With *outlives_call* the cancellation of the call does not end a wait.
    """

    def __init__(self, report: Report | None = None, *, outlives_call: bool = False) -> None:
        self._report, self._outlives_call = report, outlives_call
        self.is_heard = report is not None

    async def acquire(self, session: Session, request: ClaimRequest) -> ClaimResult:
        """See `acquire_async`."""
        return await acquire_async(session, request, self._report, reserve=True, outlives_call=self._outlives_call)

    async def change(self, session: Session, change: Callable[[float], T]) -> T:
        """See `run_change`."""
        return await run_change(session, change)

    async def read(self, session: Session, read: Callable[[], T]) -> T:
        """See `run_read`."""
        return await run_read(session, read)

    async def scan(self, session: Session, scan: Callable[[], T]) -> T:
        """See `run_scan`."""
        return await run_scan(session, scan)


async def release_async(session: Session, grant: Claim) -> None:
    """Release *grant* and no other, even if the caller is being cancelled."""
    with anyio.CancelScope(shield=True):
        await run_change(session, partial(session.release_own, grant))


async def run_change(session: Session, change: Callable[[float], T], undo: Callable[[T], object] = lambda _: None) -> T:
    """Run *change* of *session*, given its lock timeout in seconds, while other calls go on.

    On a store of this machine it gets 0 seconds, and runs again and again until the lock is free; so it must change
    nothing when it raises `StoreBusyError`, which is raised here after `LOCK_TIMEOUT`.  A thread would outlive a call
    that is cancelled, and claim after its caller has given up.

    A remote store is called in a thread and answers or fails within `ANSWER_TIMEOUT`, the wait for a thread included.
    If the call was cancelled meanwhile, *undo* is called with the result.
    """
    if session.remote:
        return await _in_thread(partial(change, LOCK_TIMEOUT), undo)
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


async def run_read(session: Session, read: Callable[[], T]) -> T:
    """Run *read* while other calls go on: a local store never makes it wait, and a remote one is called in a thread."""
    return await _in_thread(read) if session.remote else read()


async def run_maintenance(session: Session, maintain: Callable[[], T]) -> T:
    """Run *maintain* as `run_read` does, but without its time limit: it sends a request for each claim."""
    return await anyio.to_thread.run_sync(maintain, limiter=_calling) if session.remote else maintain()


async def run_scan(session: Session, scan: Callable[[], T]) -> T:
    """Run *scan*, which reads any number of claims, in a thread."""
    if not session.remote:
        return await anyio.to_thread.run_sync(scan, abandon_on_cancel=True, limiter=_scanning)
    in_time = partial(call_before, time.monotonic() + ANSWER_TIMEOUT, scan)
    return await anyio.to_thread.run_sync(in_time, abandon_on_cancel=True, limiter=_scanning_remote)


def _try_once(session: Session, request: ClaimRequest, lock_timeout: float) -> ClaimResult:
    return session.try_request(request, lock_timeout=lock_timeout)


async def _in_thread(call: Callable[[], T], undo: Callable[[T], object] = lambda _: None) -> T:
    # A call that gets its thread late has less time left for the store.
    job = _Job(partial(call_before, time.monotonic() + ANSWER_TIMEOUT, call), undo)
    try:
        # Bounds the wait for a thread alone: once the thread runs, it is awaited to its end.
        with anyio.fail_after(ANSWER_TIMEOUT):
            result = await anyio.to_thread.run_sync(job.run, limiter=_calling)
        await anyio.lowlevel.checkpoint_if_cancelled()
    except TimeoutError as error:
        cause = OSError(errno.ETIMEDOUT, f"{_MAX_THREADS} calls are waiting for its answer")
        raise StoreUnavailableError("the store", cause) from error
    except anyio.get_cancelled_exc_class():
        await job.abandon()
        raise
    return result


class _Job(Generic[T]):
    """A *call* for a thread; what it did is undone, by *undo* with its result, once its caller has abandoned it.

    The thread itself undoes it if it ends later: asyncio's `Task.cancel` does not wait for threads, unlike the
    cancellation of anyio, so that a result would otherwise be lost, and a grant be held that nobody knows of.
    """

    def __init__(self, call: Callable[[], T], undo: Callable[[T], object]) -> None:
        self._call, self._undo = call, undo
        self._lock, self._ended = Lock(), Event()
        self.begun = self._abandoned = False
        self._results: list[T] = []

    def run(self) -> T:
        """Call, in the thread."""
        with self._lock:
            if self._abandoned:
                raise RuntimeError("abandoned before it began")
            self.begun = True
        try:
            result = self._call()
            with self._lock:
                self._results.append(result)
                abandoned = self._abandoned
            if abandoned:
                self._undo(result)
            return result
        finally:
            self._ended.set()

    async def abandon(self, *, goes_on: bool = False) -> None:
        """Undo what the call did or will do, and wait for that, unless it *goes_on*."""
        with self._lock:
            self._abandoned = True
            begun, results = self.begun, list(self._results)
        if begun and (results or not goes_on):
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._finish, results, limiter=_unlimited)

    def _finish(self, results: list[T]) -> None:
        for result in results:
            self._undo(result)
        self._ended.wait()
