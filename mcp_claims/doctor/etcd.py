"""A cluster of etcd: does each endpoint answer, as part of a majority; how fast, how new, and with which clock?"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from mcp_claims.doctor.finding import Finding, failure, ok, warning
from mcp_claims.model.validation import one_line

if TYPE_CHECKING:
    from mcp_claims.stores.etcd.config import Address
    from mcp_claims.stores.etcd.gateway import Transport

_WITHIN = 1.5  # s
_READS = 9
_SLOW = 0.1  # s
_SKEW = timedelta(seconds=5)
_LONG_HISTORY = 100_000
_LARGE = 1_500_000_000
"""Bytes; etcd takes no more writes at 2 GB unless told otherwise."""


def examine_cluster(address: Address, chosen_by: str) -> Iterator[Finding]:
    """Examine the cluster at *address*, which *chosen_by* chose; it writes and removes a key of its own."""
    # Imported here: who has claims in files has no client of etcd.
    from mcp_claims.stores.etcd.config import spell_endpoint
    from mcp_claims.stores.etcd.gateway import RefusedError, Transport, UnansweredError

    yield ok("cluster", f"{address} (chosen by {chosen_by}){_credentials(address)}")
    transport = Transport(address)
    statuses: list[dict[str, Any]] = []
    for endpoint in address.endpoints:
        name = spell_endpoint(endpoint)
        try:
            status = transport.ask_at(endpoint, "/maintenance/status", {}, 2 * _WITHIN)
            statuses.append(status)
            yield from _endpoint(transport, endpoint, name, status)
        except (UnansweredError, RefusedError, OSError) as error:
            yield failure(
                "endpoint", f"{name} does not serve: {one_line(str(error))}", "Start it, or take it out of the URL."
            )
    if not statuses:
        return
    clusters = {status["header"]["cluster_id"] for status in statuses}
    if len(clusters) > 1:
        yield failure("cluster", "the endpoints belong to different clusters", "Name those of one cluster in the URL.")
    yield from _history(transport, address, statuses)
    yield from _write(transport, address)


def _endpoint(transport: Transport, endpoint: tuple[str, int], name: str, status: dict[str, Any]) -> Iterator[Finding]:
    from mcp_claims.stores.etcd import messages

    times = []
    for _ in range(_READS):
        began = time.perf_counter()
        transport.ask_at(endpoint, "/kv/range", messages.one(b"mcp-claims doctor"), 2 * _WITHIN)
        times.append(time.perf_counter() - began)
    took = statistics.median(times)
    version = str(status.get("version", "?"))
    leads = ", leads" if status.get("leader") == status["header"].get("member_id") else ""
    said = f"{name} serves: etcd {one_line(version)}{leads}, a read takes {took * 1000:.1f} ms"
    if took > _SLOW:
        yield warning(
            "endpoint", said, "Each claim takes two writes, which are slower: see to its disk and the network."
        )
    elif (*map(int, version.split(".")[:2]),) < (3, 4):
        yield failure("endpoint", said, "It is too old: etcd 3.4 at least is needed.")
    else:
        yield ok("endpoint", said)
    # Its clock ends no claim early and keeps none, but times that are shown come from the machines of holders.
    answer = transport.get(endpoint, "/version", _WITHIN)
    skew = parsedate_to_datetime(answer.headers["Date"]) - datetime.now(UTC)
    if abs(skew) > _SKEW:
        yield warning(
            "clocks",
            f"the clock of {name} is {abs(skew).total_seconds():.0f} s {'ahead' if skew > timedelta(0) else 'behind'}",
            "Claims are safe, but times that are shown are misleading: let both machines synchronize their clocks.",
        )


def _history(transport: Transport, address: Address, statuses: list[dict[str, Any]]) -> Iterator[Finding]:
    from mcp_claims.stores.base import deadline_in
    from mcp_claims.stores.etcd import messages
    from mcp_claims.stores.etcd.gateway import RefusedError, UnansweredError

    size = max(int(status.get("dbSize", 0)) for status in statuses)
    revision = max(int(status["header"]["revision"]) for status in statuses)
    if size > _LARGE:
        yield warning(
            "storage",
            f"the database has {size / 1e6:,.0f} MB; at its quota etcd writes nothing",
            "Compact and defragment it.",
        )
    try:
        first = messages.one(address.prefix.encode()) | {"revision": "1"}
        transport.ask("/kv/range", first, deadline_in(_WITHIN * 2))
        compacted = False
    except RefusedError as error:
        compacted = "compacted" in str(error)
    except UnansweredError:
        return  # The write tells of it.
    if not compacted and revision > _LONG_HISTORY:
        yield warning(
            "storage",
            f"nothing of the history of {revision:,} changes has been compacted, so it grows without end",
            "Start etcd with --auto-compaction-retention=1h.",
        )
    else:
        yield ok("storage", f"{size / 1e6:,.1f} MB, revision {revision:,}, {'' if compacted else 'not yet '}compacted")


def _write(transport: Transport, address: Address) -> Iterator[Finding]:
    from mcp_claims.stores.base import deadline_in
    from mcp_claims.stores.etcd import messages
    from mcp_claims.stores.etcd.gateway import EXHAUSTED, RefusedError, UnansweredError
    from mcp_claims.stores.etcd.lease import SHORTEST_TTL, grant_lease, revoke_lease

    key = f"{address.prefix}/doctor/{secrets.token_hex(8)}".encode()
    try:
        lease = grant_lease(transport, SHORTEST_TTL, deadline_in(3))
        began = time.perf_counter()
        transport.ask("/kv/put", messages.put(key, b"", lease), deadline_in(3))
        took = time.perf_counter() - began
        revoke_lease(transport, lease, deadline_in(3))
    except UnansweredError as error:
        remedy = "Bring up a majority of its nodes; until then nothing is claimed, and what is held stays held."
        yield failure("majority", f"the cluster writes nothing: {one_line(str(error))}", remedy)
    except RefusedError as error:
        refused = f"the cluster refuses: {one_line(str(error))}"
        if error.code == EXHAUSTED:
            remedy = "Compact and defragment it, then disarm its alarm (etcdctl alarm disarm); claims can be released."
            yield failure("storage", refused, remedy)
        else:
            remedy = f"Let this user read and write what begins with {address.prefix}/, and have leases."
            yield failure("permission", refused, remedy)
    else:
        yield ok("majority", f"the cluster writes and gives leases (a write took {took * 1000:.1f} ms)")


def _credentials(address: Address) -> str:
    said = [", over TLS"] if address.tls else []
    said += [" with a certificate"] if address.certificate else []
    said += [f" as user {address.user!r}"] if address.user else []
    return "".join(said)
