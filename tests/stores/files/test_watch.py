"""Being told of changes in very many places, and by a system that has nothing left to watch with."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import pytest

from mcp_claims.model.records import ScopedKey
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.files.watch import MOST_DIRECTORIES
from tests.stores.samples import claim, grant
from tests.support.descriptors import open_files

WITHIN = 20.0  # s, on a machine that is busy with other things


@pytest.mark.rule("V10")
def test_so_many_directories_are_watched_each_by_itself_and_the_others_all_the_same(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "claims")
    keys = [ScopedKey(f"ns{number}", "red") for number in range(MOST_DIRECTORIES + 40)]
    granted = [grant(store, claim()._replace(scoped=key)) for key in keys]
    threads, files = threading.active_count(), open_files()
    with ExitStack() as stack:
        told = [Event() for _ in keys]
        for key, event in zip(keys, told, strict=True):
            assert stack.enter_context(store.watch(key, event.set))
        # Each has a thread and two descriptors, and so have those that share; and so has the whole.
        assert threading.active_count() - threads <= MOST_DIRECTORIES + 3
        assert open_files() - files <= 2 * MOST_DIRECTORIES + 6
        for found in granted:
            store.swap(found.scoped, found, None)
        assert all(event.wait(WITHIN) for event in told)


def test_where_no_more_threads_can_be_started_nothing_is_watched_and_later_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(tmp_path / "claims")
    found = grant(store, claim())

    def start(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(Thread, "start", start)
        with store.watch(found.scoped, pytest.fail) as watched:
            assert not watched
    assert "can't start new thread" in caplog.text
    changed = Event()
    with store.watch(found.scoped, changed.set) as watched:
        assert watched
        store.swap(found.scoped, found, None)
        assert changed.wait(WITHIN)
