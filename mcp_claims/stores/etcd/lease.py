"""Leases: that of this process, which etcd ends when it does not hear from it, and those of single claims.

A process that holds claims has one lease for all of them, renewed at a third of its time.  What it may rely on is not what
etcd says but its own clock: the lease is there until `TRUSTED` seconds after the last renewal that was answered was *sent*.

Beside the lease there is a key of the process, the *fence*.  A grant that was sent and not answered may be acted on any time
later, when the endpoint that has it goes on; it compares the fence, so changing the fence makes it void.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import NOT_FOUND, RefusedError, Transport
from mcp_claims.stores.etcd.keys import Names

TTL = 30
"""Seconds after which a process that is not heard of has lost its claims."""

TRUSTED = TTL - 3
"""Seconds for which a renewal is relied on.

Less, as a leader that was cut off does not know for up to two elections, of a second each, that there is another one, and
may renew what that one does not.
"""

SHORTEST_TTL = 5
_SLACK = 2
"""A claim's own lease is so many seconds longer than the claim."""

_MOST = 40 * 24 * 60 * 60

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease of this process, and the revision at which its fence was last put."""

    id: int
    fence: bytes
    fenced_at: int
    trusted_until: float  #: On the clock that never steps.


class ProcessLease:
    """The lease of this process: made when it is first needed, and again when it was lost.

    *ticks* is a clock that never steps, time asleep included, in seconds; *about* is told to people who look into etcd.
    Methods raise `UnansweredError`, and `RefusedError` for what the cluster will not do.
    """

    def __init__(self, transport: Transport, names: Names, ticks: Callable[[], float], about: str) -> None:
        self._transport, self._names, self._ticks = transport, names, ticks
        self._about = about.encode()
        self._lease: Lease | None = None
        self._making, self._lock = Lock(), Lock()

    @property
    def current(self) -> Lease | None:
        """The lease as it is known, if there is one."""
        return self._lease

    def get(self, until: float) -> Lease:
        """Return the lease, made if there is none."""
        if (lease := self._lease) is not None:
            return lease
        with self._making:
            if (lease := self._lease) is not None:
                return lease
            sent = self._ticks()
            made = grant_lease(self._transport, TTL, until)
            fence = self._names.session(made)
            fenced_at = self._put_fence(made, fence, until)
            lease = Lease(made, fence, fenced_at, sent + TRUSTED)
            with self._lock:
                self._lease = lease
            return lease

    def is_trusted(self, lease: Lease) -> bool:
        """Tell whether *lease* is certain to be there still, by our own clock."""
        current = self._lease
        return current is not None and current.id == lease.id and self._ticks() < current.trusted_until

    def renew(self, lease: Lease, until: float) -> bool:
        """Renew *lease*; tell whether it was still there."""
        sent = self._ticks()
        answer = self._transport.ask("/lease/keepalive", {"ID": str(lease.id)}, until)
        if int(answer.get("result", {}).get("TTL", 0)) <= 0:
            self.lost(lease)
            return False
        with self._lock:
            if self._lease is not None and self._lease.id == lease.id and sent + TRUSTED > self._lease.trusted_until:
                self._lease = Lease(lease.id, lease.fence, self._lease.fenced_at, sent + TRUSTED)
        return True

    def void(self, lease: Lease, until: float) -> None:
        """Make void whatever was asked under *lease* before and has not been acted on yet."""
        self.noticed(lease, self._put_fence(lease.id, lease.fence, until))

    def noticed(self, lease: Lease, fenced_at: int) -> None:
        """Note that the fence of *lease* was put at the revision *fenced_at*."""
        with self._lock:
            if self._lease is not None and self._lease.id == lease.id and fenced_at > self._lease.fenced_at:
                self._lease = Lease(lease.id, lease.fence, fenced_at, self._lease.trusted_until)

    def lost(self, lease: Lease) -> None:
        """Note that *lease* is no more, and all that was held under it."""
        with self._lock:
            if self._lease is None or self._lease.id != lease.id:
                return
            self._lease = None
        logger.warning("etcd has ended the lease of this process: what it held is lost")

    def revoke(self, until: float) -> None:
        """End the lease, and with it all that is held under it."""
        with self._lock:
            lease, self._lease = self._lease, None
        if lease is not None:
            revoke_lease(self._transport, lease.id, until)

    def _put_fence(self, lease: int, fence: bytes, until: float) -> int:
        return messages.revision_of(self._transport.ask("/kv/put", messages.put(fence, self._about, lease), until))


def grant_lease(transport: Transport, ttl: int, until: float) -> int:
    """Have a lease of *ttl* seconds made; return its id."""
    # Chosen here, so that asking twice makes one.
    chosen = secrets.randbits(62) + 1
    try:
        transport.ask("/lease/grant", {"ID": str(chosen), "TTL": str(ttl)}, until)
    except RefusedError as error:
        if "already exists" not in str(error):
            raise
    return chosen


def revoke_lease(transport: Transport, lease: int, until: float) -> None:
    """End *lease*, if it is there; once this returns, nothing can be put under it any more."""
    try:
        transport.ask("/lease/revoke", {"ID": str(lease)}, until)
    except RefusedError as error:
        if error.code != NOT_FOUND:
            raise


def lease_seconds(seconds: float, shortest: int = SHORTEST_TTL) -> int:
    """Return for how many seconds to lease a claim that has *seconds* to live."""
    return min(max(int(seconds) + 1 + _SLACK, shortest), _MOST)
