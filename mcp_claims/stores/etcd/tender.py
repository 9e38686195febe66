"""The thread that does for a process what has to be done in time, whether or not anybody calls.

It renews the lease of the process, takes away claims whose own time is up before that of the lease, and finds out what became
of grants of which nobody knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Condition

from mcp_claims.background import start_in_background
from mcp_claims.stores.etcd.leases import TTL, Lease, ProcessLease, soon
from mcp_claims.stores.etcd.transport import ANSWER_WITHIN, RefusedError, UnansweredError

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
        settle: Callable[[bytes, str], None],
    ) -> None:
        self._lease, self._ticks = lease, ticks
        self._expire, self._settle = expire, settle
        self._expiries: dict[bytes, float] = {}
        self._doubts: dict[bytes, str] = {}
        self._condition = Condition()
        self._running = False
        self._ended = False

    def expect(self, key: bytes, expires: float) -> None:
        """Take the claim at *key* away when its time, *expires*, is up; said again before then, the later time counts."""
        with self._condition:
            self._expiries[key] = max(expires, self._expiries.get(key, expires))
            self._go()

    def forget(self, key: bytes) -> None:
        """Leave *key* alone: its claim was given back."""
        with self._condition:
            self._expiries.pop(key, None)

    def doubt(self, key: bytes, mark: str) -> None:
        """Find out what became of a grant of *key* by the change with *mark*, and take it away if it was made."""
        with self._condition:
            self._doubts[key] = mark
            self._go()

    def end(self) -> None:
        """Do nothing any more."""
        with self._condition:
            self._ended = True
            self._condition.notify()

    def _go(self) -> None:
        if not self._running:
            start_in_background(self._run, "mcp-claims etcd")
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
                times = [*self._expiries.values(), *([due] if lease else []), *([0.0] if self._doubts else [])]
                left = min(times, default=self._ticks() + _IDLE) - self._ticks()
                if left > 0:
                    self._condition.wait(left)
                    continue
            try:
                if lease is not None and self._ticks() >= due:
                    began = self._ticks()
                    self._lease.renew(lease, soon(ANSWER_WITHIN))
                    due = began + TTL / _SHARE
                self._do_what_is_due()
            except (UnansweredError, RefusedError):
                # Whoever calls is told; here there is nothing but to try again, from endpoint to endpoint.
                self._wait(_PAUSE)
            except Exception:
                # A defect of ours in one round must not be the end of the lease.
                logger.exception("tending the lease failed")
                self._wait(1.0)

    def _do_what_is_due(self) -> None:
        with self._condition:
            now = self._ticks()
            expired = [key for key, expires in self._expiries.items() if expires <= now]
            doubts = list(self._doubts.items())
        for key in expired:
            self._expire(key)
            with self._condition:
                if self._expiries.get(key, now + 1) <= now:
                    del self._expiries[key]
        for key, mark in doubts:
            self._settle(key, mark)
            with self._condition:
                if self._doubts.get(key) == mark:
                    del self._doubts[key]

    def _wait(self, seconds: float) -> None:
        with self._condition:
            if not self._ended:
                self._condition.wait(seconds)
