"""The calls in progress on a server without an event loop: the main thread runs them, other threads run what may block.

A call is a coroutine.  Where it needs something that may block, it yields a `Step`; another thread runs the step, and the
call continues in the main thread with the result.  So only steps have to be thread-safe, as on an event loop, and the main
thread may change from one loop to another while calls are in progress.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from enum import Enum
from functools import partial
from threading import Lock
from types import coroutine
from typing import Any, NamedTuple, TypeVar

from mcp_claims.errors import ClaimsError, StoreBusyError
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.server.log import logger
from mcp_claims.server.plain import Id, Message, canonical_id
from mcp_claims.session.acquire import ANSWER_TIMEOUT, Wakeup, acquire, begin_wait, end_wait
from mcp_claims.session.results import ClaimResult
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT, call_before
from mcp_claims.stores.threads import start_daemon_thread

T = TypeVar("T")


class _Kind(Enum):
    """What a step does; the value is how many of the kind run at a time.  `begin_wait` bounds waits for a holder."""

    CALL = 64
    SCAN = 4
    WAIT = 1_000_000


class Step(NamedTuple):
    """A part of a call that may block: *run* in a thread; *undo* gets its result if the call was cancelled meanwhile."""

    run: Callable[[], Any]
    undo: Callable[[Any], object] | None = None
    kind: _Kind = _Kind.CALL


class RunningCall:
    """A call in progress: *finish* gets its result, its error, or `None` after a defect, unless the call is cancelled."""

    def __init__(
        self,
        request_id: Id | None,
        work: Coroutine[Step, Any, Message],
        finish: Callable[[Message | ClaimsError | None], None],
        runner: StepRunner | None = None,
    ) -> None:
        self.request_id, self.work, self.finish, self.runner = request_id, work, finish, runner
        self.cancelled = False

    def cancel(self) -> None:
        """End the call without an answer: a wait stops, and what a step in progress returns is undone."""
        self.cancelled = True
        if self.runner is not None:
            self.runner.stop_waiting()


class Calls:
    """Runs calls.  Other threads may call only `post`; *wake* makes the main thread call `run_posted` soon."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.running: dict[Id, RunningCall] = {}
        """The calls that can be cancelled: the last one of each id."""
        self.open: set[RunningCall] = set()
        """The calls that are neither answered nor, if they were cancelled, ended and undone."""
        self._wake = wake
        self._posted: deque[Callable[[], None]] = deque()
        self._lock = Lock()
        self._waiting: deque[tuple[RunningCall, Step]] = deque()
        self._threads: Counter[_Kind] = Counter()

    def start(self, call: RunningCall) -> None:
        """Run *call*, which answers a request, up to its first step."""
        assert call.request_id is not None
        self.running[canonical_id(call.request_id)] = call
        self.open.add(call)
        self._resume(call, None, None)

    def run(self, work: Coroutine[Step, Any, Any]) -> None:
        """Run *work* of the server itself, which answers no request and cannot be cancelled."""
        self._resume(RunningCall(None, work, lambda _: None), None, None)

    def cancel(self, request_id: Id) -> bool:
        """Cancel the call that answers *request_id*, if there is one; return whether there was."""
        call = self.running.pop(canonical_id(request_id), None)
        if call is not None:
            call.cancel()
        return call is not None

    def post(self, function: Callable[[], None]) -> None:
        """Make the main thread call *function* soon; for any thread."""
        with self._lock:
            self._posted.append(function)
            self._wake()

    def run_posted(self) -> None:
        """Call the functions that were posted, in order."""
        while self._posted:
            self._posted.popleft()()

    def set_wake(self, wake: Callable[[], None]) -> None:
        """Replace *wake*, since another loop now runs in the main thread; call it at once if something is posted."""
        with self._lock:
            self._wake = wake
            if self._posted:
                wake()

    def _resume(self, call: RunningCall, result: Any, error: BaseException | None) -> None:
        try:
            step = call.work.send(result) if error is None else call.work.throw(error)
        except StopIteration as ended:
            self._finish(call, ended.value)
        except ClaimsError as problem:
            self._finish(call, problem)
        except Exception:
            logger.exception("a request failed")  # A defect.
            self._finish(call, None)
        else:
            self._waiting.append((call, step))
            self._start_threads()

    def _finish(self, call: RunningCall, result: Message | ClaimsError | None) -> None:
        # A client may use an id again before it has the answer to the first request.
        if call.request_id is not None and self.running.get(canonical_id(call.request_id)) is call:
            del self.running[canonical_id(call.request_id)]
        self.open.discard(call)
        call.finish(result)

    def _start_threads(self) -> None:
        for _ in range(len(self._waiting)):
            call, step = self._waiting.popleft()
            if call.cancelled:
                call.work.close()
                self.open.discard(call)
            elif self._threads[step.kind] >= step.kind.value:
                self._waiting.append((call, step))
            else:
                self._threads[step.kind] += 1
                try:
                    start_daemon_thread(partial(self._run, call, step), "mcp-claims call")
                except RuntimeError as error:
                    self.post(partial(self._end, call, step, None, error))

    def _run(self, call: RunningCall, step: Step) -> None:
        result, error = None, None
        try:
            result = step.run()
        except BaseException as problem:  # noqa: BLE001 - raised again in the call
            error = problem
        self.post(partial(self._end, call, step, result, error))

    def _end(self, call: RunningCall, step: Step, result: Any, error: BaseException | None) -> None:
        self._threads[step.kind] -= 1
        if not call.cancelled:
            self._resume(call, result, error)
        else:
            call.work.close()
            if error is None and step.undo is not None:
                self.run(self._undo(call, partial(step.undo, result)))
            else:
                self.open.discard(call)
        self._start_threads()

    async def _undo(self, call: RunningCall, undo: Callable[[], object]) -> None:
        # Nobody knows of what the call did.  Undoing it may take a lock, so it takes a thread.
        try:
            await in_thread(Step(undo))
        finally:
            self.open.discard(call)


@coroutine
def in_thread(step: Step) -> Generator[Step, Any, Any]:
    """Run *step* in a thread; return what it returns."""
    return (yield step)


class StepRunner:
    """Runs the steps of one call of a tool, as a `Runner` of `tools`.

    While the call waits for a holder, a thread calls *report*, if there is one, with the seconds waited so far and the most
    it may wait.
    """

    def __init__(self, report: Callable[[float, float], None] | None) -> None:
        self._report = report
        self.is_heard = report is not None
        self._wakeup: Wakeup | None = None

    def stop_waiting(self) -> None:
        """End the wait for a holder, if there is one."""
        if self._wakeup is not None:
            self._wakeup.stop()

    async def acquire(self, session: Session, request: ClaimRequest) -> ClaimResult:
        """Acquire the key; if the call is cancelled meanwhile, release the grant."""

        def undo(result: ClaimResult) -> None:
            session.undo(result)

        wakeup = begin_wait() if request.wait_seconds > 0 else None
        if wakeup is None:
            return await self._change(session, lambda timeout: session.try_request(request, lock_timeout=timeout), undo)
        self._wakeup = wakeup

        report = self._report

        def progress(waited: float) -> None:
            if report is not None and not wakeup.stopped:
                report(waited, request.wait_seconds)

        told = None if report is None else progress
        run = partial(acquire, session, request, progress=told, wakeup=wakeup, reserve=True)
        try:
            result: ClaimResult = await in_thread(Step(run, undo, _Kind.WAIT))
        finally:
            end_wait(wakeup)
            wakeup.close()  # The thread may not have begun.
        return result

    async def change(self, session: Session, change: Callable[[float], T]) -> T:
        """Run *change*, given its lock timeout in seconds; it changes nothing when it raises `StoreBusyError`."""
        return await self._change(session, change, None)

    async def _change(self, session: Session, change: Callable[[float], T], undo: Callable[[T], object] | None) -> T:
        deadline = time.monotonic() + LOCK_TIMEOUT
        if session.remote:
            run: Callable[[], T] = _in_time(partial(change, LOCK_TIMEOUT))
        else:
            with suppress(StoreBusyError):
                return change(0.0)
            run = partial(_change_before, deadline, change)
        result: T = await in_thread(Step(run, undo))
        return result

    async def read(self, session: Session, read: Callable[[], T]) -> T:
        """Run *read*, which reads some claims."""
        if not session.remote:
            return read()
        result: T = await in_thread(Step(_in_time(read)))
        return result

    async def scan(self, session: Session, scan: Callable[[], T]) -> T:
        """Run *scan*, which reads any number of claims."""
        step = Step(_in_time(scan)) if session.remote else Step(scan, kind=_Kind.SCAN)
        result: T = await in_thread(step)
        return result


def _change_before(deadline: float, change: Callable[[float], T]) -> T:
    # A call that gets its thread late has less time left for the lock.
    try:
        return change(max(0.0, deadline - time.monotonic()))
    except StoreBusyError as busy:
        raise type(busy)(busy.where, LOCK_TIMEOUT) from busy


def _in_time(call: Callable[[], T]) -> partial[T]:
    # A call that gets its thread late has less time left for the store.
    return partial(call_before, time.monotonic() + ANSWER_TIMEOUT, call)
