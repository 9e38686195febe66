"""The tickets of sessions that wait: each is a key of etcd, and the revision that created it is its number.

As in etcd's own lock recipe, a waiter watches one key: the ticket right before its own, or the claim if it is the first.  So
a release, a death and the end of a lease each wake one waiter, and no session has to.  A ticket is attached to the lease of the
process that waits, and ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from mcp_claims.model.codec import RecordError, tickets_from_json, tickets_to_json
from mcp_claims.model.records import Claim, ScopedKey, Ticket
from mcp_claims.model.tickets import wants
from mcp_claims.stores.base import MAX_SWAPS, TicketChange
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import Gateway, GrpcStatus, RefusedError
from mcp_claims.stores.etcd.keepalive import LeaseKeepAlive
from mcp_claims.stores.etcd.keys import Keyspace, prefix_range_end
from mcp_claims.stores.etcd.lease import ProcessLease
from mcp_claims.stores.etcd.messages import KeyValue
from mcp_claims.stores.etcd.watch import KeyRange, Subscriber, Watcher

_MAX_REMOVALS = 64
"""Tickets of others that one change drops: etcd takes 128 operations in a transaction."""

_IDLE_TIMEOUT = 60.0
"""Seconds of silence after which the stream is replaced; waiters also try without a notice."""


class _Stored(NamedTuple):
    ticket: Ticket
    kv: KeyValue

    def keys(self, keyspace: Keyspace) -> list[bytes]:
        """Return the etcd keys of the ticket: one for each key that it waits for, all made and changed together."""
        session = self.kv.key.rpartition(b"/")[2]
        return [keyspace.ticket_key_of(scoped, session) for scoped in self.ticket.keys]


class Alarm:
    """Watches what is in the way of a waiter, from the revision that the waiter has read."""

    def __init__(self, watcher: Watcher, keyspace: Keyspace, ticket: Ticket, subscriber: Subscriber) -> None:
        self._watcher, self._keyspace = watcher, keyspace
        self._ticket, self._subscriber = ticket, subscriber

    def fileno(self) -> None:
        """Return nothing to wait for: the subscriber is notified."""

    def reset(self) -> None:
        """Do nothing: a notice is not repeated."""

    def aim(self, blocking: Claim | Ticket) -> bool:
        """Notify the waiter once *blocking* has changed since it was read; return whether that can be noticed."""
        if isinstance(blocking, Ticket):
            scoped = next(each for each in blocking.keys if wants(self._ticket, each))
            key, revision = self._keyspace.ticket_key(scoped, blocking.holder.name), blocking.number
        elif blocking.leased is not None:
            key, revision = self._keyspace.claim_key(blocking.scoped), blocking.leased.revision
        else:
            return False
        if self._subscriber.keys is None or self._subscriber.keys.start != key:
            self._watcher.move(self._subscriber, KeyRange(key, key + b"\0"), revision + 1)
        return True


@dataclass(frozen=True, slots=True)
class Tickets:
    """The tickets that this process reads and changes.  All methods with a deadline raise `GatewayError`."""

    gateway: Gateway
    keyspace: Keyspace
    lease: ProcessLease
    keepalive: LeaseKeepAlive
    watcher: Watcher

    def read(self, target: ScopedKey | str | None, deadline: float) -> tuple[Ticket, ...]:
        """Return the tickets for a key, in a namespace, or all, in order."""
        return tuple(each.ticket for each in self._stored(target, deadline))

    def change(self, target: ScopedKey | str, change: TicketChange, deadline: float) -> tuple[Ticket, ...]:
        """Replace the tickets of *target* by what *change* makes of them; return them."""
        for _ in range(MAX_SWAPS):
            stored = {each.ticket.number: each for each in self._stored(target, deadline)}
            after = change(tuple(each.ticket for each in stored.values()))
            try:
                revision = self._commit(stored, after, deadline)
            except RefusedError as error:
                if error.code != GrpcStatus.NOT_FOUND or (lease := self.lease.current) is None:
                    raise
                self.lease.mark_lost(lease)
                continue
            if revision is not None:
                return tuple(sorted(each if each.number else each._replace(number=revision) for each in after))
            # Another session changed one of them between our read and our write, so somebody made progress.
        return ()

    @contextmanager
    def alarm(self, ticket: Ticket, notify: Callable[[], None]) -> Iterator[Alarm]:
        """Yield the alarm of the waiter that has *ticket*; it watches nothing before it is aimed."""
        subscriber = Subscriber(None, notify, None, _IDLE_TIMEOUT)
        with self.watcher.watching(subscriber):
            yield Alarm(self.watcher, self.keyspace, ticket, subscriber)

    def _stored(self, target: ScopedKey | str | None, deadline: float) -> list[_Stored]:
        prefix = self.keyspace.tickets_prefix(target)
        request = messages.range_request(prefix, prefix_range_end(prefix))
        found: dict[int, _Stored] = {}
        for kv in messages.key_values(self.gateway.call("/kv/range", request, deadline)):
            try:
                (ticket,) = tickets_from_json(kv.value)
            except (RecordError, ValueError):
                continue  # What cannot be read has no place, and must not block the others.
            found[kv.create_revision] = _Stored(ticket._replace(number=kv.create_revision), kv)
        return [found[number] for number in sorted(found)]

    def _commit(self, stored: dict[int, _Stored], after: tuple[Ticket, ...], deadline: float) -> int | None:
        """Replace what is *stored* by *after*; return the revision of the change, `None` if it was not made.

        Only what differs is compared: that another session came or went meanwhile changes no decision about a place.
        """
        expected: dict[bytes, int] = {}
        operations = []
        for ticket in after:
            before = stored.pop(ticket.number, None)
            if before is not None and before.ticket == ticket:
                continue
            if before is None:
                keys = dict.fromkeys((self.keyspace.ticket_key(each, ticket.holder.name) for each in ticket.keys), 0)
            else:
                keys = dict.fromkeys(before.keys(self.keyspace), before.kv.mod_revision)
            # Another session may note the lapse of a ticket, which stays under the lease of its own process.
            lease = before.kv.lease if before is not None and ticket.lapsed else self._process_lease(deadline)
            # A new ticket's number is the revision of this write, not known yet; each read takes it from etcd, not from the value.
            value = tickets_to_json([ticket._replace(number=ticket.number or 1)])
            expected |= keys
            operations += [messages.put_operation(key, value, lease) for key in keys]
        for gone in list(stored.values())[:_MAX_REMOVALS]:
            keys = dict.fromkeys(gone.keys(self.keyspace), gone.kv.mod_revision)
            expected |= keys
            operations += [messages.delete_operation(key) for key in keys]
        if not operations:
            return 0
        response = self.gateway.call("/kv/txn", messages.txn_request(expected, *operations), deadline)
        return messages.header_revision(response) if response.get("succeeded") else None

    def _process_lease(self, deadline: float) -> int:
        lease = self.lease.get_or_grant(deadline)
        self.keepalive.start()
        return lease.id
