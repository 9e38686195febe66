"""Waiting for a key: what ends the wait, and what the caller holds then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import Wakeup, acquire
from mcp_claims.session.results import Status
from tests.session.bench import KEY, Bench, granted


class StoppedWhileWaiting(Wakeup):
    """Is stopped during the first wait; *meanwhile* happens just after that."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    def wait(self, seconds: float, *others: object) -> None:
        if not self.stopped:
            self.stop()
            self._meanwhile()


@pytest.mark.rule("V8")
def test_a_wait_that_was_stopped_does_not_take_a_key_that_becomes_free(bench: Bench) -> None:
    holder, waiter = bench.session(), bench.session()
    granted(holder)
    result = acquire(
        waiter,
        ClaimRequest.parse(KEY, wait_seconds=60),
        wakeup=StoppedWhileWaiting(lambda: holder.release(KEY)),
    )
    assert result.status is Status.HELD
    assert list(bench.store.scan()) == []
