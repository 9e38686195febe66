"""`EtcdStore` keeps the contract of all stores."""

from __future__ import annotations

import pytest

from mcp_claims.model.records import ScopedKey, Unreadable
from mcp_claims.stores.base import Store
from mcp_claims.stores.etcd.store import EtcdStore
from tests.stores.contract import StoreContract, TicketContract
from tests.stores.groups import GroupContract
from tests.stores.overlaps import OverlapsContract
from tests.support.etcd import fresh_store
from tests.support.etcd_keys import write_raw


class TestEtcdStore(StoreContract, TicketContract, OverlapsContract, GroupContract):
    rounds = 40  # Each waits for the disk of a node.
    group_rounds = 10
    most_keys = 32  # More do not fit in a transaction with their traces and tickets.

    @pytest.fixture
    def store(self) -> EtcdStore:
        return fresh_store()

    def spoil(self, store: Store, scoped: ScopedKey) -> Unreadable:
        assert isinstance(store, EtcdStore)
        write_raw(store, scoped, b"{")
        found = store.read(scoped)
        assert isinstance(found, Unreadable)
        return found
