"""Being told when files change, instead of looking again and again.

`watchdog` watches directories by what the system offers (inotify, FSEvents, ReadDirectoryChangesW).  Where it cannot,
because the directory is not there yet, the system is out of watches or the file system tells nothing, whoever asked
has to look by itself now and then, which it does anyway, as a notice can be lost where the system's queue overflows.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers.api import BaseObserver, ObservedWatch


_RECORD = ".json"

MOST_DIRECTORIES = 64
"""Directories watched each by itself, which costs a thread and two descriptors; more of them are watched as one."""


class Watching:
    """Tells those who ask of changes of files; threads for all of them, started by the first."""

    def __init__(self) -> None:
        self._observer: BaseObserver | None = None
        self._handlers: Counter[ObservedWatch] = Counter()
        self._lock = Lock()

    @contextmanager
    def of(
        self, directory: str, concerns: Callable[[str], bool], notify: Callable[[], None], *, recursive: bool = False
    ) -> Iterator[bool]:
        """Call *tell*, in another thread, when a file in *directory* whose path *concerns* appears, changes or goes.

        Yields whether it can be watched.
        """
        # Imported here: only who waits or watches pays for it.
        from watchdog.events import FileSystemEventHandler

        class Tell(FileSystemEventHandler):
            def dispatch(self, event: FileSystemEvent) -> None:
                if concerns(os.fsdecode(event.src_path)) or concerns(os.fsdecode(event.dest_path)):
                    notify()

        handler = Tell()
        watch = self._watch(handler, directory, recursive)
        try:
            yield watch is not None
        finally:
            if watch is not None:
                self._unwatch(handler, watch)

    @property
    def crowded(self) -> bool:
        """Tell whether so many directories are watched that others should be watched by way of the one they are in."""
        return len(self._handlers) >= MOST_DIRECTORIES

    def stop(self) -> None:
        """End the threads; whoever watches still is told of nothing any more."""
        with self._lock:
            if self._observer is not None:
                self._observer.stop()
                self._observer.join()
                self._observer = None

    def _watch(self, handler: FileSystemEventHandler, directory: str, recursive: bool) -> ObservedWatch | None:
        import logging

        from watchdog import events
        from watchdog.observers import Observer

        # Not that a file was opened or read: whoever is told reads, which would tell it again, without end.
        # Directories, for namespaces that appear.
        kinds: list[type[FileSystemEvent]] = [
            events.FileCreatedEvent,
            events.FileModifiedEvent,
            events.FileMovedEvent,
            events.FileDeletedEvent,
            events.DirCreatedEvent,
            events.DirMovedEvent,
        ]
        with self._lock:
            try:
                if self._observer is None:
                    # It says so whenever a watch ends while the system tells of something; nothing can be done about it.
                    inotify = logging.getLogger("watchdog.observers.inotify")
                    inotify.addFilter(lambda record: "thread is inactive" not in str(record.msg))
                    observer = Observer()
                    observer.daemon = True
                    observer.start()
                    self._observer = observer
                watch = self._observer.schedule(handler, directory, recursive=recursive, event_filter=kinds)
            except FileNotFoundError:
                return None
            except (OSError, RuntimeError) as error:  # RuntimeError: no more threads can be started.
                why = error.strerror if isinstance(error, OSError) else error
                logging.getLogger(__name__).warning("changes cannot be watched (%s); looking now and then instead", why)
                return None
            self._handlers[watch] += 1
            return watch

    def _unwatch(self, handler: FileSystemEventHandler, watch: ObservedWatch) -> None:
        with self._lock:
            self._handlers[watch] -= 1
            if self._observer is None:
                return
            if self._handlers[watch]:
                self._observer.remove_handler_for_watch(handler, watch)
            else:
                del self._handlers[watch]
                self._observer.unschedule(watch)


WATCHING = Watching()


def watch_record(root: str, path: str, notify: Callable[[], None]) -> AbstractContextManager[bool]:
    """Call *tell* when the record at *path*, somewhere in the claims directory *root*, appears, changes or goes."""
    directory = os.path.dirname(path)
    if os.path.isdir(directory) and not WATCHING.crowded:
        return WATCHING.of(directory, path.__eq__, notify)
    return WATCHING.of(root, path.__eq__, notify, recursive=True)


def watch_records(root: str, inside: str, notify: Callable[[], None]) -> AbstractContextManager[bool]:
    """Call *tell* when any record below *inside*, which may not be there yet, in *root* appears, changes or goes."""
    return WATCHING.of(
        root, lambda path: path.startswith(f"{inside}/") and path.endswith(_RECORD), notify, recursive=True
    )
