"""Traces: what etcd keeps of a claim with a note once the claim is gone with its lease.

Beside such a claim lies its trace, the same record at a key of its own under a longer lease.  Every change of the claim
puts or deletes the trace in the same transaction, so a trace alone means that no session has ended the claim: its lease
did.  The next grant gets the trace back from its own transaction, and needs no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Leased, Moment
from mcp_claims.model.validation import DEFAULT_RETENTION, MAX_TTL
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.keys import Keyspace, claim_key_of
from mcp_claims.stores.etcd.lease import grant_lease, revoke_lease
from mcp_claims.stores.etcd.messages import KeyValue

_USE = 6 * 60 * 60  # s for which new traces are put under one lease
_TTL = round((MAX_TTL + DEFAULT_RETENTION).total_seconds()) + _USE


def parse_trace(kv: KeyValue | None, keyspace: Keyspace, now: Moment) -> Claim | None:
    """Return the marker that the trace in *kv* stands for; `None` after its retention, or if it cannot be read.

    The clock decides nothing but the word: `expired` once the claim has expired, until then `orphaned`, and that *now*.
    """
    claim = None if kv is None else messages.parse_claim(replace(kv, key=claim_key_of(kv.key)), keyspace)
    if kv is None or not isinstance(claim, Claim):
        return None  # It holds nothing, so what cannot be read must not block the key.
    state = ClaimState.EXPIRED if expiry.has_passed(claim.expires, now) else ClaimState.ORPHANED
    marker, end = expiry.trace_of(claim, state, now), expiry.later(claim.expires, DEFAULT_RETENTION)
    if not isinstance(marker, Claim) or expiry.has_passed(end, now):
        return None
    leased = Leased(kv.lease, kv.mod_revision, is_trace=True)
    return marker._replace(expires=end._replace(epoch=marker.expires.epoch), leased=leased)


class TraceLeases:
    """The leases of this process for its traces: one for those of claims that end with it, one for the others and for heads.

    Each lasts for a day after the longest claim that is put beside its traces, and is granted when one is first needed.
    *ticks* is a clock in seconds that never steps.  Methods with a *deadline* raise `GatewayError`.
    """

    def __init__(self, gateway: Gateway, ticks: Callable[[], float]) -> None:
        self._gateway, self._ticks = gateway, ticks
        self._current: dict[bool, tuple[int, float]] = {}
        self._ending_with_process: list[int] = []
        self._lock = Lock()

    def get_or_grant(self, deadline: float, *, ends_with_process: bool) -> int:
        """Return the id of the lease for a trace that is put now."""
        with self._lock:
            lease, until = self._current.get(ends_with_process, (0, 0.0))
            if not lease or self._ticks() >= until:
                lease = grant_lease(self._gateway, _TTL, deadline)
                self._current[ends_with_process] = (lease, self._ticks() + _USE)
                self._ending_with_process += [lease] if ends_with_process else []
            return lease

    def forget(self) -> None:
        """Grant new leases from now on, since etcd does not know one of these any more."""
        with self._lock:
            self._current.clear()

    def revoke(self, deadline: float) -> None:
        """End the traces of claims that end with this process: it ends them itself, so they are not orphaned."""
        with self._lock:
            leases, self._ending_with_process = self._ending_with_process, []
            self._current.pop(True, None)
        for lease in leases:
            revoke_lease(self._gateway, lease, deadline)
