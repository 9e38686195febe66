"""On etcd, no loss of requests and answers, no late request, death or pause makes two holders; planted faults are found.

`MCP_CLAIMS_ETCD_SCHEDULES` is the number of schedules; CI asks for more by night.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from mcp_claims.stores.etcd import lease
from mcp_claims.stores.etcd.keepalive import LeaseKeepAlive
from mcp_claims.stores.etcd.lease import ProcessLease
from mcp_claims.stores.etcd.txn import Txn
from tests.explorer.etcd import explore
from tests.explorer.process import ViolationError

SCHEDULES = int(os.environ.get("MCP_CLAIMS_ETCD_SCHEDULES", "150"))
ENOUGH = 5_000

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.rule("E1", "E2", "E6", "E7")
@pytest.mark.timeout(14_400)
def test_at_most_one_holds_and_no_grant_is_left_that_nobody_knows_of() -> None:
    explore(SCHEDULES)


@pytest.mark.rule("E7")
@pytest.mark.parametrize("seed", [2658, 32414])
def test_a_schedule_that_once_broke_a_promise_does_not_any_more(seed: int) -> None:
    explore(1, seed)


def _trusts_for_too_long(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lease, "TRUST_TIME", 3 * lease.TTL)


def _undoes_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseKeepAlive, "schedule_undo", lambda *_: None)


def _moves_no_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ProcessLease, "move_fence", lambda *_: None)


def _compares_nothing(patch: pytest.MonkeyPatch) -> None:
    request = Txn.request

    def unconditional(txn: Txn) -> dict[str, object]:
        return {**request(replace(txn, fence=None)), "compare": []}

    patch.setattr(Txn, "request", unconditional)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "plant",
    [
        _trusts_for_too_long,
        _undoes_nothing,
        _compares_nothing,
        pytest.param(_moves_no_fence, marks=pytest.mark.nightly),
    ],
)
def test_a_planted_fault_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(ViolationError) as violation:
        explore(ENOUGH)
    print(str(violation.value).splitlines()[0])
