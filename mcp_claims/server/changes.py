"""Being told when a file changes, instead of looking again and again.

`watchdog` watches the directory by what the system offers (inotify, FSEvents, ReadDirectoryChangesW).  Where it cannot,
because the system is out of watches or the file system tells nothing, whoever waits has to look by itself now and then,
which it does anyway.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers.api import BaseObserver, ObservedWatch

logger = logging.getLogger(__name__)


class Changes:
    """Tells those who wait of changes of files; one thread for all of them, started by the first."""

    def __init__(self) -> None:
        self._observer: BaseObserver | None = None
        self._watches: Counter[ObservedWatch] = Counter()

    @contextmanager
    def of(self, path: str) -> Iterator[asyncio.Event]:
        """Watch the file at *path*; yields what is set when it appears, changes or goes."""
        # Imported here: only a call that waits pays for it.
        from watchdog.events import FileSystemEventHandler

        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        class Wake(FileSystemEventHandler):
            def dispatch(self, event: FileSystemEvent) -> None:
                if path in (os.fsdecode(event.src_path), os.fsdecode(event.dest_path)):
                    loop.call_soon_threadsafe(changed.set)

        handler = Wake()
        watch = self._watch(handler, os.path.dirname(path))
        try:
            yield changed
        finally:
            if watch is not None:
                self._unwatch(handler, watch)

    def _watch(self, handler: FileSystemEventHandler, directory: str) -> ObservedWatch | None:
        from watchdog.observers import Observer

        try:
            if self._observer is None:
                self._observer = Observer()
                self._observer.daemon = True
                self._observer.start()
            watch = self._observer.schedule(handler, directory)
        except OSError as error:
            logger.warning("changes cannot be watched (%s); looking now and then instead", error.strerror)
            return None
        self._watches[watch] += 1
        return watch

    def _unwatch(self, handler: FileSystemEventHandler, watch: ObservedWatch) -> None:
        assert self._observer is not None
        self._watches[watch] -= 1
        if self._watches[watch]:
            self._observer.remove_handler_for_watch(handler, watch)
        else:
            del self._watches[watch]
            self._observer.unschedule(watch)


CHANGES = Changes()
