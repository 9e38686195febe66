"""Watching very many directories, and on a system that has no threads left."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

import mcp_claims.stores.files
from mcp_claims.model.records import ScopedKey
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.files.watch import MAX_DIRECTORIES, WATCHER, Watcher
from tests.stores.samples import claim, grant
from tests.support.descriptors import open_files
from tests.support.interrupts import Interrupt, InterruptAtLine

WITHIN = 20.0  # s, on a machine that is busy with other things


@pytest.mark.rule("V10")
def test_directories_beyond_the_limit_are_watched_as_one(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "claims")
    keys = [ScopedKey(f"ns{number}", "red") for number in range(MAX_DIRECTORIES + 40)]
    granted = [grant(store, claim()._replace(scoped=key)) for key in keys]
    threads, files = threading.active_count(), open_files()
    with ExitStack() as stack:
        notified = [Event() for _ in keys]
        for key, event in zip(keys, notified, strict=True):
            assert stack.enter_context(store.watch(key, event.set))
        # A thread and two descriptors for each, for the shared watch, and for the observer itself.
        assert threading.active_count() - threads <= MAX_DIRECTORIES + 3
        assert open_files() - files <= 2 * MAX_DIRECTORIES + 6
        for found in granted:
            store.swap(found.scoped, found, None)
        assert all(event.wait(WITHIN) for event in notified)


def test_without_threads_nothing_is_watched_and_later_it_is(
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


def test_an_interrupt_at_any_line_keeps_nobody_from_watching(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "claims")
    found = grant(store, claim())
    for at in count(1):
        line = InterruptAtLine(at, mcp_claims.stores.files)
        with suppress(Interrupt), line, store.watch(found.scoped, lambda: None):
            pass
        assert not WATCHER._lock.locked(), f"interrupted in {line.interrupted}"
        if line.interrupted is None:
            break
    changed = Event()
    with store.watch(found.scoped, changed.set) as watched:
        assert watched
        store.swap(found.scoped, found, None)
        assert changed.wait(WITHIN)


@pytest.mark.rule("V10")
def test_changes_are_noticed_behind_a_link_where_the_system_reports_real_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FSEvents does: on macOS /tmp and /var are links."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = FileStore(tmp_path / "link" / "claims")
    found = grant(store, claim())
    reported: list[str] = []

    class FsEvents(Observer):  # type: ignore[misc, valid-type]
        def schedule(self, handler: FileSystemEventHandler, path: str, **options: Any) -> ObservedWatch:
            reported.append(os.path.realpath(path))
            watch: ObservedWatch = super().schedule(handler, reported[-1], **options)
            return watch

    monkeypatch.setattr("mcp_claims.stores.files.watch.Observer", FsEvents)
    watcher = Watcher()
    monkeypatch.setattr("mcp_claims.stores.files.watch.WATCHER", watcher)
    targets = [found.scoped, ScopedKey("not yet", "red"), found.scoped.namespace, "not yet", None]
    notified = [Event() for _ in targets]
    with ExitStack() as stack:
        stack.callback(watcher.stop)
        for target, event in zip(targets, notified, strict=True):
            assert stack.enter_context(store.watch(target, event.set))
        store.swap(found.scoped, found, None)
        grant(store, claim()._replace(scoped=ScopedKey("not yet", "red")))
        assert all(event.wait(WITHIN) for event in notified)
    assert len(reported) == len(targets) and not any("link" in path for path in reported)
