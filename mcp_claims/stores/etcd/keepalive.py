"""The thread that does for a process what has to be done in time, whether or not anybody calls.

It renews the lease of the process, takes away claims whose own time is up before that of the lease, and finds out what became
of grants of which nobody knows.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from threading import Condition

from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd.gateway import ANSWER_WITHIN, RefusedError, UnansweredError
from mcp_claims.stores.etcd.lease import TTL, Lease, ProcessLease
from mcp_claims.stores.etcd.messages import Change
from mcp_claims.stores.threads import start_daemon_thread

_SHARE = 3
"""The lease is renewed when a third of its time has passed."""

_PAUSE = 0.1  # s, after what was not answered
_IDLE = 3_600.0

logger = logging.getLogger(__name__)


class Tender:
    """Tends *lease*.  *expire* takes away the claim at a key if it is ours and its time is up, and *settle* a grant that its
    caller was told has failed; each raises as `Transport.ask` does.  *ticks* is the clock of both.
    """

    def __init__(
        self,
        lease: ProcessLease,
        ticks: Callable[[], float],
        expire: Callable[[bytes], None],
        settle: Callable[[Change], None],
    ) -> None:
        self._lease, self._ticks = lease, ticks
        self._expire, self._settle = expire, settle
        self._expiries: dict[bytes, Counter[float]] = {}
        self._doubts: set[Change] = set()
        self._condition = Condition()
        self._running = False
        self._ended = False

    def expect(self, key: bytes, expires: float) -> None:
        """See at *expires* whether the time of the claim at *key* is up, and take it away then.

        Each time counts for itself: were it one for each key, the claim that follows another would have that one's.
        """
        with self._condition:
            self._expiries.setdefault(key, Counter())[expires] += 1
            self._go()

    def forget(self, key: bytes, expires: float) -> None:
        """Take back what was said once by `expect`, if it was: that claim is not there, or has another time by now."""
        with self._condition:
            times = self._expiries.get(key, Counter())
            if times[expires] > 1:
                times[expires] -= 1
                return
            del times[expires]
            if not times:
                self._expiries.pop(key, None)

    def doubt(self, grant: Change) -> None:
        """Find out what became of *grant*, and take it away if it was made."""
        with self._condition:
            self._doubts.add(grant)
            self._go()

    def end(self) -> None:
        """Do nothing any more."""
        with self._condition:
            self._ended = True
            self._condition.notify()

    def _go(self) -> None:
        if not self._running:
            start_daemon_thread(self._run, "mcp-claims etcd")
            self._running = True
        else:
            self._condition.notify()

    def _run(self) -> None:
        renewed: Lease | None = None
        due = 0.0
        while True:
            lease = self._lease.current
            if lease is not None and (renewed is None or renewed.id != lease.id):
                renewed, due = lease, self._ticks() + TTL / _SHARE
            with self._condition:
                if self._ended:
                    return
                expiries = (time for times in self._expiries.values() for time in times)
                times = [*expiries, *([due] if lease else []), *([0.0] if self._doubts else [])]
                left = min(times, default=self._ticks() + _IDLE) - self._ticks()
                if left > 0:
                    self._condition.wait(left)
                    continue
            try:
                if lease is not None and self._ticks() >= due:
                    began = self._ticks()
                    self._lease.renew(lease, deadline_in(ANSWER_WITHIN))
                    due = began + TTL / _SHARE
                self._do_some_of_what_is_due()
            except (UnansweredError, RefusedError):
                # Whoever calls is told; here there is nothing but to try again, from endpoint to endpoint.
                self._wait(_PAUSE)
            except Exception:
                # A defect of ours in one round must not be the end of the lease.
                logger.exception("tending the lease failed")
                self._wait(1.0)

    def _do_some_of_what_is_due(self) -> None:
        """Do one thing of each kind: however much there is, it must not keep the lease from being renewed."""
        now = self._ticks()
        with self._condition:
            expired = next((key for key, times in self._expiries.items() if min(times) <= now), None)
            if expired is not None:
                # To the end of the queue: if it fails, the others come first.
                self._expiries[expired] = self._expiries.pop(expired)
            doubt = next(iter(self._doubts), None)
        if expired is not None:
            self._expire(expired)
            with self._condition:
                times = self._expiries.pop(expired, Counter())
                if left := Counter({time: count for time, count in times.items() if time > now}):
                    self._expiries[expired] = left
        if doubt is not None:
            self._settle(doubt)
            with self._condition:
                self._doubts.discard(doubt)

    def _wait(self, seconds: float) -> None:
        with self._condition:
            if not self._ended:
                self._condition.wait(seconds)
