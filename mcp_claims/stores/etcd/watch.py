"""Notices of changes: one watch stream for all subscribers of this process, resumed where it broke.

etcd3gw has a watcher of its own, but does not report when its stream ends, so that a dead stream looks like a quiet one.
For the same reason a stream on which nothing comes for some seconds is replaced, from the revision that it had reached.
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
from typing import Any

from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import Gateway, GatewayError
from mcp_claims.stores.etcd.keys import prefix_range_end
from mcp_claims.stores.threads import start_daemon_thread

logger = logging.getLogger(__name__)

_IDLE_TIMEOUT = 5.0  # s
_MIN_RETRY_DELAY, _MAX_RETRY_DELAY = 0.1, 2.0  # s


@dataclass(eq=False, slots=True)
class _Subscriber:
    matches: Callable[[bytes], bool]
    notify: Callable[[], None]
    seen_revision: int  #: It needs no notice of changes up to here.


class Watcher:
    """Watches the keys below *prefix*.

    *latest_revision* returns the latest known revision of the cluster, 0 if there is none.  *reset_revision* is called when
    the cluster turns out to count from a lower one.
    """

    def __init__(
        self,
        gateway: Gateway,
        prefix: bytes,
        latest_revision: Callable[[], int],
        reset_revision: Callable[[], None],
    ) -> None:
        self._gateway, self._prefix = gateway, prefix
        self._latest_revision, self._reset_revision = latest_revision, reset_revision
        self._subscribers: list[_Subscriber] = []
        self._lock = Lock()
        self._running = False

    @contextmanager
    def subscribe(self, matches: Callable[[bytes], bool], notify: Callable[[], None]) -> Iterator[bool]:
        """In this block, call *notify* from another thread after each change of a key that *matches*.

        Yields true: etcd can always be watched.  While the stream is broken there are no notices.
        """
        subscriber = _Subscriber(matches, notify, self._latest_revision())
        with self._lock:
            self._subscribers.append(subscriber)
            if not self._running:
                self._running = True
                start_daemon_thread(self._run, "mcp-claims etcd watch")
        try:
            yield True
        finally:
            with self._lock:
                self._subscribers.remove(subscriber)

    def _run(self) -> None:
        # From what was read last, so that no change between that read and the start of the stream is missed.
        revision = self._latest_revision() + 1 if self._latest_revision() else None
        delay = _MIN_RETRY_DELAY
        while True:
            with self._lock:
                if not self._subscribers:
                    self._running = False
                    return
            request = messages.watch_request(self._prefix, prefix_range_end(self._prefix), revision)
            try:
                with self._gateway.stream("/watch", request, _IDLE_TIMEOUT) as lines:
                    for line in lines:
                        if not line.strip():
                            continue
                        result = json.loads(line)["result"]
                        delay = _MIN_RETRY_DELAY
                        if result.get("canceled"):
                            compacted = self._handle_cancel(result)
                            revision, delay = compacted or revision, _MIN_RETRY_DELAY if compacted else _MAX_RETRY_DELAY
                            break
                        if revision is not None and messages.header_revision(result) + 1 < revision:
                            # The cluster was emptied or restored from a backup.  Resumed from here, the stream would be
                            # silent until the cluster has counted up to *revision* again.
                            self._forget_revisions()
                            revision = None
                            break
                        revision = self._handle_result(result, revision)
            except (GatewayError, ValueError, KeyError):
                pass  # It broke, was silent for too long, or did not come from etcd.
            except Exception:
                # A defect must not end all notices.
                logger.exception("watching etcd failed")
            # After a regular end too: a stream that ends at once must not be reopened without pause.
            time.sleep(delay)
            delay = min(2 * delay, _MAX_RETRY_DELAY)

    def _handle_result(self, result: dict[str, Any], revision: int | None) -> int | None:
        """Notify of the events in *result*; return the revision from which to resume."""
        reached = messages.header_revision(result)
        if revision is None:
            self._notify(None, reached)
        for event in result.get("events", []):
            changed = event["kv"]
            self._notify(b64decode(changed["key"]), int(changed["mod_revision"]))
        if revision is None or result.get("events"):
            return reached + 1
        return revision

    def _handle_cancel(self, result: dict[str, Any]) -> int | None:
        """Notify all, since anything may have changed; return where to resume if our revision was compacted away.

        Otherwise `None`: we are not permitted to watch, or not any more.  A *result* of this kind has no revision.
        """
        self._notify(None, 0)
        if "compact_revision" in result:
            return int(result["compact_revision"])
        self._gateway.forget_token()
        return None

    def _forget_revisions(self) -> None:
        self._reset_revision()
        with self._lock:
            for subscriber in self._subscribers:
                subscriber.seen_revision = 0

    def _notify(self, key: bytes | None, revision: int) -> None:
        """Notify of the change of *key* at *revision*; with no *key*, notify everybody."""
        with self._lock:
            subscribers = list(self._subscribers)
        for subscriber in subscribers:
            if key is None or (revision > subscriber.seen_revision and subscriber.matches(key)):
                try:
                    subscriber.notify()
                except Exception:
                    # It may have just gone, with its event loop; the others must be notified all the same.
                    logger.exception("a subscriber to changes failed")
