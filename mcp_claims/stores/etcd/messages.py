"""What is asked of the cluster, in the JSON of its gateway, and how its answers read."""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

from mcp_claims.model.codec import RecordError, from_json, to_json
from mcp_claims.model.records import Claim, Leased, Unreadable
from mcp_claims.stores.base import NEVER
from mcp_claims.stores.etcd.keys import spell

_CHANGE = "change"


@dataclass(frozen=True, slots=True)
class Stored:
    """A key of etcd with what it holds."""

    key: bytes
    value: bytes
    revision: int  #: Of the last change.
    lease: int


@dataclass(frozen=True, slots=True)
class Change:
    """A compare-and-swap: put *value* (`None` removes) at *key*, if it is still as it was at the revision *before*.

    `before` is 0 for what is not there.  `fence` names another key and the revision that it must be at, too.  `mark` is in
    the value of no other change, and tells ours from a like one of somebody else.  A change that is not a *grant* harms
    nobody when it is made late: it is one of what only its own maker had, or it is no more what is there.
    """

    key: bytes
    before: int
    value: bytes | None
    lease: int = 0
    fence: tuple[bytes, int] | None = None
    mark: str = ""
    is_grant: bool = False

    @classmethod
    def to(cls, claim: Claim, key: bytes, before: int, lease: int, fence: tuple[bytes, int] | None) -> Change:
        """Return the change that puts *claim*, under *lease*, at *key*."""
        mark = secrets.token_hex(8)
        return cls(key, before, to_json(claim, {_CHANGE: mark}), lease, fence, mark, is_grant=not claim.generation)

    def made(self, stored: Stored | None) -> bool:
        """Tell whether *stored* is what this change has put there."""
        return stored is not None and self.value is not None and stored.value == self.value

    def question(self) -> dict[str, Any]:
        """Return the transaction, which answers what is stored if it was lost."""
        compare = [_is_at(self.key, self.before)]
        failure: list[dict[str, Any]] = [{"request_range": one(self.key)}]
        if self.fence is not None:
            compare.append(_is_at(*self.fence))
            failure.append({"request_range": one(self.fence[0])})
        if self.value is None:
            success: dict[str, Any] = {"request_delete_range": one(self.key)}
        else:
            success = {"request_put": put(self.key, self.value, self.lease)}
        return {"compare": compare, "success": [success], "failure": failure}


def one(key: bytes) -> dict[str, Any]:
    """Return a range of one key."""
    return {"key": _coded(key)}


def many(start: bytes, end: bytes, limit: int) -> dict[str, Any]:
    """Return a range from *start* to before *end*."""
    return {"key": _coded(start), "range_end": _coded(end), "limit": str(limit)}


def put(key: bytes, value: bytes, lease: int = 0) -> dict[str, Any]:
    """Return a put under *lease*, if that is not 0."""
    return {"key": _coded(key), "value": _coded(value), "lease": str(lease)}


def creation(key: bytes, value: bytes) -> dict[str, Any]:
    """Return the transaction that puts *value* at *key* unless there is something, and then answers what."""
    return {
        "compare": [_is_at(key, 0)],
        "success": [{"request_put": put(key, value)}],
        "failure": [{"request_range": one(key)}],
    }


def watch(start: bytes, end: bytes, revision: int | None) -> dict[str, Any]:
    """Return the wish to be told of changes between two keys, from *revision* on or from now."""
    wish = {"key": _coded(start), "range_end": _coded(end)}
    return {"create_request": wish if revision is None else wish | {"start_revision": str(revision)}}


def revision_of(answer: dict[str, Any]) -> int:
    """Return the revision of the cluster when it answered."""
    return int(answer["header"]["revision"])


def stored_in(answer: dict[str, Any]) -> list[Stored]:
    """Return what the answer to a range has."""
    return [
        Stored(
            b64decode(each["key"]),
            b64decode(each.get("value", "")),
            int(each["mod_revision"]),
            int(each.get("lease", 0)),
        )
        for each in answer.get("kvs", [])
    ]


def seen_by_loser(answer: dict[str, Any]) -> list[Stored | None]:
    """Return what a transaction that was lost has found, for each of its ranges."""
    ranges = [response["response_range"] for response in answer["responses"]]
    return [next(iter(stored_in(each)), None) for each in ranges]


def claim_in(stored: Stored, key: bytes | None = None) -> Claim | Unreadable:
    """Read the claim in *stored*, which has to be about what has the key *key*."""
    try:
        claim = from_json(stored.value, number=stored.revision)
    except RecordError as error:
        return _unreadable(stored, str(error))
    if not stored.lease:
        # Nobody would ever end it, and it is not for the clock of whoever looks.
        return _unreadable(stored, "under no lease")
    if key is not None and stored.key != key:
        return _unreadable(stored, "about another key than its name says")
    return claim._replace(leased=Leased(stored.lease, stored.revision))


def _unreadable(stored: Stored, problem: str) -> Unreadable:
    return Unreadable(spell(stored.key), problem, NEVER, (stored.revision,))


def _is_at(key: bytes, revision: int) -> dict[str, Any]:
    return {"key": _coded(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def _coded(data: bytes) -> str:
    return b64encode(data).decode("ascii")
