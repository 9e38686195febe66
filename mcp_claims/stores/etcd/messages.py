"""Requests and responses in the JSON of etcd's gateway: keys and values in base64, 64-bit numbers as text."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mcp_claims.model.codec import RecordError, from_json
from mcp_claims.model.records import Claim, Leased, Unreadable
from mcp_claims.stores.etcd.keys import Keyspace, decode_key, prefix_range_end

_UNKNOWN_AGE = datetime.max.replace(tzinfo=UTC)
"""The latest moment of a change: etcd does not record when a value was put, so what cannot be read never ages out."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key with its value, the revisions of its last change and of its creation, and its lease (0 for none)."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int
    lease: int


def get_request(key: bytes) -> dict[str, Any]:
    """Return the request for one key, of a range or of a deletion."""
    return {"key": _base64(key)}


def range_request(start: bytes, end: bytes, limit: int = 0) -> dict[str, Any]:
    """Return the request for at most *limit* keys (0 for all) from *start* to before *end*."""
    return {"key": _base64(start), "range_end": _base64(end), "limit": str(limit)}


def put_request(key: bytes, value: bytes, lease: int = 0) -> dict[str, Any]:
    """Return the request that puts *value*, attached to *lease* unless that is 0."""
    return {"key": _base64(key), "value": _base64(value), "lease": str(lease)}


def delete_operation(key: bytes, end: bytes | None = None) -> dict[str, Any]:
    """Return the part of a transaction that deletes *key*, if it is there, or all keys from it to before *end*."""
    return {"request_delete_range": get_request(key) if end is None else range_request(key, end)}


def put_operation(key: bytes, value: bytes, lease: int = 0) -> dict[str, Any]:
    """Return the part of a transaction that puts *value*, attached to *lease* unless that is 0."""
    return {"request_put": put_request(key, value, lease)}


def returning_previous(operation: dict[str, Any]) -> dict[str, Any]:
    """Return *operation*, a put or a deletion, as one whose response has what was there before; see `previous`."""
    return {name: {**request, "prev_kv": True} for name, request in operation.items()}


def txn_request(expected: dict[bytes, int], *success: dict[str, Any], empty: Iterable[bytes] = ()) -> dict[str, Any]:
    """Return the transaction that does all of *success* if each key in *expected* is at its revision (0: does not exist).

    No key may begin with any of *empty* either.  Otherwise it returns the current state of each of these keys, in order,
    and the first key that begins with each of *empty*; `failed_compare` reads that.
    """
    compare = [
        {"key": _base64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
        for key, revision in expected.items()
    ]
    reads = [{"request_range": get_request(key)} for key in expected]
    for prefix in empty:
        # etcd compares every key in the range, or, where there is none, one of revision 0.
        every = {"key": _base64(prefix), "range_end": _base64(prefix_range_end(prefix))}
        compare.append({**every, "target": "CREATE", "result": "EQUAL", "create_revision": "0"})
        reads.append({"request_range": {**every, "limit": "1"}})
    return {"compare": compare, "success": list(success), "failure": reads}


def read_request(ranges: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Return the transaction that reads all *ranges*, each from a key to before another, at one revision."""
    return {"success": [{"request_range": range_request(start, end)} for start, end in ranges]}


def read_ranges(response: dict[str, Any]) -> list[KeyValue]:
    """Return the contents of all ranges, from the response to `read_request`."""
    return [kv for each in response["responses"] for kv in key_values(each["response_range"])]


def create_request(key: bytes, value: bytes) -> dict[str, Any]:
    """Return the transaction that puts *value* at *key* if nothing is there, and otherwise returns what is."""
    return txn_request({key: 0}, put_operation(key, value))


def watch_request(watch_id: int, start: bytes, end: bytes, start_revision: int | None) -> dict[str, Any]:
    """Return the request to watch keys from *start* to before *end*, beginning at *start_revision* or now."""
    create = {"watch_id": str(watch_id), "key": _base64(start), "range_end": _base64(end)}
    if start_revision is not None:
        create["start_revision"] = str(start_revision)
    return {"create_request": create}


def header_revision(response: dict[str, Any]) -> int:
    """Return the revision of the cluster when it made *response*."""
    return int(response["header"]["revision"])


def key_values(response: dict[str, Any]) -> list[KeyValue]:
    """Return the contents of the response to a range."""
    return [
        KeyValue(
            b64decode(each["key"]),
            b64decode(each.get("value", "")),
            int(each["mod_revision"]),
            int(each["create_revision"]),
            int(each.get("lease", 0)),
        )
        for each in response.get("kvs", [])
    ]


def failed_compare(response: dict[str, Any]) -> list[KeyValue | None]:
    """Return the current state of what was compared, from the response to a transaction whose compare failed."""
    ranges = [each["response_range"] for each in response["responses"]]
    return [next(iter(key_values(each)), None) for each in ranges]


def previous(response: dict[str, Any], operation: int) -> KeyValue | None:
    """Return what was there before the *operation* with this index in a transaction, which `returning_previous` made."""
    (done,) = response["responses"][operation].values()
    found = [done["prev_kv"]] if "prev_kv" in done else done.get("prev_kvs", [])
    return next(iter(key_values({"kvs": found})), None)


def parse_claim(kv: KeyValue, keyspace: Keyspace) -> Claim | Unreadable:
    """Return the claim in *kv*, or why it is none."""
    try:
        claim = from_json(kv.value, number=kv.mod_revision)
    except RecordError as error:
        return _unreadable(kv, str(error))
    if not kv.lease:
        # Nothing would ever end it: etcd has no lease to end, and the reader's clock must not.
        return _unreadable(kv, "under no lease")
    if kv.key != keyspace.claim_key(claim.scoped):
        return _unreadable(kv, "about another key than its name says")
    return claim._replace(leased=Leased(kv.lease, kv.mod_revision, value=kv.value))


def _unreadable(kv: KeyValue, problem: str) -> Unreadable:
    return Unreadable(decode_key(kv.key), problem, _UNKNOWN_AGE, (kv.mod_revision,))


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
