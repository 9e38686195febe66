"""What is in etcd behind a store's back."""

from __future__ import annotations

from mcp_claims.model.records import ScopedKey
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import Transport
from mcp_claims.stores.etcd.keys import Names
from mcp_claims.stores.etcd.store import EtcdStore


def write_raw(store: EtcdStore, scoped: ScopedKey, value: bytes, lease: int = 0) -> None:
    """Write *value* where the claim on *scoped* belongs."""
    key = Names(store.address.prefix).claim(scoped)
    Transport(store.address).ask("/kv/put", messages.put(key, value, lease), deadline_in(5))


def delete_raw(store: EtcdStore, scoped: ScopedKey) -> None:
    """Remove what is stored for *scoped*, as the end of its lease does."""
    key = Names(store.address.prefix).claim(scoped)
    Transport(store.address).ask("/kv/deleterange", messages.one(key), deadline_in(5))


def lease_of(store: EtcdStore, scoped: ScopedKey) -> int:
    """Return under which lease the claim on *scoped* is."""
    return _stored(store, scoped).lease


def read_raw(store: EtcdStore, scoped: ScopedKey) -> bytes:
    """Return what is stored for *scoped*, as it is."""
    return _stored(store, scoped).value


def _stored(store: EtcdStore, scoped: ScopedKey) -> messages.Stored:
    key = Names(store.address.prefix).claim(scoped)
    (stored,) = messages.stored_in(Transport(store.address).ask("/kv/range", messages.one(key), deadline_in(5)))
    return stored
