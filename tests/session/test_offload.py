"""Calls from an event loop."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest

from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.model.requests import ClaimRequest
from mcp_claims.session.offload import acquire_async
from mcp_claims.stores.base import LOCK_TIMEOUT, Store, Swap
from tests.session.bench import KEY, Bench
from tests.support.interrupting import DelegatingStore


class SlowToReturn(DelegatingStore):
    """Grants a claim and returns only when *go* is set; sets *granted* before."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.granted, self.go = threading.Event(), threading.Event()

    def swap(
        self, scoped: ScopedKey, old: Claim | None, new: Claim | None, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> Swap:
        swap = super().swap(scoped, old, new, lock_timeout=lock_timeout)
        if new is not None:
            self.granted.set()
            assert self.go.wait(20)
        return swap


@pytest.mark.anyio
@pytest.mark.rule("E9")
async def test_a_wait_that_is_cancelled_as_it_is_granted_keeps_nothing(bench: Bench) -> None:
    store = SlowToReturn(bench.store)
    session = bench.session(store)
    async with anyio.create_task_group() as calls:
        calls.start_soon(acquire_async, session, ClaimRequest.parse(KEY, wait_seconds=60))
        assert await anyio.to_thread.run_sync(store.granted.wait, 20)
        calls.cancel_scope.cancel()
        store.go.set()
    assert list(bench.store.scan()) == []
    assert not session.holds_anything
