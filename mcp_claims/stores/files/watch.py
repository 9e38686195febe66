"""Notifications of changed files, so that waiters need not poll all the time.

`watchdog` watches directories by what the system offers (inotify, FSEvents, ReadDirectoryChangesW).  Where it cannot
(the directory does not exist yet, the system has no watches left, the file system reports nothing), the caller has to
poll.  It has to poll now and then in any case, since the system drops notifications when its queue overflows.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock

from watchdog import events
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

_RECORD = ".json"

# Not opening and reading: a caller reads when it is notified, which would notify it again, without end.  Directories as
# well, for namespaces that appear.
_CHANGES: list[type[FileSystemEvent]] = [
    events.FileCreatedEvent,
    events.FileModifiedEvent,
    events.FileMovedEvent,
    events.FileDeletedEvent,
    events.DirCreatedEvent,
    events.DirMovedEvent,
]

MAX_DIRECTORIES = 64
"""Directories watched one by one, each at the cost of a thread and two descriptors; any more are watched as one."""


class _Handler(FileSystemEventHandler):
    """Calls *notify* for every event about a path that *matches*."""

    def __init__(self, matches: Callable[[str], bool], notify: Callable[[], None]) -> None:
        self._matches, self._notify = matches, notify

    def dispatch(self, event: FileSystemEvent) -> None:
        if self._matches(os.fsdecode(event.src_path)) or self._matches(os.fsdecode(event.dest_path)):
            self._notify()


class Watcher:
    """Watches files for all callers in this process; its threads are started by the first watch."""

    def __init__(self) -> None:
        self._observer: BaseObserver | None = None
        self._handlers: Counter[ObservedWatch] = Counter()
        self._lock = Lock()

    @contextmanager
    def watching(
        self, directory: str, matches: Callable[[str], bool], notify: Callable[[], None], *, recursive: bool = False
    ) -> Iterator[bool]:
        """Call *notify*, in another thread, when a file in *directory* whose path *matches* appears, changes or goes.

        Yields whether it can be watched.
        """
        handler = _Handler(matches, notify)
        watch = self._add(handler, directory, recursive)
        try:
            yield watch is not None
        finally:
            if watch is not None:
                self._remove(handler, watch)

    @property
    def crowded(self) -> bool:
        """Whether so many directories are watched one by one that the next should be watched through its parent."""
        return len(self._handlers) >= MAX_DIRECTORIES

    def stop(self) -> None:
        """End the threads; watches that are still there get no more notifications."""
        with self._lock:
            if self._observer is not None:
                self._observer.stop()
                self._observer.join()
                self._observer = None

    def _add(self, handler: FileSystemEventHandler, directory: str, recursive: bool) -> ObservedWatch | None:
        with self._lock:
            try:
                self._observer = self._observer or _start_observer()
                watch = self._observer.schedule(handler, directory, recursive=recursive, event_filter=_CHANGES)
            except FileNotFoundError:
                return None
            except (OSError, RuntimeError) as error:  # RuntimeError: no more threads can be started.
                reason = error.strerror if isinstance(error, OSError) else error
                logging.getLogger(__name__).warning("changes cannot be watched (%s); polling instead", reason)
                return None
            self._handlers[watch] += 1
            return watch

    def _remove(self, handler: FileSystemEventHandler, watch: ObservedWatch) -> None:
        with self._lock:
            self._handlers[watch] -= 1
            if self._observer is None:
                return
            if self._handlers[watch]:
                self._observer.remove_handler_for_watch(handler, watch)
            else:
                del self._handlers[watch]
                self._observer.unschedule(watch)


def _start_observer() -> BaseObserver:
    # Logged whenever a watch ends while the system reports something; it is harmless.
    logging.getLogger("watchdog.observers.inotify").addFilter(
        lambda record: "thread is inactive" not in str(record.msg)
    )
    observer = Observer()
    observer.daemon = True
    observer.start()
    return observer


WATCHER = Watcher()


def watch_record(root: str, path: str, notify: Callable[[], None]) -> AbstractContextManager[bool]:
    """Call *notify* when the record at *path*, somewhere in the claims directory *root*, appears, changes or goes."""
    directory, paths = os.path.dirname(path), _reported_as(root, path)
    if os.path.isdir(directory) and not WATCHER.crowded:
        return WATCHER.watching(directory, paths.__contains__, notify)
    return WATCHER.watching(root, paths.__contains__, notify, recursive=True)


def watch_records(root: str, inside: str, notify: Callable[[], None]) -> AbstractContextManager[bool]:
    """Call *notify* when any record below *inside*, which need not exist yet, in *root* appears, changes or goes."""
    below = _reported_as(root, f"{inside}/")
    return WATCHER.watching(
        root, lambda path: path.startswith(below) and path.endswith(_RECORD), notify, recursive=True
    )


def _reported_as(root: str, path: str) -> tuple[str, str]:
    """Return how a change of *path*, in the claims directory *root*, is reported: by its name, or by FSEvents without links."""
    return path, os.path.realpath(root) + path.removeprefix(root)
