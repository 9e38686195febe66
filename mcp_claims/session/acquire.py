"""Waiting for a key that somebody holds: until it is free, done, or the time is up.

Who came first is served first where the store has lines: only the head of the line is woken by a release.  Elsewhere a
release wakes all who wait, the store lets one of them have it, and who has waited longer asks some milliseconds sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import anyio
import anyio.lowlevel

from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.offload import read_off_loop, run_off_loop
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT

Report = Callable[[float, float, str], Awaitable[None]]
"""Tells the client how long has been waited, of how long, and for what."""

_LOOK_AGAIN = 2.0
"""Seconds after which it is looked at again though nothing was told of."""

_REPORT_EVERY = 5.0  # s
_FOR_THE_FIRST = 0.25
"""Seconds that the first in line has for taking what is free, before others may."""

_COURTESY = 0.01  # s


async def acquire_async(
    claims: Session, scoped: ScopedKey, attempt_once: Callable[[float], ClaimResult], patience: float, report: Report
) -> ClaimResult:
    """Claim by *attempt_once*, again and again for *patience* seconds while somebody else holds *scoped*."""
    if patience <= 0:
        return await _attempt(claims, attempt_once)
    wait = _Wait(partial(_attempt, claims, attempt_once), patience, report)
    first, changed = _Signal(), _Signal()
    with claims.wait_queue(scoped, first.send) as lined:
        await anyio.lowlevel.checkpoint()  # Where nobody is in line, we are first by now.
        while lined and not first.sent:
            if not await _is_for_the_first(claims, scoped, first) and await wait.is_over():
                return wait.attempt
            await wait.at_most(first.wait)
        if await wait.is_over():
            return wait.attempt
        with claims.watch(scoped, changed.send):
            # It may have changed before it was watched.
            while not await wait.is_over():
                changed.clear()
                await wait.at_most(partial(_something, claims, wait.attempt, changed))
                if not lined:
                    await wait.let_others_go_first()
    return wait.attempt


def acquire(
    claims: Session, scoped: ScopedKey, patience: float, *, ttl_minutes: float, note: str | None, redo: bool
) -> ClaimResult:
    """Claim *scoped*, for a program that has nothing else to do than to wait for *patience* seconds."""

    def attempt_once(lock_timeout: float) -> ClaimResult:
        return claims.try_claim(
            scoped.key, scoped.namespace, ttl_minutes=ttl_minutes, note=note, redo=redo, lock_timeout=lock_timeout
        )

    async def unheard(waited: float, of: float, what: str) -> None:
        """Nobody asked to be told."""

    if patience <= 0:
        return attempt_once(LOCK_TIMEOUT)
    return anyio.run(acquire_async, claims, scoped, attempt_once, patience, unheard)


async def _attempt(claims: Session, attempt_once: Callable[[float], ClaimResult]) -> ClaimResult:
    """Try once; what is granted to a call that was cancelled meanwhile is given back."""

    def release_grant(attempt: ClaimResult) -> None:
        if attempt.status is Status.ACQUIRED and isinstance(attempt.found, Claim):
            claims.release_grant(attempt.found)

    return await run_off_loop(claims, attempt_once, release_grant)


async def _is_for_the_first(claims: Session, scoped: ScopedKey, first: _Signal) -> bool:
    """Tell whether *scoped* is free, and the first in line about to take it.

    If nobody takes it, the first is stopped or slow, and whoever looks next may have it.
    """
    if not await read_off_loop(claims, partial(_is_free, claims, scoped)):
        return False
    with anyio.move_on_after(_FOR_THE_FIRST):
        await first.wait()
    return first.sent or not await read_off_loop(claims, partial(_is_free, claims, scoped))


def _is_free(claims: Session, scoped: ScopedKey) -> bool:
    stored = claims.stored(scoped.key, scoped.namespace).page
    return not stored or stored[0].state in (ClaimState.EXPIRED, ClaimState.ORPHANED, ClaimState.GIVEN_BACK)


class _Wait:
    """One call that waits: since when, for how long, and what its last attempt came to."""

    def __init__(self, attempt_once: Callable[[], Awaitable[ClaimResult]], patience: float, report: Report) -> None:
        self._attempt_once, self._patience, self._report = attempt_once, patience, report
        self._began = self._reported = anyio.current_time()
        self._attempt: ClaimResult | None = None
        self._lost: Claim | None = None

    @property
    def attempt(self) -> ClaimResult:
        """The last attempt, once there was one."""
        assert self._attempt is not None
        return self._attempt

    async def is_over(self) -> bool:
        """Try once; tell whether it was granted, refused for good or the time is up."""
        waited = anyio.current_time() - self._began
        attempt = await self._attempt_once()
        # That a claim was lost is told only once, so it has to be kept for the answer.
        self._lost = attempt.lost or self._lost
        self._attempt = attempt._replace(lost=self._lost)
        return attempt.status is not Status.HELD or waited >= self._patience

    async def at_most(self, something: Callable[[], Awaitable[None]]) -> None:
        """Wait for *something*, until the claim in the way expires, the time is up or it is time to look again."""
        left = min(self._left(), _LOOK_AGAIN)
        if self._attempt is not None and isinstance(self._attempt.found, Claim):
            # Nobody tells when it expires.
            expires = expiry.expires_in(self._attempt.found, self._attempt.now)
            if expires is not None:
                left = min(left, max(0.0, expires.total_seconds()))
        with anyio.move_on_after(left):
            await something()
        if anyio.current_time() - self._reported >= _REPORT_EVERY:
            self._reported = anyio.current_time()
            await self._report(self._reported - self._began, self._patience, "still held by another session")

    async def let_others_go_first(self) -> None:
        """Pause for some milliseconds, the longer the shorter we have waited."""
        waited = anyio.current_time() - self._began
        await anyio.sleep(min(_COURTESY / (1 + waited), self._left()))

    def _left(self) -> float:
        return max(0.0, self._patience - (anyio.current_time() - self._began))


class _Signal:
    """What another thread says once, until it is cleared; made in the event loop that waits for it."""

    def __init__(self) -> None:
        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()
        self.clear = self._event.clear

    @property
    def sent(self) -> bool:
        return self._event.is_set()

    def send(self) -> None:
        # Another thread may have begun to tell when the wait and its loop ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        await self._event.wait()


async def _something(claims: Session, attempt: ClaimResult, changed: _Signal) -> None:
    """Return when the claim may have changed or the holder's process has ended."""
    death = claims.watch_exit(attempt.found.holder) if isinstance(attempt.found, Claim) else None
    if death is None:
        await changed.wait()
        return
    try:
        async with anyio.create_task_group() as first:

            async def until_dead() -> None:
                await anyio.wait_readable(death)
                first.cancel_scope.cancel()

            first.start_soon(until_dead)
            await changed.wait()
            first.cancel_scope.cancel()
    finally:
        death.close()
