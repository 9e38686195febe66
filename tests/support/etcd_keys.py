"""Reads and changes what is in etcd behind a store's back."""

from __future__ import annotations

from mcp_claims.model.records import ScopedKey
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.keys import Keyspace, trace_key
from mcp_claims.stores.etcd.messages import KeyValue
from mcp_claims.stores.etcd.store import EtcdStore


def write_raw(store: EtcdStore, scoped: ScopedKey, value: bytes, lease: int = 0) -> None:
    """Put *value* where the claim on *scoped* belongs."""
    Gateway(store.config).call("/kv/put", messages.put_request(_key(store, scoped), value, lease), deadline_in(5))


def delete_raw(store: EtcdStore, scoped: ScopedKey) -> None:
    """Delete what is stored for *scoped*, as the end of its lease does, and its trace."""
    key = _key(store, scoped)
    request = messages.range_request(key, trace_key(key) + b"\0")
    del request["limit"]
    Gateway(store.config).call("/kv/deleterange", request, deadline_in(5))


def read_trace(store: EtcdStore, scoped: ScopedKey) -> KeyValue | None:
    """Return what is stored as the trace of the claim on *scoped*."""
    request = messages.get_request(trace_key(_key(store, scoped)))
    return next(iter(messages.key_values(Gateway(store.config).call("/kv/range", request, deadline_in(5)))), None)


def lease_of(store: EtcdStore, scoped: ScopedKey) -> int:
    """Return the id of the lease that the claim on *scoped* is attached to."""
    return _get(store, scoped).lease


def read_raw(store: EtcdStore, scoped: ScopedKey) -> bytes:
    """Return the bytes that are stored for *scoped*."""
    return _get(store, scoped).value


def _get(store: EtcdStore, scoped: ScopedKey) -> KeyValue:
    request = messages.get_request(_key(store, scoped))
    (found,) = messages.key_values(Gateway(store.config).call("/kv/range", request, deadline_in(5)))
    return found


def _key(store: EtcdStore, scoped: ScopedKey) -> bytes:
    return Keyspace(store.config.prefix).claim_key(scoped)
