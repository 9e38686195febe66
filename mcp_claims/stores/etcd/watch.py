"""Being told of changes: one stream for all who ask in this process, taken up again where it broke.

The client's own watcher has no say when its stream ends, so that a dead one looks like silence; hence this one.  Silence is
cut short, too: a stream that says nothing for some seconds is asked for anew, from the revision up to which it was heard.
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
from mcp_claims.stores.etcd.gateway import Transport
from mcp_claims.stores.etcd.keys import after_all
from mcp_claims.stores.threads import start_daemon_thread

logger = logging.getLogger(__name__)

_SILENCE = 5.0  # s
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


@dataclass(eq=False, slots=True)
class _Watcher:
    concerns: Callable[[bytes], bool]
    notify: Callable[[], None]
    since: int  #: What changed up to this revision was seen before.


class Watching:
    """Tells of changes of keys that begin with *beginning*.  *seen* returns the latest revision that is known, 0 if none is;
    *forget* is called when it is none of the cluster as it is now.
    """

    def __init__(
        self, transport: Transport, beginning: bytes, seen: Callable[[], int], forget: Callable[[], None]
    ) -> None:
        self._transport, self._beginning, self._seen, self._forget = transport, beginning, seen, forget
        self._watchers: list[_Watcher] = []
        self._lock = Lock()
        self._running = False

    @contextmanager
    def of(self, concerns: Callable[[bytes], bool], notify: Callable[[], None]) -> Iterator[bool]:
        """Call *tell*, in another thread, when something *concerns* those who ask.  Yields whether it can be watched."""
        watcher = _Watcher(concerns, notify, self._seen())
        with self._lock:
            self._watchers.append(watcher)
            if not self._running:
                self._running = True
                start_daemon_thread(self._run, "mcp-claims etcd watch")
        try:
            yield True
        finally:
            with self._lock:
                self._watchers.remove(watcher)

    def _run(self) -> None:
        # From where it is known, so that nothing is missed between the last look and the beginning of the stream.
        revision = self._seen() + 1 if self._seen() else None
        pause = _FIRST_PAUSE
        while True:
            with self._lock:
                if not self._watchers:
                    self._running = False
                    return
            wish = messages.watch(self._beginning, after_all(self._beginning), revision)
            try:
                with self._transport.stream("/watch", wish, _SILENCE) as lines:
                    for line in lines:
                        if not line.strip():
                            continue
                        said = json.loads(line)
                        pause = _FIRST_PAUSE
                        if said["result"].get("canceled"):
                            compacted = self._hear_of_the_end(said["result"])
                            revision, pause = compacted or revision, _FIRST_PAUSE if compacted else _LONGEST_PAUSE
                            break
                        if revision is not None and messages.revision_of(said["result"]) + 1 < revision:
                            # Emptied, or restored from a backup: there would be silence until it has counted that far again.
                            self._begin_anew()
                            revision = None
                            break
                        revision = self._hear(said, revision)
            except (OSError, ValueError, KeyError):
                # Broken, silent, or somebody else's words.
                pass
            except Exception:
                # A defect of ours must not be the end of all notices.
                logger.exception("watching etcd failed")
            # Also where it has just ended: it would be asked for again and again without one.
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _hear(self, said: dict[str, Any], revision: int | None) -> int | None:
        """Tell of what was *said*; return from where to go on."""
        result = said["result"]
        now = messages.revision_of(result)
        if revision is None:
            self._tell(None, now)
        for event in result.get("events", []):
            changed = event["kv"]
            self._tell(b64decode(changed["key"]), int(changed["mod_revision"]))
        if revision is None or result.get("events"):
            return now + 1
        return revision

    def _hear_of_the_end(self, result: dict[str, Any]) -> int | None:
        """Tell that anything may have changed; return from where to go on if what was before that was compacted away.

        Else we may not watch, or not any more.  There is no revision of the cluster in a *result* of this kind.
        """
        self._tell(None, 0)
        if "compact_revision" in result:
            return int(result["compact_revision"])
        self._transport.forget_token()
        return None

    def _begin_anew(self) -> None:
        """Forget up to which revision anybody has seen anything."""
        self._forget()
        with self._lock:
            for watcher in self._watchers:
                watcher.since = 0

    def _tell(self, key: bytes | None, revision: int) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            if key is None or (revision > watcher.since and watcher.concerns(key)):
                try:
                    watcher.notify()
                except Exception:
                    # Whoever it is has maybe just gone; the others are to be told all the same.
                    logger.exception("telling of a change failed")
