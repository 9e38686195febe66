"""etcd in memory: keys with their revisions, leases, and transactions, behind what its JSON gateway is asked."""

from __future__ import annotations

from base64 import b64decode, b64encode
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_claims.stores.etcd.gateway import GrpcStatus, RefusedError


@dataclass
class _Value:
    value: str
    created: int
    changed: int
    lease: int


@dataclass
class SimulatedEtcd:
    """Keys with their revisions, leases, and transactions, as etcd has them; *now* is the clock of its leader."""

    now: float = 0.0
    revision: int = 1
    keys: dict[bytes, _Value] = field(default_factory=dict)
    leases: dict[int, tuple[int, float]] = field(default_factory=dict)
    changed: Callable[[bytes], object] = lambda key: None
    """Called with each key that is put or deleted."""
    _order: list[bytes] = field(default_factory=list)
    _attached: dict[int, set[bytes]] = field(default_factory=dict)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and end the leases that have not been renewed."""
        self.now += seconds
        for lease in [lease for lease, (_, until) in self.leases.items() if until <= self.now]:
            self._end(lease)

    def call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Execute a request; return the response."""
        answer: dict[str, Any] = {}
        if path == "/lease/grant":
            lease, ttl = int(body["ID"]), int(body["TTL"])
            if lease in self.leases:
                raise RefusedError(GrpcStatus.FAILED_PRECONDITION, "etcdserver: lease already exists")
            self.leases[lease] = (ttl, self.now + ttl)
        elif path == "/lease/keepalive":
            ttl, _ = self.leases.get(int(body["ID"]), (0, 0.0))
            if ttl:
                self.leases[int(body["ID"])] = (ttl, self.now + ttl)
            return {"result": {"header": self._header(), "TTL": str(ttl)}}
        elif path == "/lease/revoke":
            if int(body["ID"]) not in self.leases:
                raise RefusedError(GrpcStatus.NOT_FOUND, "etcdserver: requested lease not found")
            self._end(int(body["ID"]))
        elif path == "/kv/range":
            answer = self._range(body)
        elif path == "/kv/put":
            answer = self._txn({"success": [{"request_put": body}]})
        elif path == "/kv/txn":
            answer = self._txn(body)
        else:
            raise AssertionError(f"the simulated etcd does not know {path}")
        return {"header": self._header(), **answer}

    def _header(self) -> dict[str, str]:
        return {"cluster_id": "1", "revision": str(self.revision)}

    def _end(self, lease: int) -> None:
        del self.leases[lease]
        attached = sorted(self._attached.pop(lease, set()))
        self.revision += bool(attached)
        for key in attached:
            self._delete(key)

    def _put(self, key: bytes, value: str, lease: int) -> None:
        created = self.revision
        if key in self.keys:
            created = self.keys[key].created
            self._delete(key, notify=False)
        insort(self._order, key)
        self.keys[key] = _Value(value, created, self.revision, lease)
        if lease:
            self._attached.setdefault(lease, set()).add(key)
        self.changed(key)

    def _delete(self, key: bytes, *, notify: bool = True) -> None:
        del self._order[bisect_left(self._order, key)]
        self._attached.get(self.keys.pop(key).lease, set()).discard(key)
        if notify:
            self.changed(key)

    def _in(self, request: Mapping[str, Any]) -> list[bytes]:
        start, end = b64decode(request["key"]), b64decode(request.get("range_end", ""))
        if not end:
            return [start] if start in self.keys else []
        return self._order[bisect_left(self._order, start) : bisect_left(self._order, end)]

    def _range(self, request: Mapping[str, Any]) -> dict[str, Any]:
        found, limit = self._in(request), int(request.get("limit", 0))
        shown = found[:limit] if limit else found
        return {"kvs": [self._shown(key) for key in shown], "more": len(shown) < len(found)}

    def _shown(self, key: bytes) -> dict[str, str]:
        each = self.keys[key]
        return {
            "key": b64encode(key).decode(),
            "value": each.value,
            "create_revision": str(each.created),
            "mod_revision": str(each.changed),
            "lease": str(each.lease),
        }

    def _holds(self, compare: Mapping[str, Any]) -> bool:
        name, attribute = ("mod_revision", "changed") if compare["target"] == "MOD" else ("create_revision", "created")
        found = [int(getattr(self.keys[key], attribute)) for key in self._in(compare)] or [0]
        return all(each == int(compare[name]) for each in found)

    def _txn(self, body: Mapping[str, Any]) -> dict[str, Any]:
        succeeded = all(map(self._holds, body.get("compare", [])))
        operations = body.get("success" if succeeded else "failure", [])
        for operation in operations:
            if (lease := int(operation.get("request_put", {}).get("lease", 0))) and lease not in self.leases:
                raise RefusedError(GrpcStatus.NOT_FOUND, "etcdserver: requested lease not found")
        before, self.revision = self.revision, self.revision + 1
        responses, changes = [], 0
        for operation in operations:
            if (request := operation.get("request_range")) is not None:
                responses.append({"response_range": self._range(request)})
            elif (request := operation.get("request_put")) is not None:
                key = b64decode(request["key"])
                old = {"prev_kv": self._shown(key)} if key in self.keys and request.get("prev_kv") else {}
                self._put(key, request["value"], int(request.get("lease", 0)))
                responses.append({"response_put": old})
                changes += 1
            else:
                request = operation["request_delete_range"]
                gone = self._in(request)
                shown = [self._shown(key) for key in gone] if request.get("prev_kv") else []
                for key in gone:
                    self._delete(key)
                responses.append({"response_delete_range": {"prev_kvs": shown}})
                changes += len(gone)
        if not changes:
            self.revision = before
        return {"succeeded": succeeded, "responses": responses}
