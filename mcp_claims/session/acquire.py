"""Acquiring a key: try, and wait for its holder until the key is free, the work is done, or the time is up.

Each waiter takes a ticket.  The first watches the process of the holder, each other one that of the waiter before it, so
that a release or a death wakes one waiter, not all.  Where the store keeps no tickets, a release wakes all and the store
serves one of them; those that have waited longer try some milliseconds sooner.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext, suppress
from functools import partial
from threading import BoundedSemaphore, Event
from typing import TYPE_CHECKING, Protocol

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Mode, Ticket
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.wait_queue import Place
from mcp_claims.stores.base import LOCK_TIMEOUT, Alarm, call_before

if TYPE_CHECKING:
    from mcp_claims.session.session import Session

if sys.platform != "win32":
    import resource

ANSWER_TIMEOUT = 4.5
"""Seconds in which a remote store answers one attempt or fails, however many requests the attempt takes."""

STILL_HELD = "still held by another session"
"""The message of the progress that a client gets while its call waits."""

# A wake-up can be lost.  Only the first waiter, and the others while the key is reserved, need to try again soon.
_POLL_INTERVAL, _LONG_POLL_INTERVAL = 2.0, 10.0  # s
_WATCHED_POLL_INTERVAL = 60.0  # s, where the store itself notices that the waiter before has gone
_CYCLE_INTERVAL = 60.0  # s, after which a waiter that nothing has woken looks for a cycle of waits all the same
_PROGRESS_INTERVAL = 5.0  # s
_COURTESY = 0.01  # s
_LOCK_STEP = 0.1  # s

_MAX_WAITING = 512
# A wait has its socket pair, its alarm and the process that it watches open, and over HTTP its connection.
_DESCRIPTORS_OF_A_WAIT, _DESCRIPTORS_OF_OTHERS = 5, 96


class HasFileno(Protocol):
    """Something that can be waited for until it is readable."""

    def fileno(self) -> int | None:
        """Return its descriptor, if it has one."""


Progress = Callable[[float], object]
"""Called every few seconds with the seconds waited so far."""

Refused = Callable[[ClaimResult], object]
"""Called with the result of each attempt after which the wait goes on."""


class Wakeup:
    """Wakes one waiting thread; `set` and `stop` may be called from any thread."""

    def __init__(self) -> None:
        import socket  # 3 ms with `selectors`, where most commands take 60 and wait for nobody.

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

    def wait(self, seconds: float, *others: HasFileno | None) -> bool:
        """Wait until `set`, until one of *others* becomes readable, or *seconds*; return false if only the time is up."""
        import selectors

        # `poll` takes no descriptor, `epoll` one for each waiter.
        with getattr(selectors, "PollSelector", selectors.DefaultSelector)() as selector:
            for readable in (self._receiver, *others):
                if readable is not None and (descriptor := readable.fileno()) is not None:
                    selector.register(descriptor, selectors.EVENT_READ)
            woken = bool(selector.select(0 if self.stopped else seconds)) or self.stopped
        with suppress(BlockingIOError):
            while self._receiver.recv(64):
                pass
        return woken

    def close(self) -> None:
        """Free the sockets."""
        self._receiver.close()
        self._sender.close()


_waits = BoundedSemaphore(_MAX_WAITING)
_waiting: set[Wakeup] = set()
_stopped = Event()


def begin_wait() -> Wakeup | None:
    """Return the wakeup of a new wait for a holder, which `end_wait` ends.

    `None` if no call may wait: beyond 512 waits in one process, or fewer where it may open few files, and after
    `stop_waits`, a call is answered at once, as without `wait_seconds`.
    """
    # A semaphore, not a count: calls that arrive together would all find the count below the bound.
    if _stopped.is_set() or len(_waiting) >= _affordable_waits() or not _waits.acquire(blocking=False):
        return None
    try:
        wakeup = Wakeup()
    except BaseException:
        _waits.release()
        raise
    _waiting.add(wakeup)
    return wakeup


def _affordable_waits() -> int:
    """Return how many waits leave the process files to open: without any, no other call could be answered."""
    if sys.platform != "win32":
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY:
            return max(1, (limit - _DESCRIPTORS_OF_OTHERS) // _DESCRIPTORS_OF_A_WAIT)
    return _MAX_WAITING


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
    reserve: bool = False,
) -> ClaimResult:
    """Claim the key of *request* for *session*; wait up to its `wait_seconds` while another session holds it.

    Blocks the calling thread.  *wakeup*, made by the caller, lets another thread stop the wait: the result of the last
    attempt is returned then, which may be a grant.  *reserve* is for a caller that may give up without a word: only the
    first attempt claims the key, a later one reserves it, and the session keeps its place for some seconds after the wait.
    Raises what `Session.try_claim` raises.
    """
    if request.wait_seconds <= 0:
        return session.try_request(request)
    try:
        with closing(wakeup or Wakeup()) as owned:
            return _Waiter(session, request, progress, refused, owned, reserve=reserve).run()
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
        *,
        reserve: bool,
    ) -> None:
        self._session, self._request, self._wakeup = session, request, wakeup
        self._progress, self._refused, self._reserve = progress, refused, reserve
        self._began = self._reported = time.monotonic()
        self._result: ClaimResult | None = None
        self._unanswered = False

    def run(self) -> ClaimResult:
        if self._try(reserve=False):
            return self._last()
        scoped, queue = self._request.scoped, self._session.queue
        keeps_place = False
        try:
            ticket = self._take_ticket(queue.join)
            while not self._wait(ticket):
                if self._wakeup.stopped:  # The end of the session has given up its place.
                    break
                ticket = self._take_ticket(queue.rejoin)
            last = self._last()
            waits_on = last.status in (Status.HELD, Status.YOUR_TURN) and not last.cycle and not last.blocked_by_own
            keeps_place = self._reserve and waits_on and not self._wakeup.stopped
            return last._replace(keeps_place=keeps_place and ticket is not None)
        finally:
            self._session.end_wait(scoped, keeps_place=keeps_place)

    def _take_ticket(self, take: Callable[..., Ticket | None]) -> Ticket | None:
        """Return the ticket of this wait, by *take*: `join`, or `rejoin` of the queue."""
        scoped, *others = self._request.keys
        any_of_them = bool(self._request.or_else)
        return take(scoped, self._left(), tuple(others), any_of_them=any_of_them, use=self._request.use)

    def _wait(self, ticket: Ticket | None) -> bool:
        """Wait with *ticket*; return false if its place was lost before the wait was over.

        A process that is stopped can let its turn lapse, a list of tickets can be damaged, and a ticket ends with a lease.
        """
        scoped, queue = self._request.scoped, self._session.queue
        with ExitStack() as stack:
            alarm, was_out, woken, searched = None, False, True, 0.0
            if ticket is not None:
                alarm = stack.enter_context(self._session.alarm(ticket, self._wakeup.set))
            only_notifies = alarm is not None and alarm.fileno() is None
            watches_keys = ticket is None or alarm is None or (len(ticket.keys) > 1 and only_notifies)
            if watches_keys:
                # An alarm that only notifies watches one key.
                for key in self._request.keys:
                    stack.enter_context(self._session.watch(key, self._wakeup.set))
            # The key may have become free before the alarm was set, so the next attempt comes first.
            while not self._try(reserve=self._reserve):
                if self._unanswered:
                    was_out = woken = True
                    self._wakeup.wait(min(_POLL_INTERVAL, self._left()))
                    self._report_progress()
                    continue
                if was_out and ticket is None:
                    return False
                found = None
                # Where nothing has changed, many waiters would each read the tickets of all, again and again.
                if woken or not self._session.remote or time.monotonic() - searched >= _CYCLE_INTERVAL:
                    found, searched = queue.read_all(), time.monotonic()
                    if cycle := queue.find_cycle(scoped, found):
                        self._result = self._last()._replace(cycle=cycle)
                        return True
                place = queue.place(scoped, found, self._request.keys[1:], self._served())
                if ticket is not None and not place.has_ticket:
                    return False
                if not watches_keys and only_notifies and self._may_be_served_first(place):
                    stack.enter_context(self._session.watch(scoped, self._wakeup.set))
                    watches_keys = True
                    continue
                woken = self._pause(alarm, place)
                if ticket is None:
                    self._let_longer_waiters_go_first()
                    # That it could not take a ticket once must not cost its place for the whole wait.
                    if not self._wakeup.stopped and self._take_ticket(queue.rejoin) is not None:
                        return False
        return True

    def _try(self, *, reserve: bool) -> bool:
        """Try once, unless stopped; return whether the wait is over: granted, done, stopped, or out of time."""
        if self._wakeup.stopped and self._result is not None:
            return True
        in_time = self._left() > 0
        self._unanswered = False
        try:
            result = call_before(time.monotonic() + ANSWER_TIMEOUT, partial(self._try_until_stopped, reserve))
        except StoreUnavailableError:
            # A wait outlives an outage of the cluster, if that ends in time.  Where it lasted for longer than the lease of
            # this process, the place is lost with the ticket, and the session takes a new one.
            if not self._session.remote or self._result is None or not in_time:
                raise
            self._unanswered = True
            return False
        if self._result is not None and result.lost is None:
            result = result._replace(lost=self._result.lost)  # The session reports a lost claim only once.
        self._result = result
        if result.status is not Status.HELD or result.blocked_by_own or not in_time:
            return True
        if self._refused is not None:
            self._refused(result)
        return False

    def _try_until_stopped(self, reserve: bool) -> ClaimResult:
        """Try once, for up to `LOCK_TIMEOUT`: in steps, so that a lock that is not released does not delay a `stop`."""
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                return self._session.try_request(self._request, lock_timeout=_LOCK_STEP, reserve=reserve)
            except StoreBusyError as busy:
                if self._wakeup.stopped or time.monotonic() >= deadline:
                    raise type(busy)(busy.where, LOCK_TIMEOUT) from busy

    def _last(self) -> ClaimResult:
        assert self._result is not None
        return self._result

    def _may_be_served_first(self, place: Place) -> bool:
        """Return whether the key, or a slot of it, can be this session's turn while the ticket before it still stands.

        Who does not give way to that one, which waits for another key too, reserves this key for us; and that one may have its
        turn in a slot while another slot becomes free.
        """
        return place.before is not None and (place.is_near or place.before.keys != self._request.keys)

    def _served(self) -> set[str]:
        """Return the sessions that have a slot, or their turn in one: this session waits for the others' slots."""
        last = self._last()
        if self._request.use.mode is not Mode.SLOT:
            return set()
        return {each.holder.name for each in (last.found, *last.in_the_way) if isinstance(each, Claim)}

    def _pause(self, alarm: Alarm | None, place: Place) -> bool:
        """Wait for a wake-up, but not beyond the end of the claim in the way, the time limit, or the poll interval.

        Returns false if it was not woken.
        """
        last, before = self._last(), place.before
        seconds, watched = _POLL_INTERVAL, None
        if isinstance(blocking := last.found, Claim):
            # A claim that expires wakes no waiter, and neither does the ticket of a session that waits no more.
            ends = [] if before is None else [expiry.remaining(before.until, last.now)]
            if before is None or blocking.mode is Mode.RESERVED:
                expires = expiry.expires_in(blocking, last.now)
                ends += [] if expires is None else [expires]
            else:
                seconds = _LONG_POLL_INTERVAL
            if alarm is not None and alarm.aim(before or blocking):
                # Of a list, one key can become this session's turn while the ticket right before its own, for another, stands.
                # And of those between this session and the ticket that it watches for a slot, one may give up its place.
                has_choice = self._request.or_else or (self._request.use.mode is Mode.SLOT and not place.is_near)
                is_sure = before is not None and not has_choice
                seconds = _WATCHED_POLL_INTERVAL if is_sure else _LONG_POLL_INTERVAL
            seconds = min([seconds, *(max(0.0, end.total_seconds()) for end in ends)])
            watched = self._session.watch_exit((before or blocking).holder)
        until, woken, step = time.monotonic() + min(seconds, self._left()), False, seconds
        if self._progress is not None:
            step = _PROGRESS_INTERVAL
        with nullcontext() if watched is None else closing(watched):
            while not woken and (left := until - time.monotonic()) > 0:
                woken = self._wakeup.wait(min(left, step), alarm, watched)
                self._report_progress()
        if alarm is not None:
            alarm.reset()
        return woken

    def _report_progress(self) -> None:
        if self._progress is not None and time.monotonic() - self._reported >= _PROGRESS_INTERVAL:
            self._reported = time.monotonic()
            self._progress(self._reported - self._began)

    def _let_longer_waiters_go_first(self) -> None:
        waited = time.monotonic() - self._began
        time.sleep(min(_COURTESY / (1 + waited), self._left()))

    def _left(self) -> float:
        return max(0.0, self._request.wait_seconds - (time.monotonic() - self._began))
