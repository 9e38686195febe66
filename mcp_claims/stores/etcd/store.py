"""The `Store` on etcd: one etcd key per claim, one transaction per change."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import inf

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry, keys
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
    GivesWay,
    Swap,
    TicketChange,
    call_before,
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
from mcp_claims.stores.etcd.lease import Fence, Lease, ProcessLease
from mcp_claims.stores.etcd.messages import KeyValue
from mcp_claims.stores.etcd.tickets import Alarm, Tickets
from mcp_claims.stores.etcd.traces import TraceLeases, parse_trace
from mcp_claims.stores.etcd.txn import Transactions, Txn, TxnOutcome
from mcp_claims.stores.etcd.watch import KeyRange, Watcher

_PAGE_SIZE = 500

_MAX_RANGES = 100
"""Ranges that one transaction reads: etcd takes 128 operations."""

_LAPSED_FOR = 600.0
"""Seconds for which a reservation stays stored after its time: longer than the ticket of a tool counts."""


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
    min_claim_lease = leases.MIN_TTL
    """Seconds that the lease of a single claim lasts at least."""

    def __init__(self, config: EtcdConfig, machine: Machine) -> None:
        self.config = config
        self._machine = machine
        self._keyspace = Keyspace(config.prefix)
        self._connections: dict[int, _Connection] = {}

    def read(self, scoped: ScopedKey) -> Found:
        connection, key = self._connection(), self._keyspace.claim_key(scoped)
        request = messages.range_request(key, trace_key(key) + b"\0")
        with self._store_errors():
            response = connection.gateway.call("/kv/range", request, deadline_in(CALL_TIMEOUT))
        connection.transactions.note_revision(response)
        stored = {kv.key: kv for kv in messages.key_values(response)}
        return self._parse(stored.get(key)) or self._parse_trace(stored.get(trace_key(key)))

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
        # One deadline for all requests that it takes, including the revocation of an unused lease.
        swap = partial(self._swap, scoped, old, new, unqueued=gives_way is not None, blocks=blocks)
        with self._store_errors():
            return call_before(deadline_in(CALL_TIMEOUT), swap)

    def overlapping(self, scoped: ScopedKey) -> Iterator[Claim | Unreadable]:
        with self._store_errors():
            yield from self._overlapping(scoped, deadline_in(CALL_TIMEOUT))

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = LOCK_TIMEOUT) -> bool:
        if isinstance(found, Claim):
            return self.swap(found.scoped, found, None, lock_timeout=lock_timeout).won
        (revision,) = found.fingerprint
        assert isinstance(revision, int)
        with self._store_errors():
            txn = Txn(encode_key(found.where), revision, None)
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
        deadline = deadline_in(CALL_TIMEOUT)
        # The trace of a claim comes right after it, and counts only where the claim is gone.
        last = start[:-1] if after else b""
        while start < end:
            connection = self._connection()
            with self._store_errors():
                request = messages.range_request(start, end, _PAGE_SIZE)
                response = connection.gateway.call("/kv/range", request, deadline)
            connection.transactions.note_revision(response)
            page = messages.key_values(response)
            for kv in page:
                if not is_trace_key(kv.key):
                    last = kv.key
                    yield messages.parse_claim(kv, self._keyspace)
                elif kv.key != trace_key(last) and (trace := self._parse_trace(kv)) is not None:
                    yield trace
            if not response.get("more"):
                return
            # Each page has its own deadline: a long list is no reason to fail while the cluster answers.
            start, deadline = page[-1].key + b"\0", time.monotonic() + CALL_TIMEOUT

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

    def _overlapping(self, scoped: ScopedKey, deadline: float) -> list[Claim | Unreadable]:
        """Return the claims on other files that overlap with *scoped*, in one question unless it lies very deep."""
        keyspace, own = self._keyspace, self._keyspace.claim_key(scoped)
        above = [keyspace.claim_key(scoped._replace(key=key)) for key in keys.above(scoped.key)]
        below = keyspace.claim_key(scoped._replace(key=keys.literal_beginning(scoped.key) + "/"))
        patterns = keyspace.patterns_prefix(scoped.namespace)
        ranges = [(key, key + b"\0") for key in above] + [(each, prefix_range_end(each)) for each in (below, patterns)]
        found: dict[bytes, Claim | Unreadable] = {}
        for at in range(0, len(ranges), _MAX_RANGES):
            request = messages.read_request(ranges[at : at + _MAX_RANGES])
            stored = messages.read_ranges(self._connection().gateway.call("/kv/txn", request, deadline))
            found |= {kv.key: messages.parse_claim(kv, keyspace) for kv in stored if not is_trace_key(kv.key)}
        found.pop(own, None)
        return [each for each in found.values() if isinstance(each, Unreadable) or keys.conflict(each.scoped, scoped)]

    def _judge_overlaps(self, new: Claim, blocks: Blocks, deadline: float) -> tuple[Fence, Claim | Unreadable | None]:
        """Return the fence of the grants of files, and the claim on a file that overlaps with *new* if one is in the way."""
        # The fence first: what is granted after it was read makes the transaction fail.
        kv = self._connection().transactions.get(self._keyspace.overlaps, deadline)
        overlap = next(filter(blocks, self._overlapping(new.scoped, deadline)), None)
        return Fence(self._keyspace.overlaps, kv.mod_revision if kv else 0), overlap

    def _swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        unqueued: bool = False,
        blocks: Blocks | None = None,
    ) -> Swap:
        if old is not None and old.leased is None:
            # The caller made this record itself, so read the revision to compare with.
            found = self.read(scoped)
            if found != old or not isinstance(found, Claim):
                return Swap(False, found)
            old = found
        key, deadline = self._keyspace.claim_key(scoped), deadline_in(CALL_TIMEOUT)
        if new is None and old is not None and old.leased is not None and old.leased.is_trace:
            txn = Txn(trace_key(key), old.leased.revision, None)
            return Swap(self._connection().transactions.commit(txn, deadline).revision is not None, None)
        if new is None:
            return self._remove(key, old, deadline)
        return self._put(old, new, deadline, unqueued=unqueued, blocks=blocks)

    def _remove(self, key: bytes, old: Claim | None, deadline: float) -> Swap:
        connection = self._connection()
        outcome = connection.transactions.commit(Txn(key, _revision(old), None), deadline)
        if outcome.revision is None:
            return self._lost_swap(key, old, None, outcome, connection)
        self._cancel_expiry(key, old, connection)
        return Swap(True, None)

    def _put(self, old: Claim | None, new: Claim, deadline: float, *, unqueued: bool, blocks: Blocks | None) -> Swap:
        connection, key = self._connection(), self._keyspace.claim_key(new.scoped)
        # Whoever takes its reservation is granted the claim only then, though the generation is known before.
        takes = new.mode is not Mode.RESERVED and old is not None and old.mode is Mode.RESERVED and new.ended is None
        is_grant = takes or not new.generation
        empty = self._keyspace.tickets_prefix(new.scoped) if unqueued else None
        # A session that is granted the key waits for it no longer.
        ends_wait = is_grant and new.mode is not Mode.RESERVED
        ticket = self._keyspace.ticket_key(new.scoped, new.holder.name) if ends_wait else None
        leaves_trace = new.replaced is None and expiry.trace_of(new, ClaimState.EXPIRED, new.expires) not in (None, new)
        fresh_trace_lease = False
        overlaps = None
        while True:
            # What is granted already excludes the others.
            if blocks is not None and is_grant:
                overlaps, overlap = self._judge_overlaps(new, blocks, deadline)
                if overlap is not None:
                    return Swap(False, old, overlap=overlap)
            process_lease = self._process_lease(new, connection, deadline)
            if process_lease is None and old is None:
                # Read first: granting a lease is a write, which each attempt of a waiting session would make in vain.
                kv = connection.transactions.get(key, deadline)
                if kv is not None:
                    return Swap(False, self._parse(kv))
            lease_id = process_lease.id if process_lease else self._grant_claim_lease(new, connection, deadline)
            fence = process_lease.fence if process_lease and is_grant else None
            traces = connection.traces
            trace_lease = traces.get_or_grant(deadline, ends_with_process=bool(process_lease)) if leaves_trace else 0
            txn = Txn.put(
                new,
                key,
                _revision(old),
                lease_id,
                fence,
                trace_lease,
                is_grant=is_grant,
                empty=empty,
                ticket=ticket,
                overlaps=overlaps,
            )
            if process_lease and new.mode is not Mode.RESERVED:
                # Before the commit: with an unknown outcome the claim may be there, and must end in time all the same.
                connection.keepalive.schedule_expiry(key, new.expires.ticks)
            try:
                outcome = connection.transactions.commit(txn, deadline, process_lease)
            except RefusedError as error:
                if error.code != GrpcStatus.NOT_FOUND:
                    raise
                # A lease has ended since; try again with a new one.
                if process_lease:
                    connection.keepalive.cancel_expiry(key, new.expires.ticks)
                if trace_lease and not fresh_trace_lease:
                    # Perhaps only that of the trace, and no claim is lost.
                    connection.traces.forget()
                    fresh_trace_lease = True
                elif process_lease:
                    connection.lease.mark_lost(process_lease)
                continue
            if outcome.revision is None:
                if process_lease:
                    connection.keepalive.cancel_expiry(key, new.expires.ticks)
                else:
                    self._revoke_unused(lease_id, connection)
                unchanged = (outcome.found.mod_revision if outcome.found else 0) == _revision(old)
                if unchanged and outcome.overlapped:
                    continue
                if unchanged and outcome.queued:
                    return Swap(False, self._parse(outcome.found) or self.read(new.scoped), queued=True)
                if process_lease and fence is not None and unchanged:
                    # The fence made it fail, not the key: our lease has ended, or another thread moved the fence.
                    if outcome.fence is None:
                        connection.lease.mark_lost(process_lease)
                    else:
                        connection.lease.note_fence(process_lease, outcome.fence.mod_revision)
                    continue
                return self._lost_swap(key, old, new, outcome, connection)
            self._cancel_expiry(key, old, connection)
            if process_lease and not connection.transactions.confirm_lease(process_lease, txn, deadline):
                # This process was paused for so long that its lease, and the claim with it, has ended meanwhile.
                return Swap(False, self._parse(connection.transactions.get(key, deadline)))
            leased = Leased(lease_id, outcome.revision)
            trace = self._parse_trace(outcome.trace) if old is None else None
            return Swap(True, new._replace(generation=new.generation or outcome.revision, leased=leased), trace)

    def _lost_swap(
        self, key: bytes, old: Claim | None, new: Claim | None, outcome: TxnOutcome, connection: _Connection
    ) -> Swap:
        """Return the result of a swap that was not found to be applied."""
        found = self._parse(outcome.found)
        if outcome.unknown and old is not None and self._we_ended(old, new, found):
            self._cancel_expiry(key, old, connection)
            return Swap(True, None)
        return Swap(False, found)

    def _we_ended(self, old: Claim, new: Claim | None, found: Found) -> bool:
        """Return whether it was our own release, of unknown outcome, that ended *old*, where *found* is stored now.

        *old* had neither expired nor lost its lease, so nobody else could end it but by force, which leaves a marker.
        """
        is_release = new is None or new.ended is not None
        if not is_release or not isinstance(found, Claim) or not self.is_trusted(old):
            return False
        if found.generation == old.generation:
            # A parallel call renewed it instead.  Reported as released, it would stay held until that renewal expires.
            return False
        return found.ended is None or found.ended.outcome is not Outcome.REVOKED

    def _cancel_expiry(self, key: bytes, old: Claim | None, connection: _Connection) -> None:
        if old is not None:
            connection.keepalive.cancel_expiry(key, old.expires.ticks)

    def _process_lease(self, new: Claim, connection: _Connection, deadline: float) -> Lease | None:
        """Return the lease of this process if *new* belongs under it: a claim, not a marker, that ends with the process.

        A reservation that keeps a marker does not: with the process the marker would end too.
        """
        if new.ended is not None or new.replaced is not None or not self._ends_with_us(new.holder, connection):
            return None
        return connection.lease.get_or_grant(deadline)

    def _grant_claim_lease(self, new: Claim, connection: _Connection, deadline: float) -> int:
        """Grant a lease for *new* alone: a marker, or what outlives this process."""
        now = self._machine.now()
        left = expiry.remaining(new.expires, now).total_seconds()
        if new.mode is Mode.RESERVED:
            # It must still be there when somebody comes after its time, or nobody would know that it has lapsed, and
            # reserve the key for the same session again.
            kept = expiry.remaining(new.replaced.expires, now).total_seconds() if new.replaced is not None else 0.0
            left = max(left + _LAPSED_FOR, kept)
        return leases.grant_lease(connection.gateway, leases.claim_lease_ttl(left, self.min_claim_lease), deadline)

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
        transactions = Transactions(gateway, lease, lambda grant: keepalive.schedule_undo(grant))
        keepalive = LeaseKeepAlive(lease, self._ticks, self._expire, transactions.undo_grant)
        watcher = Watcher(gateway, lambda: transactions.latest_revision, transactions.reset_revision)
        traces = TraceLeases(gateway, self._ticks)
        tickets = Tickets(gateway, self._keyspace, lease, keepalive, watcher)
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
            self._swap(found.scoped, found, trace if isinstance(trace, Claim) else None)

    def _parse(self, kv: KeyValue | None) -> Found:
        return None if kv is None else messages.parse_claim(kv, self._keyspace)

    def _parse_trace(self, kv: KeyValue | None) -> Claim | None:
        return parse_trace(kv, self._keyspace, self._machine.now())

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except NoAnswerError as error:
            no_answer = OSError(errno.ETIMEDOUT, f"no endpoint of etcd answered in time: {error}")
            raise StoreUnavailableError(str(self.config), no_answer) from error
        except RefusedError as error:
            raise StoreUnavailableError(str(self.config), OSError(errno.EPROTO, f"etcd refuses: {error}")) from error


def _revision(old: Claim | None) -> int:
    """Return the revision that the key must be at for *old* to be what is stored there, 0 for nothing."""
    return 0 if old is None or old.leased is None or old.leased.is_trace else old.leased.revision
