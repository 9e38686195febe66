"""When a claim ends, for people and models."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mcp_claims.model import expiry
from mcp_claims.model.expiry import End
from mcp_claims.model.records import Leased, Moment
from tests.stores.samples import claim

TTL = timedelta(minutes=30)
SECOND = timedelta(seconds=1)


def moment(after_grant: timedelta, epoch: str | None) -> Moment:
    granted = claim().claimed
    return Moment(granted.wall + after_grant, granted.ticks + after_grant.total_seconds(), epoch)


@pytest.mark.parametrize("leased", [None, Leased(7, 12)], ids=["file", "lease"])
@pytest.mark.parametrize("epoch", ["boot-1", "boot-2"], ids=["here", "elsewhere"])
@pytest.mark.parametrize("left", [SECOND, timedelta(0), -SECOND], ids=["before", "then", "after"])
def test_only_what_the_store_has_not_ended_on_another_machine_is_overdue(
    leased: Leased | None, epoch: str, left: timedelta
) -> None:
    granted = claim()._replace(leased=leased)
    overdue = leased is not None and epoch == "boot-2" and left <= timedelta(0)
    end = expiry.end_of(granted, moment(TTL - left, epoch))
    assert end == End(granted.expires.wall, timedelta(0) if overdue else left, overdue)
