"""Doing in time what sessions need without being called: renewals, and the end of those that are idle."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.offload import maintain_off_loop

logger = logging.getLogger(__name__)

_AT_LEAST = 0.05  # s


@asynccontextmanager
async def tended(sessions: SessionRegistry) -> AsyncIterator[None]:
    """Tend *sessions* meanwhile."""
    changed = anyio.Event()
    sessions.changed = lambda: changed.set()

    async def tend() -> None:
        nonlocal changed
        while True:
            changed = anyio.Event()
            try:
                due = await maintain_off_loop(sessions.read_only, sessions.tidy())
            except Exception:
                # A defect of ours in one round must not be the end of all renewals.
                logger.exception("tending the sessions failed")
                due = 1.0
            with anyio.move_on_after(max(due, _AT_LEAST)):
                await changed.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tend)
        yield
        tasks.cancel_scope.cancel()
