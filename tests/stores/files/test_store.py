"""The file store keeps the contract, and so do two of them on one directory."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import pytest

from mcp_claims.model.records import ScopedKey, Unreadable
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.base import Store
from mcp_claims.stores.files.store import FileStore
from tests.stores.contract import StoreContract, TicketContract
from tests.stores.groups import GroupContract
from tests.stores.overlaps import OverlapsContract
from tests.stores.samples import KEY, claim, grant, place
from tests.support.interrupting import DelegatingStore


class Alternating(DelegatingStore):
    """Several stores on one directory, used in turn: each must see what the others did."""

    remote, has_tickets, serves_queue, has_places = False, True, False, True

    def __init__(self, *stores: FileStore | AgentAwarenessStore) -> None:
        self.directory = stores[0].directory
        self._turn = cycle(stores)

    @property
    def _store(self) -> Store:
        return next(self._turn)


class TestFileStore(StoreContract, TicketContract, OverlapsContract, GroupContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return FileStore(tmp_path / "claims")

    def spoil(self, store: Store, scoped: ScopedKey) -> Unreadable:
        assert isinstance(store, FileStore | Alternating)
        files = FileStore(store.directory)
        place(files, scoped).write_bytes(b"{")
        found = files.read(scoped)
        assert isinstance(found, Unreadable)
        return found


class TestTwoFileStoresOnOneDirectory(TestFileStore):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Alternating(FileStore(tmp_path / "claims"), FileStore(tmp_path / "claims"))


def test_a_store_reads_what_another_has_stored_in_its_directory(tmp_path: Path) -> None:
    granted = grant(FileStore(tmp_path / "claims"), claim())
    assert FileStore(tmp_path / "claims").read(KEY) == granted


def test_a_store_keeps_its_directory_when_the_process_changes_its_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = FileStore("claims")
    granted = grant(store, claim())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.read(KEY) == granted
    assert not list((tmp_path / "elsewhere").iterdir())
