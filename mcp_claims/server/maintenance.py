"""Maintains the sessions of a server while it runs: renews claims and ends idle sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from mcp_claims.server.log import logger
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.offload import run_maintenance

_SHORTEST_PAUSE = 0.05  # s


@asynccontextmanager
async def maintained(registry: SessionRegistry) -> AsyncIterator[None]:
    """Maintain the sessions of *registry* during the block."""
    due = anyio.Event()
    registry.on_due = lambda: due.set()

    async def maintain() -> None:
        nonlocal due
        while True:
            due = anyio.Event()
            try:
                seconds = await run_maintenance(registry.read_only, registry.begin_maintenance())
            except Exception:
                # A defect in one round must not end all renewals.
                logger.exception("the maintenance of the sessions failed")
                seconds = 1.0
            with anyio.move_on_after(max(seconds, _SHORTEST_PAUSE)):
                await due.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(maintain)
        yield
        tasks.cancel_scope.cancel()
