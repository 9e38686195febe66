"""The calls of the quick stage: what a call does after it was cancelled is undone."""

from __future__ import annotations

import json
import time
from threading import Event
from typing import Any

import pytest

from mcp_claims.errors import StoreBusyError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.stores.base import LOCK_TIMEOUT, Swap
from mcp_claims.stores.memory import MemoryStore
from tests.server.test_quick import META, Quick, encoded, request

WITHIN = 20.0
RED = ScopedKey("default", "red")


class Slow(MemoryStore):
    """A store whose lock is taken at first, so that a thread swaps; the swap returns only after `let_go`."""

    def __init__(self) -> None:
        super().__init__()
        self.stored, self.let_go = Event(), Event()

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        **options: Any,
    ) -> Swap:
        if not lock_timeout:
            raise StoreBusyError("memory", 0.0)
        result = super().swap(scoped, old, new, **options)
        self.stored.set()
        assert self.let_go.wait(WITHIN)
        return result


@pytest.mark.rule("Q5")
def test_what_a_thread_was_granted_for_a_call_that_was_cancelled_meanwhile_is_released() -> None:
    store = Slow()
    quick = Quick(store)
    try:
        quick.stage.serve(
            encoded([request(1, "tools/call", {"name": "try_claim", "arguments": {"key": "red"}, **META})])[0]
        )
        assert store.stored.wait(WITHIN)
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        assert quick.answers(json.dumps(cancelled).encode()) == []
        store.let_go.set()
        until = time.monotonic() + WITHIN
        while quick.stage.calls.open and time.monotonic() < until:
            quick.stage.calls.run_posted()
            time.sleep(0.01)
        assert store.read(RED) is None
        assert quick.sent == []
    finally:
        store.let_go.set()
        quick.close()
