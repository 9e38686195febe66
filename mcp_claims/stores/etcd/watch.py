"""Notices of changes: one stream for all subscribers of this process, which asks etcd for what they watch and nothing else.

Each subscriber watches a range of keys from a revision on.  The stream is opened anew, with a watch for each range, when
somebody wants another range and when it breaks; every subscriber then goes on with the first revision that it has not
seen.  A dead stream looks like a quiet one, so a stream on which nothing comes for some time is replaced.
"""

from __future__ import annotations

import json
import logging
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.connections import Stream
from mcp_claims.stores.etcd.gateway import Gateway, GatewayError
from mcp_claims.stores.threads import start_daemon_thread

logger = logging.getLogger(__name__)

IDLE_TIMEOUT = 5.0
"""Seconds of silence after which the stream is replaced, if a subscriber relies on it alone."""

_MIN_RETRY_DELAY, _MAX_RETRY_DELAY = 0.1, 2.0  # s


class KeyRange(NamedTuple):
    """The keys from `start` to before `end`."""

    start: bytes
    end: bytes


@dataclass(eq=False, slots=True)
class Subscriber:
    """Has *notify* called, from another thread, after changes in *keys*; `None` watches nothing at the moment.

    *revision* is the first one whose changes it has not seen, `None` for any that the cluster makes from now on.
    """

    keys: KeyRange | None
    notify: Callable[[], None]
    revision: int | None
    idle_timeout: float = IDLE_TIMEOUT


class Watcher:
    """Watches for the subscribers of this process.

    *latest_revision* returns the latest known revision of the cluster, 0 if there is none.  *reset_revision* is called when
    the cluster turns out to count from a lower one.
    """

    def __init__(
        self, gateway: Gateway, latest_revision: Callable[[], int], reset_revision: Callable[[], None]
    ) -> None:
        self._gateway = gateway
        self._latest_revision, self._reset_revision = latest_revision, reset_revision
        self._subscribers: list[Subscriber] = []
        self._lock = Lock()
        self._running = False
        self._delay = _MIN_RETRY_DELAY
        self._stream: Stream | None = None
        # For each watch of the present stream, the first revision whose changes it has not brought yet.
        self._watched: dict[KeyRange, int | None] = {}
        self._outdated = False

    @contextmanager
    def subscribe(self, keys: KeyRange, notify: Callable[[], None]) -> Iterator[bool]:
        """In this block, call *notify* from another thread after each change of one of *keys*.

        Yields false if the system has no thread left for that.  While the stream is broken there are no notices.
        """
        # From what was read last, so that no change between that read and the start of the watch is missed.
        latest = self._latest_revision()
        with self.watching(Subscriber(keys, notify, latest + 1 if latest else None)) as watched:
            yield watched

    @contextmanager
    def watching(self, subscriber: Subscriber) -> Iterator[bool]:
        """Notify *subscriber* in this block; yields whether a thread does."""
        with self._lock:
            self._subscribers.append(subscriber)
            self._update_stream(subscriber)
            watched = self._running
        try:
            yield watched
        finally:
            with self._lock:
                self._subscribers.remove(subscriber)
                self._update_stream(None)

    def move(self, subscriber: Subscriber, keys: KeyRange, revision: int) -> bool:
        """Let *subscriber*, which is being notified, watch *keys* from *revision* on instead of what it watched before.

        Returns false if the system has no thread left for that; then it watches nothing.
        """
        with self._lock:
            subscriber.keys, subscriber.revision = keys, revision
            self._update_stream(subscriber)
            if not self._running:
                subscriber.keys = None
            return self._running

    def _update_stream(self, wanting: Subscriber | None) -> None:
        """End the stream, so that it is opened anew, if it lacks what *wanting* watches or has what nobody watches."""
        wanted = {subscriber.keys for subscriber in self._subscribers} - {None}
        if self._running:
            lacks = wanting is not None and wanting.keys is not None and not self._covers(wanting)
            if lacks or not wanted.issuperset(self._watched):
                self._outdated = True
                if self._stream is not None:
                    self._stream.end()
        elif wanted:
            try:
                start_daemon_thread(self._run, "mcp-claims etcd watch")
            except RuntimeError as error:
                # Whoever watches next tries again.
                logger.warning("changes cannot be watched (%s); polling instead", error)
            else:
                self._running = True

    def _covers(self, subscriber: Subscriber) -> bool:
        """Return whether the stream will still bring all changes that *subscriber* has not seen."""
        reached = None if subscriber.keys is None else self._watched.get(subscriber.keys)
        return reached is not None and subscriber.revision is not None and reached <= subscriber.revision

    def _run(self) -> None:
        while True:
            with self._lock:
                self._outdated = False
                self._watched = self._wanted()
                if not self._watched:
                    self._running = False
                    return
                idle_timeout = min(each.idle_timeout for each in self._subscribers if each.keys is not None)
            try:
                self._follow(dict(enumerate(self._watched, start=1)), idle_timeout)
            except (GatewayError, ValueError, KeyError):
                pass  # It broke, was silent for too long, did not come from etcd, or was ended.
            except Exception:
                # A defect must not end all notices.
                logger.exception("watching etcd failed")
            with self._lock:
                self._stream = None
                if self._outdated:
                    continue
            # After a regular end too: a stream that ends at once must not be reopened without pause.
            time.sleep(self._delay)
            self._delay = min(2 * self._delay, _MAX_RETRY_DELAY)

    def _wanted(self) -> dict[KeyRange, int | None]:
        """Return what the subscribers watch, each range from the first revision that one of them has not seen."""
        wanted: dict[KeyRange, int | None] = {}
        for subscriber in self._subscribers:
            if subscriber.keys is not None:
                known = [each for each in (wanted.get(subscriber.keys), subscriber.revision) if each is not None]
                wanted[subscriber.keys] = min(known, default=None)
        return wanted

    def _follow(self, watches: dict[int, KeyRange], idle_timeout: float) -> None:
        """Open a stream with *watches*, by their ids, and notify of what it brings until it ends."""
        requests = [messages.watch_request(id_, *keys, self._watched[keys]) for id_, keys in watches.items()]
        with self._gateway.stream("/watch", requests, idle_timeout) as stream:
            with self._lock:
                self._stream = stream
                if self._outdated:
                    return
            for line in stream.lines():
                if not line.strip():
                    continue
                result = json.loads(line)["result"]
                keys = watches.get(int(result.get("watch_id", 0)))
                if result.get("canceled"):
                    self._handle_cancel(keys, result)
                    return
                self._delay = _MIN_RETRY_DELAY
                if keys is None:
                    continue
                reached, revision = messages.header_revision(result), self._watched[keys]
                if revision is not None and reached + 1 < revision:
                    # The cluster was emptied or restored from a backup.  Resumed from here, the watch would be silent
                    # until the cluster has counted up to *revision* again.
                    self._forget_revisions()
                    return
                if revision is None:
                    self._notify(keys, None, reached)
                for event in result.get("events", []):
                    self._notify(keys, b64decode(event["kv"]["key"]), int(event["kv"]["mod_revision"]))

    def _handle_cancel(self, keys: KeyRange | None, result: dict[str, Any]) -> None:
        """Notify all who are affected, since anything may have changed.  A *result* of this kind has no revision."""
        if keys is not None and "compact_revision" in result:
            compacted = int(result["compact_revision"])
            self._notify(keys, None, compacted - 1)
            self._delay = _MIN_RETRY_DELAY
            return
        # We are not permitted to watch, or not any more.
        self._notify(None, None, 0)
        self._gateway.forget_token()
        self._delay = _MAX_RETRY_DELAY

    def _forget_revisions(self) -> None:
        self._reset_revision()
        with self._lock:
            for subscriber in self._subscribers:
                subscriber.revision = None

    def _notify(self, keys: KeyRange | None, key: bytes | None, revision: int) -> None:
        """Notify those who watch *keys* of the change of *key* at *revision*, which they have seen then.

        Without a *key* anything may have changed up to *revision*; without *keys* everybody is notified.
        """
        concerned: list[Subscriber] = []
        with self._lock:
            if keys is not None:
                self._watched[keys] = revision + 1
            for subscriber in self._subscribers:
                if keys is None:
                    concerned.append(subscriber)
                elif subscriber.keys == keys and (
                    key is None or subscriber.revision is None or subscriber.revision <= revision
                ):
                    subscriber.revision = max(subscriber.revision or 0, revision + 1)
                    concerned.append(subscriber)
        for subscriber in concerned:
            try:
                subscriber.notify()
            except Exception:
                # It may have just gone, with its event loop; the others must be notified all the same.
                logger.exception("a subscriber to changes failed")
