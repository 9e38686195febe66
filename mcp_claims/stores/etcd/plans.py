"""What one change takes in a transaction: its key and revision, its leases, its trace and its ticket."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Holder, Mode, Moment
from mcp_claims.stores.base import Change
from mcp_claims.stores.etcd import lease as leases
from mcp_claims.stores.etcd.keys import Keyspace, trace_key
from mcp_claims.stores.etcd.lease import Lease
from mcp_claims.stores.etcd.messages import KeyValue
from mcp_claims.stores.etcd.traces import TraceLeases
from mcp_claims.stores.etcd.txn import KeyChange, unique_value

_LAPSED_FOR = 600.0
"""Seconds for which a reservation stays stored after its time: longer than the ticket of a tool counts."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A change, and what its transaction has to know about it."""

    change: Change
    key: bytes
    expected: int
    is_grant: bool = False
    ends_with_process: bool = False
    """Whether the new claim belongs under the lease of this process."""
    leaves_trace: bool = False
    ticket: bytes | None = None

    @property
    def changes_head(self) -> bool:
        """Whether it changes the head of a key that several hold, beside their claims."""
        old, new = self.change.old, self.change.new
        if new is not None and new.ended is None:
            return bool(new.members)
        return old is not None and bool(old.members)

    @property
    def is_of_several(self) -> bool:
        """Whether it is for a key that several hold."""
        return self.changes_head or self.change.scoped.member is not None

    @property
    def new(self) -> Claim | None:
        return self.change.new

    @property
    def needs_lease_of_its_own(self) -> bool:
        return self.new is not None and not self.ends_with_process and not self.new.members

    @property
    def ends_trace(self) -> bool:
        """Whether the trace of an earlier claim may lie beside it, and has to go.

        Each deletion is an operation, and a transaction has no room for them beside 32 claims with their heads and tickets.
        """
        old, new = self.change.old, self.new
        if not self.is_of_several or new is None or new.ended is not None:
            return True
        # Nothing was there when it was read, and the transaction compares that.  What is shared leaves no trace, and what
        # lies behind a head is seen by nobody, and goes with it.
        return old is not None and not new.members and new.slots is not None

    @property
    def covers(self) -> Claim | None:
        """The marker that stands, or is kept by the reservation, in the place of what is granted."""
        old, new = self.change.old, self.new
        kept = new if new is not None and new.mode is Mode.RESERVED else old
        if kept is not None and kept.mode is Mode.RESERVED:
            kept = kept.replaced
        return kept if self.is_grant and kept is not None and kept.ended is not None else None

    @property
    def kept_lease(self) -> int:
        """The lease of the head that the new one replaces, which lasts as long; 0 for none."""
        old, new = self.change.old, self.new
        if old is None or new is None or not (old.members and new.members) or old.expires != new.expires:
            return 0
        return 0 if old.leased is None else old.leased.lease


def plan(
    change: Change,
    keyspace: Keyspace,
    ends_with_us: Callable[[Holder], bool],
    is_in_doubt: Callable[[bytes, Claim], bool],
) -> Planned:
    """Plan *change*; *ends_with_us* returns whether a holder's session ends when this process does.

    *is_in_doubt* returns whether the claim at a key was granted to a call that has failed.
    """
    scoped, old, new, _ = change
    key = keyspace.claim_key(scoped)
    if new is None:
        if old is not None and old.leased is not None and old.leased.is_trace:
            return Planned(change, trace_key(key), old.leased.revision)
        return Planned(change, key, _revision(old))
    # Whoever takes its reservation is granted the claim only then, though the generation is known before.
    takes = new.mode is not Mode.RESERVED and old is not None and old.mode is Mode.RESERVED and new.ended is None
    # A renewal of a grant that no caller knows of is a grant: if its outcome is unknown too, nobody else would undo it.
    learns = old is not None and new.ended is None and is_in_doubt(key, old)
    is_grant = not new.members and (takes or learns or not new.generation)
    return Planned(
        change,
        key,
        _revision(old),
        is_grant,
        # A claim, not a marker; nor a reservation that keeps one, which would end with the process too.
        ends_with_process=new.ended is None and new.replaced is None and ends_with_us(new.holder),
        # A transaction has no room for the traces of a large group of shared keys.
        leaves_trace=new.replaced is None
        and not new.members
        and new.mode is not Mode.SHARED
        and expiry.trace_of(new, ClaimState.EXPIRED, new.expires) not in (None, new),
        ticket=None if new.mode is Mode.RESERVED or new.members else keyspace.ticket_key(scoped.base, new.holder.name),
    )


def has_changed(planned: Planned, kv: KeyValue | None) -> bool:
    """Return whether *kv*, found at the key of *planned*, is not at the revision that it expects."""
    return (kv.mod_revision if kv else 0) != planned.expected


def _revision(old: Claim | None) -> int:
    """Return the revision that the key must be at for *old* to be what is stored there, 0 for nothing."""
    return 0 if old is None or old.leased is None or old.leased.is_trace else old.leased.revision


class LeaseKind(NamedTuple):
    """What claims have in common that are attached to one lease."""

    ttl: int
    is_grant: bool


def lease_kinds(planned: Sequence[Planned], now: Moment, minimum: int) -> dict[bytes, LeaseKind]:
    """Return by key which lease each of *planned* takes that does not end with this process, of *minimum* seconds at least."""
    # Grants apart: were the outcome unknown, revoking their lease would end what was held before, too.
    return {
        each.key: LeaseKind(claim_lease_ttl(each.new, now, minimum), each.is_grant)
        for each in planned
        if each.new is not None and each.needs_lease_of_its_own
    }


def claim_lease_ttl(new: Claim, now: Moment, minimum: int) -> int:
    """Return the TTL, in seconds, of the lease of *new*: a marker, or what outlives this process."""
    left = expiry.remaining(new.expires, now).total_seconds()
    if new.mode is Mode.RESERVED:
        # It must still be there when somebody comes after its time, or nobody would know that it has lapsed, and
        # reserve the key for the same session again.
        kept = expiry.remaining(new.replaced.expires, now).total_seconds() if new.replaced is not None else 0.0
        left = max(left + _LAPSED_FOR, kept)
    return leases.claim_lease_ttl(left, minimum)


def key_change(
    planned: Planned,
    process_lease: Lease | None,
    own_leases: Mapping[bytes, int],
    traces: TraceLeases,
    deadline: float,
) -> KeyChange:
    """Return the change of the key, under *process_lease*, its lease in *own_leases*, or for a head that of *traces*."""
    if planned.new is None:
        return KeyChange(planned.key, planned.expected, None)
    if process_lease and planned.ends_with_process:
        lease_id = process_lease.id
    elif planned.new.members:
        # One for all heads of some hours, which lasts as long as they do: else each first session would leave one behind.
        lease_id = planned.kept_lease or traces.get_or_grant(deadline, ends_with_process=False)
    else:
        lease_id = own_leases[planned.key]
    trace_lease = 0
    if planned.leaves_trace:
        trace_lease = traces.get_or_grant(deadline, ends_with_process=planned.ends_with_process)
    return KeyChange(
        planned.key,
        planned.expected,
        unique_value(planned.new),
        lease_id,
        trace_lease,
        planned.is_grant,
        planned.ticket,
        ends_trace=planned.ends_trace,
        covers=planned.covers,
    )
