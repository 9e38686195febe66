"""Commit a compare-and-swap and know its outcome: where no answer came, it is read back, never guessed.

A request that was sent and not answered has an unknown outcome: applied, not applied, or applied later.

- A grant must not be applied later: its caller would hold a claim of which it knows nothing.  Moving the fence, or revoking
  the leases that were granted for these claims alone, prevents that; what is then read at the keys is final.
- A renewal or a removal needs no fence: applied late, it changes only what its sender held, or fails because that has
  changed.  When it is sent again and fails, its own first attempt may be the reason.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

from mcp_claims.model.codec import to_json
from mcp_claims.model.records import Claim
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import CALL_TIMEOUT, Gateway, GatewayError, NoAnswerError
from mcp_claims.stores.etcd.keys import trace_key
from mcp_claims.stores.etcd.lease import Fence, Lease, ProcessLease, revoke_lease
from mcp_claims.stores.etcd.messages import KeyValue

MAX_OPERATIONS = 100
"""Operations, or compares, that one transaction gets where there may be more: etcd takes 128."""

_NONCE_FIELD = "change"


@dataclass(frozen=True, slots=True)
class KeyChange:
    """Put *value* (`None` deletes) at *key* if the key's last change is still the revision *expected*, 0 for no key.

    With a *trace_lease* (0 for none) the value is put as the trace of the claim too, attached to that; otherwise the trace of
    the key is deleted, if it *ends_trace*.  A grant deletes the key *ticket*.  *covers* is the marker in whose place a grant is
    put: it is there again if the grant is undone.
    """

    key: bytes
    expected: int
    value: bytes | None
    lease: int = 0
    trace_lease: int = 0
    is_grant: bool = False
    ticket: bytes | None = None
    ends_trace: bool = True
    covers: Claim | None = None

    def has_put(self, kv: KeyValue | None) -> bool:
        """Return whether *kv* is what this change put."""
        return kv is not None and self.value is not None and kv.value == self.value

    def has_put_claim(self, claim: Claim) -> bool:
        """Return whether *claim*, as it was read, is what this change put, and nobody has changed it since."""
        return claim.leased is not None and claim.leased.value == self.value

    @property
    def operation(self) -> dict[str, Any]:
        """The change of the key; a deletion takes the trace with it."""
        if self.value is None:
            return messages.delete_operation(self.key, trace_key(self.key) + b"\0")
        return messages.put_operation(self.key, self.value, self.lease)

    @property
    def trace_operation(self) -> dict[str, Any] | None:
        """The change of the trace that comes with a put; its response has the trace that was there before."""
        if self.value is None or not (self.trace_lease or self.ends_trace):
            return None
        trace = trace_key(self.key)
        if not self.trace_lease:
            return messages.returning_previous(messages.delete_operation(trace))
        return messages.returning_previous(messages.put_operation(trace, self.value, self.trace_lease))


def unique_value(claim: Claim) -> bytes:
    """Return the value of *claim* with a nonce: else an equal claim, put by another thread of its session, would be taken for ours."""
    return to_json(claim, {_NONCE_FIELD: secrets.token_hex(8)})


@dataclass(frozen=True, slots=True)
class Txn:
    """All of *changes* or none.

    A *fence*, where there is one, must be at its revision, and no key may begin with any of *empty*.  So must *overlaps*,
    which is put again, so that no two claims on files that were judged side by side are both granted or renewed.
    """

    changes: tuple[KeyChange, ...]
    fence: Fence | None = None
    empty: tuple[bytes, ...] = ()
    overlaps: Fence | None = None

    @property
    def is_grant(self) -> bool:
        """Whether it must not be applied late: its caller would hold a claim of which it knows nothing."""
        return any(change.is_grant for change in self.changes)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys that it changes."""
        return tuple(change.key for change in self.changes)

    def granted_leases(self) -> list[int]:
        """Return the leases of the claims that it grants; without any of them, all of it fails."""
        return list(dict.fromkeys(change.lease for change in self.changes if change.is_grant))

    def expects(self, found: Sequence[KeyValue | None]) -> bool:
        """Return whether *found*, what is at its keys, is what it compares with."""
        return all(
            (kv.mod_revision if kv else 0) == change.expected for change, kv in zip(self.changes, found, strict=True)
        )

    def put_revision(self, found: Sequence[KeyValue | None]) -> int | None:
        """Return the revision at which it was applied, if any of *found* is what it put: one tells for all."""
        pairs = zip(self.changes, found, strict=True)
        return next((kv.mod_revision for change, kv in pairs if kv is not None and change.has_put(kv)), None)

    def request(self) -> dict[str, Any]:
        """Return the request; if a compare fails, its response has the state of the keys, of both fences, and of *empty*."""
        expected = {change.key: change.expected for change in self.changes}
        for fence in (self.fence, self.overlaps):
            if fence is not None:
                expected[fence.key] = fence.revision
        # In this order, as `traces` expects.
        operations = [change.operation for change in self.changes]
        operations += [each for change in self.changes if (each := change.trace_operation) is not None]
        if self.is_grant:
            # Those of renewals too: a session that waited for several keys may hold some of them already.
            tickets = [each.ticket for each in self.changes if each.ticket and not each.ticket.startswith(self.empty)]
            operations += map(messages.delete_operation, tickets)
        operations += [] if self.overlaps is None else [messages.put_operation(self.overlaps.key, b"")]
        return messages.txn_request(expected, *operations, empty=self.empty)

    def traces(self, response: dict[str, Any]) -> tuple[KeyValue | None, ...]:
        """Return the trace that each change has replaced, from the response to the request."""
        operations = count(len(self.changes))
        return tuple(
            None if change.trace_operation is None else messages.previous(response, next(operations))
            for change in self.changes
        )


class TxnOutcome(NamedTuple):
    """The outcome of a transaction.

    `revision` is the one at which it was applied, `None` if no sign of that was found.  Then `found` is what is at its keys
    instead, `fence` what is at the fence, `queued` whether there are keys where there should be none, and `overlapped`
    whether another file was claimed meanwhile.  With `unknown` an attempt had no answer: it may have been applied all the
    same, and overwritten since.  With `inferred` no answer came either, and `revision` is only that of the read by which nothing
    is at its keys, as wanted.  `traces` are those that its changes replaced, or empty if its answer did not come.
    """

    revision: int | None
    found: tuple[KeyValue | None, ...] = ()
    fence: KeyValue | None = None
    unknown: bool = False
    traces: tuple[KeyValue | None, ...] = ()
    queued: bool = False
    overlapped: bool = False
    inferred: bool = False


class Transactions:
    """The transactions of one process.

    *on_unknown_grant* receives each grant whose outcome could not be found out, so that somebody calls `undo_grant` later.
    *grant_marker_lease* grants the lease of a marker, by a deadline; 0 if its time is up.  All methods with a deadline raise `GatewayError`.
    """

    def __init__(
        self,
        gateway: Gateway,
        lease: ProcessLease,
        on_unknown_grant: Callable[[Txn], None],
        grant_marker_lease: Callable[[Claim, float], int],
    ) -> None:
        self._gateway, self._lease, self._on_unknown_grant = gateway, lease, on_unknown_grant
        self._grant_marker_lease = grant_marker_lease
        self.latest_revision = 0
        """The latest revision of the cluster in any response, 0 before the first."""

    def get(self, key: bytes, deadline: float) -> KeyValue | None:
        """Return what is at *key*."""
        return self.get_all([key], deadline)[0]

    def get_all(self, keys: Sequence[bytes], deadline: float) -> tuple[KeyValue | None, ...]:
        """Return what is at each of *keys*; as `read_ranges` does."""
        found = self.read_ranges([(key, key + b"\0") for key in keys], deadline)
        return tuple(map(found.get, keys))

    def read_ranges(self, ranges: Sequence[tuple[bytes, bytes]], deadline: float) -> dict[bytes, KeyValue]:
        """Return what is in *ranges*, each from a key to before another; all at one revision, up to `MAX_OPERATIONS`."""
        found: dict[bytes, KeyValue] = {}
        for at in range(0, len(ranges), MAX_OPERATIONS):
            some = ranges[at : at + MAX_OPERATIONS]
            if len(some) == 1:
                response = self._gateway.call("/kv/range", messages.range_request(*some[0]), deadline)
                read = messages.key_values(response)
            else:
                response = self._gateway.call("/kv/txn", messages.read_request(some), deadline)
                read = messages.read_ranges(response)
            self.note_revision(response)
            found |= {kv.key: kv for kv in read}
        return found

    def commit(self, txn: Txn, deadline: float, process_lease: Lease | None = None) -> TxnOutcome:
        """Send *txn* until its outcome is known, and return that.

        *process_lease* is the lease of this process if *txn* attaches a claim to it.  When this raises, a grant was
        certainly not applied, or `on_unknown_grant` has received it.
        """
        sent_before = False
        while True:
            try:
                response = self._gateway.call("/kv/txn", txn.request(), deadline, idempotent=False)
            except NoAnswerError as error:
                if not error.outcome_unknown:
                    raise NoAnswerError(error.problems, outcome_unknown=sent_before) from error
            else:
                revision = self.note_revision(response)
                if response.get("succeeded"):
                    return TxnOutcome(revision, traces=txn.traces(response))
                others = messages.failed_compare(response)
                found = tuple(others[: len(txn.changes)])
                del others[: len(txn.changes)]
                fence = None if txn.fence is None else others.pop(0)
                overlaps = None if txn.overlaps is None else others.pop(0)
                overlapped = (overlaps.mod_revision if overlaps else 0) != (
                    txn.overlaps.revision if txn.overlaps else 0
                )
                # An earlier attempt may have arrived just before this one, and be what made its compare fail.
                if sent_before and (applied := self._applied(txn, found)) is not None:
                    return applied
                queued = any(others)
                return TxnOutcome(None, found, fence, unknown=sent_before, queued=queued, overlapped=overlapped)
            sent_before = True
            try:
                found = self._resolve_unknown(txn, process_lease, deadline)
            except GatewayError as error:
                if txn.is_grant:
                    self._on_unknown_grant(txn)
                if isinstance(error, NoAnswerError):
                    # That what came after it was not sent says nothing of this transaction, which was.
                    raise NoAnswerError(error.problems, outcome_unknown=True) from error
                raise
            if (applied := self._applied(txn, found)) is not None:
                return applied
            if not txn.expects(found):
                return TxnOutcome(None, found, unknown=True)
            # It was not applied.  A fenced one never will be; its caller sends a new one that compares the moved fence.
            # Others are sent again from here.
            if txn.fence is not None:
                return TxnOutcome(None, found, self.get(txn.fence.key, deadline))

    def confirm_lease(self, lease: Lease, txn: Txn, deadline: float) -> bool:
        """Return whether the process *lease* of *txn* is alive; asks etcd only if our own clock does not prove it."""
        if self._lease.is_trusted(lease):
            return True
        try:
            return self._lease.renew(lease, deadline)
        except GatewayError:
            if txn.is_grant:
                self._on_unknown_grant(txn)
            raise

    def undo_grant(self, grant: Txn) -> None:
        """Delete what *grant* put, if it was applied although its caller got an error; what it covered is there again."""
        deadline = deadline_in(CALL_TIMEOUT)
        if grant.fence is not None:
            if (lease := self._lease.current) is not None:
                self._lease.move_fence(lease, deadline)
        else:
            # Before its leases are revoked, which would leave nothing.
            self._take_back(grant, deadline)
            for lease_id in grant.granted_leases():
                revoke_lease(self._gateway, lease_id, deadline)
        self._take_back(grant, deadline)

    def _take_back(self, grant: Txn, deadline: float) -> None:
        """Put in the place of what *grant* has put what that covers."""
        found = self.get_all(grant.keys, deadline)
        # What the transaction renewed was held before, and its caller knows of it.
        undone: list[KeyChange] = []
        for change, kv in zip(grant.changes, found, strict=True):
            if change.is_grant and kv is not None and change.has_put(kv):
                lease_id = 0 if change.covers is None else self._grant_marker_lease(change.covers, deadline)
                value = unique_value(change.covers) if change.covers is not None and lease_id else None
                undone.append(KeyChange(change.key, kv.mod_revision, value, lease_id))
        if undone and self.commit(Txn(tuple(undone)), deadline).revision is None:
            for lease_id in [each.lease for each in undone if each.lease]:
                revoke_lease(self._gateway, lease_id, deadline)

    def note_revision(self, response: dict[str, Any]) -> int:
        """Remember the revision of *response*, and return it."""
        revision = messages.header_revision(response)
        self.latest_revision = max(self.latest_revision, revision)
        return revision

    def reset_revision(self) -> None:
        """Forget the latest revision, as the cluster was emptied or restored and counts from a lower one."""
        self.latest_revision = 0

    def _resolve_unknown(self, txn: Txn, process_lease: Lease | None, deadline: float) -> tuple[KeyValue | None, ...]:
        """Return what is at the keys of *txn*, which had no answer; after this a grant cannot be applied any more."""
        if txn.fence is not None and process_lease is not None:
            self._lease.move_fence(process_lease, deadline)
        found = self.get_all(txn.keys, deadline)
        if txn.is_grant and txn.fence is None and txn.put_revision(found) is None:
            # It has leases of its own.  Without them the puts fail, and if they came just now they are deleted.
            for lease_id in txn.granted_leases():
                revoke_lease(self._gateway, lease_id, deadline)
        return found

    def _applied(self, txn: Txn, found: tuple[KeyValue | None, ...]) -> TxnOutcome | None:
        """Return that *txn* was applied, if *found* is what it left."""
        if (revision := txn.put_revision(found)) is not None:
            return TxnOutcome(revision)
        if all(kv is None and change.value is None for change, kv in zip(txn.changes, found, strict=True)):
            # Deleted, as wanted; perhaps by others, before it was sent, with claims of others at the keys since.
            return TxnOutcome(self.latest_revision, inferred=True)
        return None
