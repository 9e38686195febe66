"""The `Store` on etcd: one etcd key per claim, one transaction per change."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import (
    Claim,
    Found,
    Holder,
    Leased,
    Mode,
    Outcome,
    Proof,
    ScopedKey,
    Ticket,
    Unreadable,
)
from mcp_claims.stores.base import (
    LOCK_TIMEOUT,
    SECRET_BYTES,
    Blocks,
    Change,
    GivesWay,
    Swap,
    Swaps,
    TicketChange,
    call_before,
    check_changes,
    deadline_in,
)
from mcp_claims.stores.etcd import lease as leases
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.gateway import (
    CALL_TIMEOUT,
    Gateway,
    GatewayError,
    GrpcStatus,
    NoAnswerError,
    RefusedError,
)
from mcp_claims.stores.etcd.keepalive import LeaseKeepAlive
from mcp_claims.stores.etcd.keys import Keyspace, encode_key, is_trace_key, prefix_range_end, trace_key
from mcp_claims.stores.etcd.lease import ProcessLease
from mcp_claims.stores.etcd.messages import KeyValue
from mcp_claims.stores.etcd.overlaps import judge_overlaps, overlapping
from mcp_claims.stores.etcd.pages import Pages
from mcp_claims.stores.etcd.plans import Planned, claim_lease_ttl, has_changed, key_change, lease_kinds, plan
from mcp_claims.stores.etcd.tickets import Alarm, Tickets
from mcp_claims.stores.etcd.traces import TraceLeases, parse_trace
from mcp_claims.stores.etcd.txn import KeyChange, Transactions, Txn, TxnOutcome
from mcp_claims.stores.etcd.watch import KeyRange, Watcher
from mcp_claims.stores.history.history import History

_TOO_SLOW = (
    f"{CALL_TIMEOUT:g} s were not enough, though etcd answers: others keep changing the same keys, or a machine is busy"
)


@dataclass(frozen=True, slots=True)
class _Connection:
    """What belongs to one process.  A forked child needs its own: sockets and leases cannot be shared, threads are gone."""

    pid: int
    proof: Proof
    gateway: Gateway
    lease: ProcessLease
    transactions: Transactions
    keepalive: LeaseKeepAlive
    traces: TraceLeases
    watcher: Watcher
    tickets: Tickets


class EtcdStore:
    """Claims below the prefix of *config*, shared by all machines that reach the cluster."""

    remote = True
    has_tickets = True
    serves_queue = True
    has_places = True
    contact_timeout = leases.TTL
    min_claim_lease = leases.MIN_TTL
    """Seconds that the lease of a single claim lasts at least."""

    def __init__(self, config: EtcdConfig, machine: Machine, history: History | None = None) -> None:
        self.config = config
        self.history = history
        self._machine = machine
        self._keyspace = Keyspace(config.prefix)
        self._connections: dict[int, _Connection] = {}
        self._pages = Pages(self._ask_range)

    def read(self, scoped: ScopedKey) -> Found:
        return self.read_all([scoped])[0]

    def read_all(self, keys: Sequence[ScopedKey]) -> list[Found]:
        # With each claim its trace, which counts where the claim is gone.
        claims = list(map(self._keyspace.claim_key, keys))
        ranges = [(key, trace_key(key) + b"\0") for key in claims]
        with self._store_errors():
            stored = self._connection().transactions.read_ranges(ranges, deadline_in(CALL_TIMEOUT))
        return [self._parse(stored.get(key)) or self._parse_trace(stored.get(trace_key(key))) for key in claims]

    def fingerprint(self, scoped: ScopedKey) -> None:
        return None  # It would take a request, as a reading does.

    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swap:
        changes = (Change(scoped, old, new),)
        return self.swap_all(changes, lock_timeout=lock_timeout, gives_way=gives_way, blocks=blocks).only

    def swap_all(
        self,
        changes: Sequence[Change],
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swaps:
        check_changes(changes)
        # One deadline for all requests that it takes, including the revocation of unused leases.
        swap = partial(self._swap_all, changes, unqueued=gives_way is not None, blocks=blocks)
        with self._store_errors(changing=True):
            return call_before(deadline_in(CALL_TIMEOUT), swap)

    def overlapping(self, scoped: ScopedKey) -> Iterator[Claim | Unreadable]:
        with self._store_errors():
            transactions, deadline = self._connection().transactions, deadline_in(CALL_TIMEOUT)
            yield from overlapping([scoped], transactions, self._keyspace, self.read_all, deadline)

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        if isinstance(found, Claim):
            return self.swap_all([Change(found.scoped, found, None, found_dead=True)], lock_timeout=lock_timeout).won
        (revision,) = found.fingerprint
        assert isinstance(revision, int)
        with self._store_errors():
            txn = Txn((KeyChange(encode_key(found.where), revision, None),))
            return self._connection().transactions.commit(txn, deadline_in(CALL_TIMEOUT)).revision is not None

    def secret(self, *, lock_timeout: float = LOCK_TIMEOUT) -> bytes:
        fresh = secrets.token_bytes(SECRET_BYTES)
        request = messages.create_request(self._keyspace.handle_secret, fresh)
        with self._store_errors():
            # Safe to repeat: a second attempt finds what the first one put.
            response = self._connection().gateway.call("/kv/txn", request, deadline_in(CALL_TIMEOUT))
        if response.get("succeeded"):
            return fresh
        (kv,) = messages.failed_compare(response)
        if kv is None or len(kv.value) != SECRET_BYTES:
            damaged = "the secret of the session handles is damaged (delete it: all handles given so far are void then)"
            raise StoreUnavailableError(f"{self.config}/secrets/handles", OSError(errno.EIO, damaged))
        return kv.value

    def scan(self, namespace: str | None = None, after: str = "", since: float = inf) -> Iterator[Claim | Unreadable]:
        prefix = self._keyspace.namespace_prefix(namespace)
        start, end = max(prefix, self._keyspace.first_key_after(after)) if after else prefix, prefix_range_end(prefix)
        # The trace of a claim comes right after it, and counts only where the claim is gone.
        last = start[:-1] if after else b""
        for page in self._pages.read(start, end):
            for kv in page:
                if not is_trace_key(kv.key):
                    last = kv.key
                    yield messages.parse_claim(kv, self._keyspace)
                elif kv.key != trace_key(last) and (trace := self._parse_trace(kv)) is not None:
                    yield trace

    def _ask_range(self, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        connection = self._connection()
        with self._store_errors():
            response = connection.gateway.call("/kv/range", request, deadline)
        connection.transactions.note_revision(response)
        return response

    def names(self, namespace: str, limit: int) -> tuple[str, ...]:
        return ()  # It would take another request, longer than the grant itself.

    def watch(self, target: ScopedKey | str | None, notify: Callable[[], None]) -> AbstractContextManager[bool]:
        watcher = self._connection().watcher
        if isinstance(target, ScopedKey):
            key = self._keyspace.claim_key(target)
            return watcher.subscribe(KeyRange(key, key + b"\0"), notify)
        prefix = self._keyspace.namespace_prefix(target)
        return watcher.subscribe(KeyRange(prefix, prefix_range_end(prefix)), notify)

    def tickets(self, target: ScopedKey | str | None) -> tuple[Ticket, ...]:
        with self._store_errors():
            return self._connection().tickets.read(target, deadline_in(CALL_TIMEOUT))

    def change_tickets(
        self, target: ScopedKey | str, change: TicketChange, *, lock_timeout: float = LOCK_TIMEOUT
    ) -> tuple[Ticket, ...]:
        with self._store_errors():
            return self._connection().tickets.change(target, change, deadline_in(CALL_TIMEOUT))

    def alarm(self, ticket: Ticket, notify: Callable[[], None]) -> AbstractContextManager[Alarm]:
        return self._connection().tickets.alarm(ticket, notify)

    def wake(self, ticket: Ticket) -> bool:
        return False  # Its alarm has noticed the change by itself.

    def position(self, found: Claim | Unreadable) -> str:
        key = self._keyspace.claim_key(found.scoped) if isinstance(found, Claim) else encode_key(found.where)
        return self._keyspace.position(key)

    def close(self, *, within: float) -> None:
        connection = self._connections.pop(os.getpid(), None)
        if connection is None:
            return
        connection.keepalive.stop()
        deadline = deadline_in(within)
        # The traces first, lest a waiter takes a claim that is released here for that of a dead process.
        with suppress(GatewayError):
            connection.traces.revoke(min(deadline, deadline_in(within / 2)))
        # Without an answer the lease ends by itself, as nobody renews it any more.
        with suppress(GatewayError):
            connection.lease.revoke(deadline)

    def is_trusted(self, claim: Claim) -> bool:
        """Return whether *claim*, which this process was granted, is certain to be in force, without asking the cluster.

        By our own clock alone: it has not expired, and the last answered renewal of its lease is recent enough.
        """
        if claim.leased is None or expiry.has_passed(claim.expires, self._machine.now()):
            return False
        connection = self._connection()
        if not self._ends_with_us(claim.holder, connection):
            return True  # It has a lease of its own, which outlasts the claim.
        lease = connection.lease.current
        return lease is not None and lease.id == claim.leased.lease and connection.lease.is_trusted(lease)

    def _swap_all(self, changes: Sequence[Change], *, unqueued: bool = False, blocks: Blocks | None = None) -> Swaps:
        connection, deadline = self._connection(), deadline_in(CALL_TIMEOUT)
        planned: list[Planned] = []
        ends_with_us = partial(self._ends_with_us, connection=connection)
        for change in changes:
            old = change.old
            if old is not None and old.leased is None:
                # The caller made this record itself, so read the revision to compare with.
                found = self.read(change.scoped)
                if found != old or not isinstance(found, Claim):
                    return Swaps(False, self._found_now(changes))
                old = found
            planned.append(plan(change._replace(old=old), self._keyspace, ends_with_us, connection.keepalive.will_undo))
        is_grant = any(each.is_grant for each in planned)
        waited_for = [each.change.scoped.base for each in planned if unqueued and each.new is not None]
        empty = tuple(dict.fromkeys(map(self._keyspace.tickets_prefix, waited_for)))
        fresh_trace_leases = False
        while True:
            overlaps, overlap = None, None
            if blocks is not None:
                overlaps, overlap = judge_overlaps(
                    planned, blocks, connection.transactions, self._keyspace, self.read_all, deadline
                )
            if overlap is not None:
                return Swaps(False, tuple(each.change.old for each in planned), overlap=overlap)
            process_lease = None
            if any(each.ends_with_process for each in planned):
                process_lease = connection.lease.get_or_grant(deadline)
                # For a reservation no expiry is scheduled, which would start it, too.
                connection.keepalive.start()
            if any(each.needs_lease_of_its_own and each.change.old is None for each in planned):
                # Read first: granting a lease is a write, which each attempt of a waiting session would make in vain.
                stored = connection.transactions.get_all([each.key for each in planned], deadline)
                if any(map(has_changed, planned, stored)):
                    return Swaps(False, tuple(map(self._found, planned, stored)))
            own_leases = self._grant_claim_leases(planned, connection, deadline)
            key_changes = tuple(
                key_change(each, process_lease, own_leases, connection.traces, deadline) for each in planned
            )
            fence = process_lease.fence if process_lease and is_grant else None
            txn = Txn(key_changes, fence, empty, overlaps)
            # Before the commit: with an unknown outcome the claims may be there, and must end in time all the same.
            expiries = [
                (each.key, each.new.expires.ticks)
                for each in planned
                if each.ends_with_process and each.new is not None and each.new.mode is not Mode.RESERVED
            ]
            for key, ticks in expiries:
                connection.keepalive.schedule_expiry(key, ticks)
            try:
                outcome = connection.transactions.commit(txn, deadline, process_lease)
            except RefusedError as error:
                if error.code != GrpcStatus.NOT_FOUND:
                    raise
                # A lease has ended since; try again with a new one.
                for key, ticks in expiries:
                    connection.keepalive.cancel_expiry(key, ticks)
                has_longer = any(change.trace_lease for change in key_changes) or any(
                    each.changes_head for each in planned
                )
                if has_longer and not fresh_trace_leases:
                    # Perhaps only that of a trace or a head, and no claim is lost.
                    connection.traces.forget()
                    fresh_trace_leases = True
                elif process_lease:
                    connection.lease.mark_lost(process_lease)
                continue
            if outcome.revision is not None:
                self._cancel_expiries(planned, connection)
                if process_lease and not connection.transactions.confirm_lease(process_lease, txn, deadline):
                    # This process was paused for so long that its lease, and its claims with it, have ended meanwhile.
                    return Swaps(False, self._found_now(changes))
                return self._won_swaps(planned, txn, outcome, outcome.revision)
            for key, ticks in expiries:
                connection.keepalive.cancel_expiry(key, ticks)
            for lease_id in set(own_leases.values()):
                self._revoke_unused(lease_id, connection)
            if not txn.expects(outcome.found):
                return self._lost_swaps(planned, outcome, connection)
            if outcome.overlapped:
                continue
            if outcome.queued:
                return Swaps(False, self._found_now(changes), queued=True)
            if process_lease is None or fence is None:
                return self._lost_swaps(planned, outcome, connection)
            # The fence made it fail, not the keys: our lease has ended, or another thread moved the fence.
            if outcome.fence is None:
                connection.lease.mark_lost(process_lease)
            else:
                connection.lease.note_fence(process_lease, outcome.fence.mod_revision)

    def _found_now(self, changes: Sequence[Change]) -> tuple[Found, ...]:
        return tuple(self.read_all([change.scoped for change in changes]))

    def _won_swaps(self, planned: Sequence[Planned], txn: Txn, outcome: TxnOutcome, revision: int) -> Swaps:
        found = tuple(
            each.new
            and each.new._replace(
                generation=each.new.generation or revision,
                leased=Leased(change.lease, revision, value=change.value or b""),
            )
            for each, change in zip(planned, txn.changes, strict=True)
        )
        replaced = zip(planned, outcome.traces, strict=True) if outcome.traces else ()
        traces = tuple(self._parse_trace(kv) if each.change.old is None else None for each, kv in replaced)
        if self.history is not None:
            self.history.prepare()
            made = [each.change._replace(new=new) for each, new in zip(planned, found, strict=True)]
            self.history.changed(made, traces, None if outcome.inferred else revision)
        return Swaps(True, found, traces)

    def _lost_swaps(self, planned: Sequence[Planned], outcome: TxnOutcome, connection: _Connection) -> Swaps:
        """Return the result of a transaction that was not found to be applied."""
        found = tuple(map(self._found, planned, outcome.found))
        # All of them: that one is gone shows nothing where the others are as they were.  A head shows nothing at all.
        claims = [(each, one) for each, one in zip(planned, found, strict=True) if not each.changes_head]
        if outcome.unknown and all(self._we_ended(each, one) for each, one in claims):
            self._cancel_expiries(planned, connection)
            if self.history is not None:
                self.history.changed([each.change for each in planned])
            return Swaps(True, (None,) * len(planned))
        return Swaps(False, found)

    def _we_ended(self, planned: Planned, found: Found) -> bool:
        """Return whether it was our own release, of unknown outcome, that ended a claim in whose place *found* is now.

        The claim had neither expired nor lost its lease, so nobody else could end it but by force, which leaves a marker.
        """
        old, new = planned.change.old, planned.new
        if old is None or is_trace_key(planned.key) or not (new is None or new.ended is not None):
            return False
        if found is None and new is None:
            return True
        if not isinstance(found, Claim) or not self.is_trusted(old):
            return False
        if found.generation == old.generation:
            # A parallel call renewed it instead.  Reported as released, it would stay held until that renewal expires.
            return False
        return found.ended is None or found.ended.outcome is not Outcome.REVOKED

    def _cancel_expiries(self, planned: Sequence[Planned], connection: _Connection) -> None:
        """Cancel the expiries of what *planned* has ended or replaced."""
        for each in planned:
            if each.change.old is not None:
                connection.keepalive.cancel_expiry(each.key, each.change.old.expires.ticks)

    def _grant_claim_leases(
        self, planned: Sequence[Planned], connection: _Connection, deadline: float
    ) -> dict[bytes, int]:
        """Grant leases for what does not end with this process, one for all that end together; return them by key."""
        kinds = lease_kinds(planned, self._machine.now(), self.min_claim_lease)
        granted = {
            kind: leases.grant_lease(connection.gateway, kind.ttl, deadline) for kind in dict.fromkeys(kinds.values())
        }
        return {key: granted[kind] for key, kind in kinds.items()}

    def _grant_marker_lease(self, gateway: Gateway, marker: Claim, deadline: float) -> int:
        """Grant the lease of *marker*; return 0 if its time is up."""
        now = self._machine.now()
        if expiry.has_passed(marker.expires, now):
            return 0
        return leases.grant_lease(gateway, claim_lease_ttl(marker, now, self.min_claim_lease), deadline)

    def _revoke_unused(self, lease_id: int, connection: _Connection) -> None:
        # Without an answer it ends by itself, with nothing attached to it.
        with suppress(GatewayError):
            leases.revoke_lease(connection.gateway, lease_id, deadline_in(CALL_TIMEOUT))

    def _ends_with_us(self, holder: Holder, connection: _Connection) -> bool:
        """Return whether the session of *holder* ends when this process does."""
        return holder.pid == connection.pid and holder.proof == connection.proof and connection.proof.boot is not None

    def _connection(self) -> _Connection:
        return self._connections.get(pid := os.getpid()) or self._connect(pid)

    def _connect(self, pid: int) -> _Connection:
        # Drop those of our ancestors: a later descendant may get the same PID again.
        for other in [other for other in list(self._connections) if other != pid]:
            self._connections.pop(other, None)
        gateway = Gateway(self.config)
        lease = ProcessLease(gateway, self._keyspace, self._ticks, f"{self._machine.host()}:{pid}")
        transactions = Transactions(
            gateway, lease, lambda grant: keepalive.schedule_undo(grant), partial(self._grant_marker_lease, gateway)
        )
        keepalive = LeaseKeepAlive(lease, self._ticks, self._expire, transactions.undo_grant)
        watcher = Watcher(gateway, lambda: transactions.latest_revision, transactions.reset_revision)
        traces = TraceLeases(gateway, self._ticks)
        tickets = Tickets(gateway, self._keyspace, transactions, lease, keepalive, watcher)
        connection = _Connection(
            self._machine.pid(),
            self._machine.proof(),
            gateway,
            lease,
            transactions,
            keepalive,
            traces,
            watcher,
            tickets,
        )
        # `setdefault`, so that threads that come here at once end up with one lease; a lock could be held by another
        # thread at the moment of a fork, and stay locked in the child.
        return self._connections.setdefault(pid, connection)

    def _ticks(self) -> float:
        return self._machine.now().ticks

    def _expire(self, key: bytes) -> None:
        """Remove the claim at *key*, or put its trace there, if it is attached to our lease and has expired."""
        connection, deadline = self._connection(), deadline_in(CALL_TIMEOUT)
        kv, lease = connection.transactions.get(key, deadline), connection.lease.current
        if kv is None or lease is None or kv.lease != lease.id:
            return
        found = messages.parse_claim(kv, self._keyspace)
        now = self._machine.now()
        if isinstance(found, Claim) and found.mode is not Mode.RESERVED and expiry.is_expired(found, now):
            trace = expiry.trace_of(found, ClaimState.EXPIRED, now)
            self._swap_all([Change(found.scoped, found, trace if isinstance(trace, Claim) else None, found_dead=True)])

    def _found(self, planned: Planned, kv: KeyValue | None) -> Found:
        """Return what *kv*, found at the key of a change, says is stored for its claim."""
        return self.read(planned.change.scoped) if is_trace_key(planned.key) else self._parse(kv)

    def _parse(self, kv: KeyValue | None) -> Found:
        return None if kv is None else messages.parse_claim(kv, self._keyspace)

    def _parse_trace(self, kv: KeyValue | None) -> Claim | None:
        return parse_trace(kv, self._keyspace, self._machine.now())

    @contextmanager
    def _store_errors(self, *, changing: bool = False) -> Iterator[None]:
        try:
            yield
        except NoAnswerError as error:
            # Without a problem etcd did answer, but time went by with changes that came to nothing.
            problem = f"no endpoint of etcd answered in time: {error}" if error.problems else _TOO_SLOW
            no_answer = OSError(errno.ETIMEDOUT, problem)
            raise StoreUnavailableError(str(self.config), no_answer, changing and error.outcome_unknown) from error
        except RefusedError as error:
            raise StoreUnavailableError(str(self.config), OSError(errno.EPROTO, f"etcd refuses: {error}")) from error
