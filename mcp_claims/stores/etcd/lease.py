"""Leases: the one of this process, and those of single claims.

A process that holds claims attaches all of them to one lease, which it renews after a third of its TTL.  It relies on its
own clock, not on what etcd says: the lease counts as alive until `TRUST_TIME` seconds after the last answered renewal was
*sent*.

The *fence* is a key of the process beside its lease.  A grant that was sent and not answered can be applied at any later
time, when the endpoint that received it continues.  Every grant therefore compares the fence's revision, and putting the
fence again makes all earlier grants of this process fail from then on.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import NamedTuple

from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import Gateway, GrpcStatus, RefusedError
from mcp_claims.stores.etcd.keys import Keyspace

TTL = 30
"""Seconds after the last renewal at which etcd ends the lease of a process."""

TRUST_TIME = TTL - 3
"""Seconds for which a process relies on a renewal.

Shorter than the TTL: for up to two elections of 1 s each, a leader that was cut off does not know its successor and may
answer a renewal of which the successor never hears.
"""

MIN_TTL = 5
"""Seconds that the lease of a single claim lasts at least."""

_MARGIN = 2
"""Seconds by which the lease of a single claim outlasts the claim."""

_RENEWAL_TIMEOUT = 1.0
"""Seconds that an endpoint gets for a renewal before the next one is tried."""

_MAX_TTL = 40 * 24 * 60 * 60

logger = logging.getLogger(__name__)


class Fence(NamedTuple):
    """The key of a fence, and the revision at which it was last put."""

    key: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of this process with its fence; *trusted_until* is on the clock of `ProcessLease`."""

    id: int
    fence: Fence
    trusted_until: float


class ProcessLease:
    """The lease of this process: granted when it is first needed, and again after it was lost.

    *ticks* is a clock in seconds that never steps and counts time asleep.  *description* is the value of the fence, for
    people who look into etcd.  Methods that take a *deadline* raise `GatewayError`.
    """

    def __init__(self, gateway: Gateway, keyspace: Keyspace, ticks: Callable[[], float], description: str) -> None:
        self._gateway, self._keyspace, self._ticks = gateway, keyspace, ticks
        self._description = description.encode()
        self._lease: Lease | None = None
        self._grant_lock, self._lock = Lock(), Lock()

    @property
    def current(self) -> Lease | None:
        """The lease as last known, `None` if there is none."""
        return self._lease

    def get_or_grant(self, deadline: float) -> Lease:
        """Return the current lease, after granting one if there is none."""
        if (lease := self._lease) is not None:
            return lease
        with self._grant_lock:
            if (lease := self._lease) is not None:
                return lease
            sent = self._ticks()
            lease_id = grant_lease(self._gateway, TTL, deadline)
            key = self._keyspace.fence_key(lease_id)
            fence = Fence(key, self._put_fence(lease_id, key, deadline))
            lease = Lease(lease_id, fence, sent + TRUST_TIME)
            with self._lock:
                self._lease = lease
            return lease

    def is_trusted(self, lease: Lease) -> bool:
        """Return whether *lease* is certain to be alive, by our own clock."""
        current = self._lease
        return current is not None and current.id == lease.id and self._ticks() < current.trusted_until

    def renew(self, lease: Lease, deadline: float) -> bool:
        """Renew *lease*; return whether it was still alive."""
        sent = self._ticks()
        # The next endpoint is tried soon: what counts is when the renewal that is answered was sent.
        request = {"ID": str(lease.id)}
        response = self._gateway.call("/lease/keepalive", request, deadline, attempt_timeout=_RENEWAL_TIMEOUT)
        if int(response.get("result", {}).get("TTL", 0)) <= 0:
            self.mark_lost(lease)
            return False
        with self._lock:
            if self._lease is not None and self._lease.id == lease.id and sent + TRUST_TIME > self._lease.trusted_until:
                self._lease = replace(self._lease, trusted_until=sent + TRUST_TIME)
        return True

    def move_fence(self, lease: Lease, deadline: float) -> None:
        """Put the fence of *lease* again, so that no grant sent before can be applied any more."""
        self.note_fence(lease, self._put_fence(lease.id, lease.fence.key, deadline))

    def note_fence(self, lease: Lease, revision: int) -> None:
        """Remember that the fence of *lease* was put at *revision*, unless a later revision is known."""
        with self._lock:
            if self._lease is not None and self._lease.id == lease.id and revision > self._lease.fence.revision:
                self._lease = replace(self._lease, fence=Fence(lease.fence.key, revision))

    def mark_lost(self, lease: Lease) -> None:
        """Remember that etcd has ended *lease*, and all claims attached to it."""
        with self._lock:
            if self._lease is None or self._lease.id != lease.id:
                return
            self._lease = None
        logger.warning("etcd has ended the lease of this process: its claims are lost")

    def revoke(self, deadline: float) -> None:
        """End the lease, and with it all claims attached to it."""
        with self._lock:
            lease, self._lease = self._lease, None
        if lease is not None:
            revoke_lease(self._gateway, lease.id, deadline)

    def _put_fence(self, lease_id: int, key: bytes, deadline: float) -> int:
        request = messages.put_request(key, self._description, lease_id)
        return messages.header_revision(self._gateway.call("/kv/put", request, deadline))


def grant_lease(gateway: Gateway, ttl: int, deadline: float) -> int:
    """Grant a lease of *ttl* seconds; return its id."""
    # We choose the id, so that a repeated request grants no second lease.
    lease_id = secrets.randbits(62) + 1
    try:
        gateway.call("/lease/grant", {"ID": str(lease_id), "TTL": str(ttl)}, deadline)
    except RefusedError as error:
        if "already exists" not in str(error):
            raise
    return lease_id


def revoke_lease(gateway: Gateway, lease_id: int, deadline: float) -> None:
    """End the lease if it exists; after this returns, nothing can be attached to it any more."""
    try:
        gateway.call("/lease/revoke", {"ID": str(lease_id)}, deadline)
    except RefusedError as error:
        if error.code != GrpcStatus.NOT_FOUND:
            raise


def claim_lease_ttl(seconds: float, minimum: int = MIN_TTL) -> int:
    """Return the TTL, in seconds, of the lease of a single claim that expires in *seconds*."""
    return min(max(int(seconds) + 1 + _MARGIN, minimum), _MAX_TTL)
