"""The store in the original's layout meets the store contract, and so do two such stores on one directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.records import ScopedKey, Unreadable
from mcp_claims.stores.agent_awareness.filenames import record_path
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.base import Change, Store
from tests.stores.agent_awareness.samples import store_in
from tests.stores.contract import StoreContract
from tests.stores.files.test_store import Alternating
from tests.stores.samples import KEY, OTHER_KEY, claim


class TestAgentAwarenessStore(StoreContract):
    rounds = 100  # Each change takes two locks here.

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return store_in(tmp_path / "claims")

    def spoil(self, store: Store, scoped: ScopedKey) -> Unreadable:
        assert isinstance(store, AgentAwarenessStore | Alternating)
        Path(record_path(store.directory, scoped)).write_bytes(b"{")
        found = store.read(scoped)
        assert isinstance(found, Unreadable)
        return found

    def test_one_key_is_changed_at_a_time(self, store: Store) -> None:
        both = [Change(key, None, claim(key)) for key in (KEY, OTHER_KEY)]
        with pytest.raises(InvalidInputError, match="has to be claimed alone"):
            store.swap_all(both)
        assert list(store.scan()) == []
        swaps = store.swap_all(both[:1])
        assert swaps.won and swaps.found == (store.read(KEY),)


class TestTwoOnOneDirectory(TestAgentAwarenessStore):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Alternating(store_in(tmp_path / "claims"), store_in(tmp_path / "claims"))
