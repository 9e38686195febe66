"""The tickets of sessions that wait: each is a key of etcd, and the revision that created it is its number.

As in etcd's own lock recipe, a waiter watches one key: the ticket right before its own, or the claim if it is the first.  So
a release, a death and the end of a lease each wake one waiter, and no session has to.  A ticket is attached to the lease of the
process that waits, and ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mcp_claims.model.codec import RecordError, tickets_from_json, tickets_to_json
from mcp_claims.model.records import Claim, ScopedKey, Ticket
from mcp_claims.model.tickets import wants
from mcp_claims.stores.base import MAX_SWAPS, TicketChange
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import Gateway, GrpcStatus, RefusedError
from mcp_claims.stores.etcd.keepalive import LeaseKeepAlive
from mcp_claims.stores.etcd.keys import Keyspace, prefix_range_end
from mcp_claims.stores.etcd.lease import Lease, ProcessLease
from mcp_claims.stores.etcd.messages import KeyValue
from mcp_claims.stores.etcd.txn import MAX_OPERATIONS, Transactions
from mcp_claims.stores.etcd.watch import KeyRange, Subscriber, Watcher

_IDLE_TIMEOUT = 60.0
"""Seconds of silence after which the stream is replaced; waiters also try without a notice."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """A ticket, and what was seen at its keys of etcd.

    There is one for each key that it waits for, all made by one transaction.  But a grant removes those of its own keys only,
    and whoever reads the tickets for one key sees one.
    """

    ticket: Ticket
    seen: dict[bytes, KeyValue]

    def keys(self, keyspace: Keyspace) -> list[bytes]:
        """Return the keys of etcd that it was made with."""
        session = next(iter(self.seen)).rpartition(b"/")[2]
        return [keyspace.ticket_key_of(scoped, session) for scoped in self.ticket.keys]

    @property
    def lease(self) -> int:
        """The lease of the process that waits."""
        return next(iter(self.seen.values())).lease

    def revisions(self) -> dict[bytes, int]:
        """Return the revision of each key that was seen."""
        return {key: kv.mod_revision for key, kv in self.seen.items()}


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
            keys = KeyRange(key, key + b"\0")
        elif blocking.leased is not None:
            keys, revision = KeyRange(*self._keyspace.range_of(blocking.scoped)), blocking.leased.revision
        else:
            return False
        return self._subscriber.keys == keys or self._watcher.move(self._subscriber, keys, revision + 1)


@dataclass(frozen=True, slots=True)
class Tickets:
    """The tickets that this process reads and changes.  All methods with a deadline raise `GatewayError`."""

    gateway: Gateway
    keyspace: Keyspace
    transactions: Transactions
    lease: ProcessLease
    keepalive: LeaseKeepAlive
    watcher: Watcher

    def read(self, target: ScopedKey | str | None, deadline: float) -> tuple[Ticket, ...]:
        """Return the tickets for a key, in a namespace, or all, in order."""
        return tuple(each.ticket for each in self._stored(self.keyspace.tickets_prefix(target), deadline).values())

    def change(self, target: ScopedKey | str, change: TicketChange, deadline: float) -> tuple[Ticket, ...]:
        """Replace the tickets of *target* by what *change* makes of them; return them."""
        prefix = self.keyspace.tickets_prefix(target)
        for _ in range(MAX_SWAPS):
            stored = self._stored(prefix, deadline)
            after = change(tuple(each.ticket for each in stored.values()))
            if replaced := self._at(self._new_keys(stored, after), prefix, stored, deadline):
                # Apart from what takes their place: a key that is put over keeps the revision of its creation, and
                # with that the number of the ticket before.
                self._commit(prefix, replaced, (), deadline)
                continue
            if (revision := self._commit(prefix, stored, after, deadline)) is not None:
                return tuple(sorted(each if each.number else each._replace(number=revision) for each in after))
            # Another session changed one of them between our read and our write, so somebody made progress.
        return ()

    @contextmanager
    def alarm(self, ticket: Ticket, notify: Callable[[], None]) -> Iterator[Alarm]:
        """Yield the alarm of the waiter that has *ticket*; it watches nothing before it is aimed."""
        subscriber = Subscriber(None, notify, None, _IDLE_TIMEOUT)
        with self.watcher.watching(subscriber):
            yield Alarm(self.watcher, self.keyspace, ticket, subscriber)

    def _stored(self, prefix: bytes, deadline: float) -> dict[int, _Stored]:
        """Return the tickets whose keys begin with *prefix*, by number, in order."""
        return _parse(self.transactions.read_ranges([(prefix, prefix_range_end(prefix))], deadline).values())

    def _commit(
        self, prefix: bytes, stored: dict[int, _Stored], after: tuple[Ticket, ...], deadline: float
    ) -> int | None:
        """Replace what is *stored* below *prefix* by *after*; return the revision of the change.

        `None` means that it was not made: one of them has changed, or the lease of this process has ended.  Only what differs
        is compared: that another session came or went meanwhile changes no decision about a place.
        """
        kept = {ticket.number for ticket in after}
        written = [
            (each, before) for each in after if (before := stored.get(each.number)) is None or before.ticket != each
        ]
        room = MAX_OPERATIONS - sum(len(ticket.keys) for ticket, _ in written)
        removed: list[_Stored] = []
        for number, gone in stored.items():
            # What does not fit is dropped by a later change.
            if number not in kept and len(gone.ticket.keys) <= room:
                removed.append(gone)
                room -= len(gone.ticket.keys)
        self._complete([*removed, *(before for _, before in written if before is not None)], prefix, deadline)
        expected: dict[bytes, int] = {}
        operations = []
        own: Lease | None = None
        for ticket, before in written:
            keys = dict.fromkeys(self._keys(ticket), 0) if before is None else before.revisions()
            if before is not None and ticket.lapsed:
                # Another session may note the lapse of a ticket, which stays under the lease of its own process.
                lease = before.lease
            else:
                own = own or self._process_lease(deadline)
                lease = own.id
            # A new ticket's number is the revision of this write, not known yet; each read takes it from etcd, not from the value.
            value = tickets_to_json([ticket._replace(number=ticket.number or 1)])
            expected |= keys
            operations += [messages.put_operation(key, value, lease) for key in keys]
        for gone in removed:
            expected |= gone.revisions()
            operations += map(messages.delete_operation, gone.seen)
        if not operations:
            return 0
        try:
            response = self.gateway.call("/kv/txn", messages.txn_request(expected, *operations), deadline)
        except RefusedError as error:
            if error.code != GrpcStatus.NOT_FOUND or own is None:
                raise
            # That one, and not the present one: another thread may have got a new lease since, and with it claims.
            self.lease.mark_lost(own)
            return None
        return messages.header_revision(response) if response.get("succeeded") else None

    def _keys(self, new: Ticket) -> list[bytes]:
        return [self.keyspace.ticket_key(scoped, new.holder.name) for scoped in new.keys]

    def _new_keys(self, stored: dict[int, _Stored], after: tuple[Ticket, ...]) -> list[bytes]:
        return [key for ticket in after if ticket.number not in stored for key in self._keys(ticket)]

    def _at(
        self, keys: Collection[bytes], prefix: bytes, stored: dict[int, _Stored], deadline: float
    ) -> dict[int, _Stored]:
        """Return the tickets that are at *keys*, among them those *stored* below *prefix*."""
        elsewhere = self.transactions.get_all([key for key in keys if not key.startswith(prefix)], deadline)
        found = _parse(kv for kv in elsewhere if kv is not None)
        return found | {number: each for number, each in stored.items() if not each.seen.keys().isdisjoint(keys)}

    def _complete(self, found: Iterable[_Stored], prefix: bytes, deadline: float) -> None:
        """Add to what was seen of each ticket *found* what is at its keys that do not begin with *prefix*."""
        owners = {key: each for each in found for key in each.keys(self.keyspace) if not key.startswith(prefix)}
        for kv in self.transactions.get_all(list(owners), deadline):
            if kv is not None and kv.create_revision == owners[kv.key].ticket.number:
                owners[kv.key].seen[kv.key] = kv

    def _process_lease(self, deadline: float) -> Lease:
        lease = self.lease.get_or_grant(deadline)
        self.keepalive.start()
        return lease


def _parse(found: Iterable[KeyValue]) -> dict[int, _Stored]:
    """Return the tickets of which *found* are keys, by number, in order."""
    stored: dict[int, _Stored] = {}
    for kv in sorted(found, key=lambda kv: kv.create_revision):
        try:
            (ticket,) = tickets_from_json(kv.value)
        except (RecordError, ValueError):
            continue  # What cannot be read has no place, and must not block the others.
        number = kv.create_revision
        stored.setdefault(number, _Stored(ticket._replace(number=number), {})).seen[kv.key] = kv
    return stored
