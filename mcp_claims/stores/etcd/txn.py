"""Commit one compare-and-swap and know its outcome: where no answer came, it is read back, never guessed.

A request that was sent and not answered has an unknown outcome: applied, not applied, or applied later.

- A grant must not be applied later: its caller would hold a claim of which it knows nothing.  Moving the fence, or revoking
  the lease that was granted for this claim alone, prevents that; what is then read at the key is final.
- A renewal or a removal needs no fence: applied late, it changes only what its sender held, or fails because that has
  changed.  When it is sent again and fails, its own first attempt may be the reason.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from mcp_claims.model.codec import to_json
from mcp_claims.model.records import Claim
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import CALL_TIMEOUT, Gateway, GatewayError, NoAnswerError
from mcp_claims.stores.etcd.keys import trace_key
from mcp_claims.stores.etcd.lease import Fence, Lease, ProcessLease, revoke_lease
from mcp_claims.stores.etcd.messages import KeyValue

_NONCE_FIELD = "change"


@dataclass(frozen=True, slots=True)
class Txn:
    """Put *value* (`None` deletes) at *key* if the key's last change is still the revision *expected*, 0 for no key.

    A *fence*, where there is one, must be at its revision too, and no key may begin with *empty*.  So must *overlaps*, which is
    put again, so that no two grants of files that were judged side by side are both made.  With a *trace_lease* (0
    for none) the value is put as the trace of the claim too, attached to that; otherwise the trace of the key is deleted.
    The key *ticket* is deleted with it.
    """

    key: bytes
    expected: int
    value: bytes | None
    lease: int = 0
    fence: Fence | None = None
    is_grant: bool = False
    trace_lease: int = 0
    empty: bytes | None = None
    ticket: bytes | None = None
    overlaps: Fence | None = None

    @classmethod
    def put(
        cls,
        claim: Claim,
        key: bytes,
        expected: int,
        lease: int,
        fence: Fence | None,
        trace_lease: int = 0,
        *,
        is_grant: bool,
        empty: bytes | None = None,
        ticket: bytes | None = None,
        overlaps: Fence | None = None,
    ) -> Txn:
        """Return the transaction that puts *claim*, attached to *lease*, at *key*, and its trace."""
        # The nonce makes the value unique: without it, `has_put` could take an equal claim, put by another
        # thread of this session, for our own.
        value = to_json(claim, {_NONCE_FIELD: secrets.token_hex(8)})
        return cls(key, expected, value, lease, fence, is_grant, trace_lease, empty, ticket, overlaps)

    def has_put(self, kv: KeyValue | None) -> bool:
        """Return whether *kv* is what this transaction put."""
        return kv is not None and self.value is not None and kv.value == self.value

    def request(self) -> dict[str, Any]:
        """Return the request; if a compare fails, its response has the state of the key, of both fences, and of *empty*."""
        expected = {self.key: self.expected}
        for fence in (self.fence, self.overlaps):
            if fence is not None:
                expected[fence.key] = fence.revision
        trace = trace_key(self.key)
        change, change_trace = messages.delete_operation(self.key), messages.delete_operation(trace)
        if self.value is not None:
            change = messages.put_operation(self.key, self.value, self.lease)
        if self.value is not None and self.trace_lease:
            change_trace = messages.put_operation(trace, self.value, self.trace_lease)
        operations = [change, *([] if self.ticket is None else [messages.delete_operation(self.ticket)])]
        operations += [] if self.overlaps is None else [messages.put_operation(self.overlaps.key, b"")]
        # The last, as `previous` expects.
        operations.append(messages.returning_previous(change_trace))
        return messages.txn_request(expected, *operations, empty=self.empty)


class TxnOutcome(NamedTuple):
    """The outcome of a transaction.

    `revision` is the one at which it was applied, `None` if no sign of that was found.  Then `found` is what is at the
    key instead, `fence` what is at the fence, `queued` whether there are keys where there should be none, and `overlapped`
    whether another file was granted meanwhile.  With
    `unknown` an attempt had no answer: it may have been applied all the same, and overwritten since.  `trace` is the trace
    that the transaction replaced, as far as its answer came.
    """

    revision: int | None
    found: KeyValue | None = None
    fence: KeyValue | None = None
    unknown: bool = False
    trace: KeyValue | None = None
    queued: bool = False
    overlapped: bool = False


class Transactions:
    """The transactions of one process.

    *on_unknown_grant* receives each grant whose outcome could not be found out, so that somebody calls `undo_grant` later.
    All methods with a deadline raise `GatewayError`.
    """

    def __init__(self, gateway: Gateway, lease: ProcessLease, on_unknown_grant: Callable[[Txn], None]) -> None:
        self._gateway, self._lease, self._on_unknown_grant = gateway, lease, on_unknown_grant
        self.latest_revision = 0
        """The latest revision of the cluster in any response, 0 before the first."""

    def get(self, key: bytes, deadline: float) -> KeyValue | None:
        """Return what is at *key*."""
        response = self._gateway.call("/kv/range", messages.get_request(key), deadline)
        self.note_revision(response)
        return next(iter(messages.key_values(response)), None)

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
                    raise
            else:
                revision = self.note_revision(response)
                if response.get("succeeded"):
                    return TxnOutcome(revision, trace=messages.previous(response))
                found, *others = messages.failed_compare(response)
                fence = None if txn.fence is None else others.pop(0)
                overlaps = None if txn.overlaps is None else others.pop(0)
                overlapped = (overlaps.mod_revision if overlaps else 0) != (
                    txn.overlaps.revision if txn.overlaps else 0
                )
                # An earlier attempt may have arrived just before this one, and be what made its compare fail.
                applied = self._applied_revision(txn, found) if sent_before else None
                queued = any(others)
                return TxnOutcome(applied, found, fence, unknown=sent_before, queued=queued, overlapped=overlapped)
            sent_before = True
            try:
                found = self._resolve_unknown(txn, process_lease, deadline)
            except GatewayError:
                if txn.is_grant:
                    self._on_unknown_grant(txn)
                raise
            if (applied := self._applied_revision(txn, found)) is not None:
                return TxnOutcome(applied)
            if (found.mod_revision if found else 0) != txn.expected:
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
        """Delete what *grant* put, if it was applied although its caller got an error."""
        deadline = deadline_in(CALL_TIMEOUT)
        if grant.fence is None:
            revoke_lease(self._gateway, grant.lease, deadline)
        elif (lease := self._lease.current) is not None:
            self._lease.move_fence(lease, deadline)
        found = self.get(grant.key, deadline)
        if found is not None and grant.has_put(found):
            self.commit(Txn(grant.key, found.mod_revision, None), deadline)

    def note_revision(self, response: dict[str, Any]) -> int:
        """Remember the revision of *response*, and return it."""
        revision = messages.header_revision(response)
        self.latest_revision = max(self.latest_revision, revision)
        return revision

    def reset_revision(self) -> None:
        """Forget the latest revision, as the cluster was emptied or restored and counts from a lower one."""
        self.latest_revision = 0

    def _resolve_unknown(self, txn: Txn, process_lease: Lease | None, deadline: float) -> KeyValue | None:
        """Return what is at the key of *txn*, which had no answer; after this a grant cannot be applied any more."""
        if txn.fence is not None and process_lease is not None:
            self._lease.move_fence(process_lease, deadline)
        found = self.get(txn.key, deadline)
        if txn.is_grant and process_lease is None and not txn.has_put(found):
            # It has a lease of its own.  Without that the put fails, and if it came just now it is deleted.
            revoke_lease(self._gateway, txn.lease, deadline)
        return found

    def _applied_revision(self, txn: Txn, found: KeyValue | None) -> int | None:
        """Return the revision at which *txn* was applied, if *found* is what it left."""
        if found is not None and txn.has_put(found):
            return found.mod_revision
        if found is None and txn.value is None:
            return self.latest_revision  # Deleted, as wanted.
        return None
