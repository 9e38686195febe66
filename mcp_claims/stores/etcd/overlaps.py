"""Which claims are about file keys that overlap with some, and whether one of them is in the way of a change.

The keys above a file are read by their names.  The claims below it, and those of a namespace with wildcards, are ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcp_claims.model import keys
from mcp_claims.model.records import Claim, Found, ScopedKey, Unreadable
from mcp_claims.stores.base import Blocks, without_head
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.keys import Keyspace, is_trace_key, prefix_range_end
from mcp_claims.stores.etcd.lease import Fence
from mcp_claims.stores.etcd.plans import Planned
from mcp_claims.stores.etcd.txn import Transactions

ReadAll = Callable[[Sequence[ScopedKey]], list[Found]]
"""Reads the claims on keys, in their order."""


def overlapping(
    files: Sequence[ScopedKey], transactions: Transactions, keyspace: Keyspace, read_all: ReadAll, deadline: float
) -> list[Claim | Unreadable]:
    """Return the claims on other files that overlap with any of *files*, in few questions.

    Of a key that several hold, these are its members.  Raises `GatewayError`, and what *read_all* raises.
    """
    ranges: dict[tuple[bytes, bytes], None] = {}
    for scoped in files:
        above = [keyspace.claim_key(scoped._replace(key=key)) for key in keys.above(scoped.key)]
        below = keyspace.claim_key(scoped._replace(key=keys.literal_beginning(scoped.key) + "/"))
        patterns = keyspace.patterns_prefix(scoped.namespace)
        ranges |= dict.fromkeys((key, key + b"\0") for key in above)
        ranges |= dict.fromkeys((each, prefix_range_end(each)) for each in (below, patterns))
    stored = transactions.read_ranges(list(ranges), deadline)
    found = {key: messages.parse_claim(kv, keyspace) for key, kv in stored.items() if not is_trace_key(key)}
    for scoped in files:
        found.pop(keyspace.claim_key(scoped), None)
    others = [
        each
        for each in found.values()
        if isinstance(each, Unreadable)
        or (not each.scoped.member and any(keys.conflict(each.scoped, scoped) for scoped in files))
    ]
    # A key that several hold is told by its head, which names them.
    return [one for each in others for one in without_head(each, read_all)]


def judge_overlaps(
    planned: Sequence[Planned],
    blocks: Blocks,
    transactions: Transactions,
    keyspace: Keyspace,
    read_all: ReadAll,
    deadline: float,
) -> tuple[Fence | None, Claim | Unreadable | None]:
    """Return the fence of the claims on files if there is one among *planned*, and what is in its way, if anything.

    Raises as `overlapping` does.
    """
    # Renewals too: a claim that has expired stays stored for a while, in nobody's way.  Its holder would renew it beside
    # what another session was granted since.
    files = list(dict.fromkeys(each.change.scoped.base for each in planned if each.change.claims_files))
    if not files:
        return None, None
    # The fence first: what is granted or renewed after it was read makes the transaction fail.
    kv = transactions.get(keyspace.overlaps, deadline)
    changed = {each.change.scoped for each in planned}
    for found in overlapping(files, transactions, keyspace, read_all, deadline):
        if not (isinstance(found, Claim) and found.scoped in changed) and blocks(found):
            return None, found
    return Fence(keyspace.overlaps, kv.mod_revision if kv else 0), None
