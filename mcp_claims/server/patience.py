"""Waiting for a key that somebody holds: until it is free, done, or the time is up.

Every release wakes all who wait for the key on this machine, and the store lets one of them have it.  There is no queue,
which would be stale as soon as somebody in it dies; but who has waited longer asks sooner, by some milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import anyio

from mcp_claims import rules
from mcp_claims.answers import Attempt, Status
from mcp_claims.claims import Claims
from mcp_claims.record import Claim, ScopedKey
from mcp_claims.server.waiting import without_blocking

Report = Callable[[float, float, str], Awaitable[None]]
"""Tells the client how long has been waited, of how long, and for what."""

_LOOK_AGAIN = 2.0
"""Seconds after which it is looked at again though nothing was told of."""

_REPORT_EVERY = 5.0  # s
_COURTESY = 0.01  # s


async def claim_patiently(
    claims: Claims, scoped: ScopedKey, attempt_once: Callable[[float], Attempt], patience: float, report: Report
) -> Attempt:
    """Claim by *attempt_once*, again and again for *patience* seconds while somebody else holds *scoped*."""
    began = anyio.current_time()
    attempt = await without_blocking(attempt_once)
    if attempt.status is not Status.HELD or patience <= 0:
        return attempt
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(changed.set)

    with claims.watch(scoped, wake):
        while True:
            # The first time: it may have changed before it was watched.
            changed.clear()
            attempt = _with_loss(await without_blocking(attempt_once), attempt)
            waited = anyio.current_time() - began
            if attempt.status is not Status.HELD or waited >= patience:
                return attempt
            with suppress(TimeoutError), anyio.fail_after(_at_most(attempt, patience - waited)):
                await _something(claims, attempt, changed)
            waited = anyio.current_time() - began
            if waited < patience:
                await anyio.sleep(min(_COURTESY / (1 + waited), patience - waited))
            if int(waited / _REPORT_EVERY) > int((waited - _LOOK_AGAIN) / _REPORT_EVERY):
                await report(waited, patience, "still held by another session")


def _at_most(attempt: Attempt, left: float) -> float:
    """Return for how many seconds to wait for something to happen."""
    if isinstance(attempt.found, Claim):
        # Nobody tells when it expires.
        left = min(left, max(0.0, rules.remaining(attempt.found.expires, attempt.now).total_seconds()))
    return min(left, _LOOK_AGAIN)


async def _something(claims: Claims, attempt: Attempt, changed: asyncio.Event) -> None:
    """Return when the claim may have changed or the holder's process has ended."""
    death = claims.death_of(attempt.found.holder) if isinstance(attempt.found, Claim) else None
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


def _with_loss(attempt: Attempt, before: Attempt) -> Attempt:
    """Return *attempt* with the loss that the one *before* it told of, as that is told only once."""
    return attempt if attempt.lost is not None else replace(attempt, lost=before.lost)
