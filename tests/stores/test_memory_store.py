"""The store in memory keeps the contract."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mcp_claims.model.records import ScopedKey, Unreadable
from mcp_claims.stores.base import Store
from mcp_claims.stores.memory import MemoryStore
from tests.stores.contract import StoreContract, TicketContract
from tests.stores.groups import GroupContract
from tests.stores.overlaps import OverlapsContract
from tests.stores.samples import KEY, claim, grant


class TestMemoryStore(StoreContract, TicketContract, OverlapsContract, GroupContract):
    rounds = 2_000  # It is fast, and so are its races.

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    def spoil(self, store: Store, scoped: ScopedKey) -> Unreadable:
        assert isinstance(store, MemoryStore)
        found = Unreadable("memory", "half", datetime(2026, 11, 23, tzinfo=UTC), (scoped,))
        store.corrupt(scoped, found)
        return found


def test_two_stores_in_memory_share_nothing() -> None:
    grant(MemoryStore(), claim())
    assert MemoryStore().read(KEY) is None
