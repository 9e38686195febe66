"""The thread that renews the lease, removes expired claims and undoes unknown grants, independently of calls."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from threading import Condition

from mcp_claims.model.records import Claim
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd.gateway import CALL_TIMEOUT, GatewayError
from mcp_claims.stores.etcd.lease import TTL, Lease, ProcessLease
from mcp_claims.stores.etcd.txn import Txn
from mcp_claims.stores.threads import start_daemon_thread

_RENEWALS_PER_TTL = 3
_RETRY_DELAY = 0.1  # s, after a call that failed
_DEFECT_DELAY = 1.0  # s, after an unexpected exception
_IDLE = 3_600.0  # s

logger = logging.getLogger(__name__)


class LeaseKeepAlive:
    """Keeps *lease* alive.

    *expire* removes the claim at a key if it is ours and has expired; *undo* deletes what a grant put although
    its caller got an error.  Both may raise `GatewayError` and are then tried again.  *ticks* is the clock of *lease*.
    """

    def __init__(
        self,
        lease: ProcessLease,
        ticks: Callable[[], float],
        expire: Callable[[bytes], None],
        undo: Callable[[Txn], None],
    ) -> None:
        self._lease, self._ticks = lease, ticks
        self._expire, self._undo = expire, undo
        self._expiries: dict[bytes, Counter[float]] = {}
        self._unknown_grants: set[Txn] = set()
        self._condition = Condition()
        self._running = False
        self._stopped = False

    def schedule_expiry(self, key: bytes, at: float) -> None:
        """Call *expire* for *key* at the time *at*.

        A key can have several times, and each is counted.  With one time per key, cancelling that of a released claim
        would cancel that of the claim which another session has just made.
        """
        with self._condition:
            self._expiries.setdefault(key, Counter())[at] += 1
            self._start_or_wake()

    def cancel_expiry(self, key: bytes, at: float) -> None:
        """Cancel one `schedule_expiry` with the same arguments, if there was one."""
        with self._condition:
            times = self._expiries.get(key, Counter())
            if times[at] > 1:
                times[at] -= 1
                return
            del times[at]
            if not times:
                self._expiries.pop(key, None)

    def schedule_undo(self, grant: Txn) -> None:
        """Call *undo* for *grant* as soon as the cluster answers."""
        with self._condition:
            self._unknown_grants.add(grant)
            self._start_or_wake()

    def will_undo(self, key: bytes, claim: Claim) -> bool:
        """Return whether *claim*, found at *key*, was put by a grant that is to be undone."""
        with self._condition:
            changes = [change for grant in self._unknown_grants for change in grant.changes if change.key == key]
        return any(change.is_grant and change.has_put_claim(claim) for change in changes)

    def start(self) -> None:
        """Keep the lease alive from now on."""
        with self._condition:
            self._start_or_wake()

    def stop(self) -> None:
        """Do nothing from now on; the lease then ends by itself."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def _start_or_wake(self) -> None:
        if not self._running:
            start_daemon_thread(self._run, "mcp-claims etcd")
            self._running = True
        else:
            self._condition.notify()

    def _run(self) -> None:
        known: Lease | None = None
        renew_at = 0.0
        while True:
            lease = self._lease.current
            if lease is not None and (known is None or known.id != lease.id):
                known, renew_at = lease, self._ticks() + TTL / _RENEWALS_PER_TTL
            with self._condition:
                if self._stopped:
                    return
                expiries = (time for times in self._expiries.values() for time in times)
                due = [*expiries, *([renew_at] if lease else []), *([0.0] if self._unknown_grants else [])]
                left = min(due, default=self._ticks() + _IDLE) - self._ticks()
                if left > 0:
                    self._condition.wait(left)
                    continue
            try:
                if lease is not None and self._ticks() >= renew_at:
                    sent = self._ticks()
                    self._lease.renew(lease, deadline_in(CALL_TIMEOUT))
                    renew_at = sent + TTL / _RENEWALS_PER_TTL
                self._do_one_of_each()
            except GatewayError:
                # Callers see such an error themselves; here only another attempt helps, at the next endpoint.
                self._wait(_RETRY_DELAY)
            except Exception:
                # A defect in one round must not end the thread, and with it the lease.
                logger.exception("keeping the lease alive failed")
                self._wait(_DEFECT_DELAY)

    def _do_one_of_each(self) -> None:
        """Do one expiry and one undo that are due: a long list of them must not delay the next renewal."""
        now = self._ticks()
        with self._condition:
            expired = next((key for key, times in self._expiries.items() if min(times) <= now), None)
            if expired is not None:
                # Move it to the end, so that a key which fails again and again does not block the others.
                self._expiries[expired] = self._expiries.pop(expired)
            grant = next(iter(self._unknown_grants), None)
        if expired is not None:
            self._expire(expired)
            with self._condition:
                times = self._expiries.pop(expired, Counter())
                if left := Counter({time: count for time, count in times.items() if time > now}):
                    self._expiries[expired] = left
        if grant is not None:
            self._undo(grant)
            with self._condition:
                self._unknown_grants.discard(grant)

    def _wait(self, seconds: float) -> None:
        with self._condition:
            if not self._stopped:
                self._condition.wait(seconds)
