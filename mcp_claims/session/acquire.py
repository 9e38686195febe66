"""Acquiring a key: try, and wait for its holder until the key is free, the work is done, or the time is up.

Where the store has a wait queue, waiters are served in order, and a release wakes only the head.  Elsewhere a release
wakes all waiters and the store serves one of them; those that have waited longer try some milliseconds sooner.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import partial
from threading import BoundedSemaphore, Event
from typing import TYPE_CHECKING

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.stores.base import LOCK_TIMEOUT, call_before

if TYPE_CHECKING:
    from mcp_claims.session.session import Session

ANSWER_TIMEOUT = 4.5
"""Seconds in which a remote store answers one attempt or fails, however many requests the attempt takes."""

STILL_HELD = "still held by another session"
"""The message of the progress that a client gets while its call waits."""

_POLL_INTERVAL = 2.0  # s; a notice can be lost
_PROGRESS_INTERVAL = 5.0  # s
_HEAD_START = 0.25  # s for the head of the queue to take a key that is free, before others may
_COURTESY = 0.01  # s
_LOCK_STEP = 0.1  # s

_MAX_WAITING = 512

# `poll` takes no descriptor, `epoll` one for each waiter.
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)

Progress = Callable[[float], object]
"""Called every few seconds with the seconds waited so far."""

Refused = Callable[[ClaimResult], object]
"""Called with the result of each attempt after which the wait goes on."""


class Wakeup:
    """Wakes one waiting thread; `set` and `stop` may be called from any thread."""

    def __init__(self) -> None:
        try:
            # A socket pair, since it can be waited for together with the end of a process on every system.
            self._receiver, self._sender = socket.socketpair()
        except OSError as error:
            raise _cannot_wait(error) from error
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self.stopped = False

    def set(self) -> None:
        """End the present wait, or the next one."""
        try:
            self._sender.send(b"!")
        except OSError:
            return  # Full, so the wait ends anyway; or closed, so nobody waits any more.

    def stop(self) -> None:
        """End the wait for good."""
        self.stopped = True
        self.set()

    def wait(self, seconds: float, exit_of: object = None) -> None:
        """Wait until `set`, until the process watched as *exit_of* (something with a `fileno`) ends, or *seconds*."""
        with _Selector() as selector:
            selector.register(self._receiver, selectors.EVENT_READ)
            if exit_of is not None:
                selector.register(exit_of, selectors.EVENT_READ)  # type: ignore[arg-type]
            selector.select(0 if self.stopped else seconds)
        try:
            while self._receiver.recv(64):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        """Free the sockets."""
        self._receiver.close()
        self._sender.close()


_waits = BoundedSemaphore(_MAX_WAITING)
_waiting: set[Wakeup] = set()
_stopped = Event()


def begin_wait() -> Wakeup | None:
    """Return the wakeup of a new wait for a holder, which `end_wait` ends.

    `None` if no call may wait: beyond 512 waits in one process, and after `stop_waits`, a call is answered at once, as
    without `wait_seconds`.
    """
    # A semaphore, not a count: calls that arrive together would all find the count below the bound.
    if _stopped.is_set() or not _waits.acquire(blocking=False):
        return None
    try:
        wakeup = Wakeup()
    except BaseException:
        _waits.release()
        raise
    _waiting.add(wakeup)
    return wakeup


def end_wait(wakeup: Wakeup) -> None:
    """End the wait of *wakeup*, so that another call may wait."""
    _waiting.discard(wakeup)
    _waits.release()


def stop_waits() -> None:
    """End every wait of this process for a holder, with the result of its last attempt; no call waits from now on."""
    _stopped.set()
    for wakeup in list(_waiting):
        wakeup.stop()


def acquire(
    session: Session,
    request: ClaimRequest,
    *,
    progress: Progress | None = None,
    refused: Refused | None = None,
    wakeup: Wakeup | None = None,
) -> ClaimResult:
    """Claim the key of *request* for *session*; wait up to its `wait_seconds` while another session holds it.

    Blocks the calling thread.  *wakeup*, made by the caller, lets another thread stop the wait: the result of the last
    attempt is returned then, which may be a grant.  Raises what `Session.try_claim` raises.
    """
    if request.wait_seconds <= 0:
        return session.try_request(request)
    try:
        with closing(wakeup or Wakeup()) as owned:
            return _Waiter(session, request, progress, refused, owned).run()
    except OSError as error:
        raise _cannot_wait(error) from error


def _cannot_wait(error: OSError) -> StoreUnavailableError:
    # Descriptors have run out.  Nothing is claimed: an attempt that succeeds ends the wait.
    return StoreUnavailableError("the wait for the key", error)


class _Waiter:
    """One call that waits."""

    def __init__(
        self,
        session: Session,
        request: ClaimRequest,
        progress: Progress | None,
        refused: Refused | None,
        wakeup: Wakeup,
    ) -> None:
        self._session, self._request, self._wakeup = session, request, wakeup
        self._progress, self._refused = progress, refused
        self._began = self._reported = time.monotonic()
        self._is_head = False
        self._result: ClaimResult | None = None

    def run(self) -> ClaimResult:
        scoped = self._request.scoped
        with self._session.wait_queue(scoped, self._become_head) as queued:
            while queued and not self._is_head:
                if not self._leave_to_head() and self._try():
                    return self._last()
                self._pause()
            if self._try():
                return self._last()
            with self._session.watch(scoped, self._wakeup.set):
                # The key may have changed before the watch began, so the next attempt comes first.
                while not self._try():
                    self._pause(watch_holder=True)
                    if not queued:
                        self._let_longer_waiters_go_first()
        return self._last()

    def _become_head(self) -> None:
        self._is_head = True
        self._wakeup.set()

    def _leave_to_head(self) -> bool:
        """Return whether the key is free and the head of the queue is about to take it.

        If nobody takes it within the head start, the head is stopped or slow, and any waiter may take the key.
        """
        if self._wakeup.stopped or not self._is_free():
            return False
        self._wakeup.wait(min(_HEAD_START, self._left()))
        return self._is_head or not self._is_free()

    def _is_free(self) -> bool:
        read = partial(self._session.read, self._request.scoped.key, self._request.scoped.namespace)
        stored = call_before(time.monotonic() + ANSWER_TIMEOUT, read).claims
        return not stored or stored[0].state not in (ClaimState.HELD, ClaimState.DONE)

    def _try(self) -> bool:
        """Try once, unless stopped; return whether the wait is over: granted, done, stopped, or out of time."""
        if self._wakeup.stopped and self._result is not None:
            return True
        in_time = self._left() > 0
        result = call_before(time.monotonic() + ANSWER_TIMEOUT, self._try_until_stopped)
        if self._result is not None and result.lost is None:
            result = result._replace(lost=self._result.lost)  # The session reports a lost claim only once.
        self._result = result
        if result.status is not Status.HELD or not in_time:
            return True
        if self._refused is not None:
            self._refused(result)
        return False

    def _try_until_stopped(self) -> ClaimResult:
        """Try once, for up to `LOCK_TIMEOUT`: in steps, so that a lock that is not released does not delay a `stop`."""
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                return self._session.try_request(self._request, lock_timeout=_LOCK_STEP)
            except StoreBusyError as busy:
                if self._wakeup.stopped or time.monotonic() >= deadline:
                    raise type(busy)(busy.where, LOCK_TIMEOUT) from busy

    def _last(self) -> ClaimResult:
        assert self._result is not None
        return self._result

    def _pause(self, *, watch_holder: bool = False) -> None:
        """Wait for a notice, but not beyond the expiry of the claim in the way, the time limit, or the poll interval."""
        seconds = min(self._left(), _POLL_INTERVAL)
        blocking = self._result.found if self._result is not None else None
        watched = None
        if isinstance(blocking, Claim) and self._result is not None:
            # Nobody sends a notice when a claim expires.
            expires = expiry.expires_in(blocking, self._result.now)
            if expires is not None:
                seconds = min(seconds, max(0.0, expires.total_seconds()))
            watched = self._session.watch_exit(blocking.holder) if watch_holder else None
        with nullcontext() if watched is None else closing(watched):
            self._wakeup.wait(seconds, watched)
        if self._progress is not None and time.monotonic() - self._reported >= _PROGRESS_INTERVAL:
            self._reported = time.monotonic()
            self._progress(self._reported - self._began)

    def _let_longer_waiters_go_first(self) -> None:
        waited = time.monotonic() - self._began
        time.sleep(min(_COURTESY / (1 + waited), self._left()))

    def _left(self) -> float:
        return max(0.0, self._request.wait_seconds - (time.monotonic() - self._began))
