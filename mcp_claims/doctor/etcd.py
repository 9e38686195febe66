"""Checks of an etcd cluster: does each endpoint answer, is there a majority, how fast, how new, and with which clock?"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from mcp_claims.doctor.finding import Finding, failure, ok, warning
from mcp_claims.model.text import one_line
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.config import CA_VARIABLE, USER_VARIABLE, Endpoint, EtcdConfig, format_endpoint
from mcp_claims.stores.etcd.gateway import Gateway, GatewayError, GrpcStatus, NoAnswerError, RefusedError
from mcp_claims.stores.etcd.lease import MIN_TTL, grant_lease, revoke_lease

_TIMEOUT = 3.0  # s, of one call
_READS = 9
_SLOW = 0.1  # s
_MAX_SKEW = timedelta(seconds=5)
_OLDEST_VERSION = (3, 4)
_LONG_HISTORY = 100_000  # revisions
_LARGE = 1_500_000_000  # bytes; by default etcd refuses writes at 2 GB


def examine_cluster(config: EtcdConfig, chosen_by: str) -> Iterator[Finding]:
    """Examine the cluster of *config*, which *chosen_by* chose.  Puts and deletes one key of its own; never raises."""
    yield ok("cluster", f"{config} (chosen by {chosen_by}){_credentials(config)}")
    gateway = Gateway(config)
    statuses: list[dict[str, Any]] = []
    for endpoint in config.endpoints:
        name, runs = format_endpoint(endpoint), False
        try:
            status = _ask_status(gateway, config, endpoint)
            runs = True
            statuses.append(status)
            yield from _check_endpoint(gateway, config, endpoint, name, status)
        except GatewayError as error:
            yield _describe_failure(config, name, error, runs=runs)
    if not statuses:
        return
    clusters = {status["header"]["cluster_id"] for status in statuses}
    if len(clusters) > 1:
        yield failure("cluster", "the endpoints belong to different clusters", "Name those of one cluster in the URL.")
    yield from _check_storage(gateway, config, statuses)
    yield from _check_write(gateway, config)


def _ask_status(gateway: Gateway, config: EtcdConfig, endpoint: Endpoint) -> dict[str, Any]:
    """Return the status of *endpoint*; where only administrators may ask for it (newer versions), that of a read."""
    try:
        return gateway.call_endpoint(endpoint, "/maintenance/status", {}, _TIMEOUT)
    except RefusedError as error:
        if error.code != GrpcStatus.PERMISSION_DENIED:
            raise
        # Below the prefix: a user with the least rights may read nothing else.
        request = messages.get_request(f"{config.prefix}/doctor".encode())
        answer = gateway.call_endpoint(endpoint, "/kv/range", request, _TIMEOUT)
        return answer | {"version": gateway.version_of(endpoint, _TIMEOUT)}


def _describe_failure(config: EtcdConfig, name: str, error: GatewayError, *, runs: bool) -> Finding:
    """Return what keeps this endpoint from serving us, with a remedy for that cause.  If it *runs*, it has told its status."""
    problem = one_line(str(error))
    if not isinstance(error, RefusedError):
        remedy = "Start it, or take it out of the URL."
        if runs:
            remedy = "It runs, but answers no reads: a majority elects a leader in some seconds. Then check again."
        elif "TLS failed" in problem:
            remedy = f"Let {CA_VARIABLE} name the CA that has signed its certificate, and the URL a name that is in it."
        elif "its name" in problem:
            remedy = "Correct the name in the URL, or the name server of this machine."
        return failure("endpoint", f"{name} does not serve: {problem}", remedy)
    if "CommonName" in problem or "common name" in problem.lower():
        remedy = "Give its gateway and its clients certificates without a common name (CN)."
    elif error.code == GrpcStatus.PERMISSION_DENIED:
        remedy = _permit(config)
    elif config.user is None:
        remedy = f"It requires a user: set {USER_VARIABLE}, and the password."
    else:
        remedy = f"Correct {USER_VARIABLE} or the password; an administrator can set it (etcdctl user passwd)."
    return failure("permission", f"{name} refuses: {problem}", remedy)


def _permit(config: EtcdConfig) -> str:
    who = "this user" if config.user is None else f"user {config.user!r}"
    command = f"etcdctl role grant-permission ROLE --prefix=true readwrite {config.prefix}/"
    return f"Permit {who} to read and write keys that begin with {config.prefix}/ ({command})."


def _check_endpoint(
    gateway: Gateway, config: EtcdConfig, endpoint: Endpoint, name: str, status: dict[str, Any]
) -> Iterator[Finding]:
    durations = []
    for _ in range(_READS):
        began = time.perf_counter()
        gateway.call_endpoint(endpoint, "/kv/range", messages.get_request(f"{config.prefix}/doctor".encode()), _TIMEOUT)
        durations.append(time.perf_counter() - began)
    median = statistics.median(durations)
    version = str(status.get("version", "?"))
    leads = ", leads" if status.get("leader") == status["header"].get("member_id") else ""
    serves = f"{name} serves: etcd {one_line(version)}{leads}, a read takes {median * 1000:.1f} ms"
    if median > _SLOW:
        yield warning(
            "endpoint", serves, "Each claim takes two writes, which are slower still: check its disk and the network."
        )
    elif tuple(map(int, version.split(".")[:2])) < _OLDEST_VERSION:
        yield failure("endpoint", serves, "It is too old: use etcd 3.4 or newer.")
    else:
        yield ok("endpoint", serves)
    # No safety depends on its clock, but the times that people read come from the holders' machines.
    skew = gateway.clock_of(endpoint, _TIMEOUT / 2) - datetime.now(UTC)
    if abs(skew) > _MAX_SKEW:
        yield warning(
            "clocks",
            f"the clock of {name} is {abs(skew).total_seconds():.0f} s {'ahead' if skew > timedelta(0) else 'behind'}",
            "Claims are safe, but the times shown mislead: synchronize the clocks of both machines.",
        )


def _check_storage(gateway: Gateway, config: EtcdConfig, statuses: list[dict[str, Any]]) -> Iterator[Finding]:
    size = max(int(status.get("dbSize", 0)) for status in statuses)
    revision = max(int(status["header"]["revision"]) for status in statuses)
    if size > _LARGE:
        yield warning(
            "storage",
            f"the database has {size / 1e6:,.0f} MB; etcd refuses writes once it reaches its quota",
            "Compact and defragment it.",
        )
    try:
        # The first revision can be read only while nothing has been compacted.
        first = messages.get_request(f"{config.prefix}/doctor".encode()) | {"revision": "1"}
        gateway.call("/kv/range", first, deadline_in(_TIMEOUT))
        compacted = False
    except RefusedError as error:
        compacted = "compacted" in str(error)
    except NoAnswerError:
        return  # The check of a write reports that.
    if not compacted and revision > _LONG_HISTORY:
        yield warning(
            "storage",
            f"none of its {revision:,} revisions has been compacted, so the database grows without end",
            "Start etcd with --auto-compaction-retention=1h.",
        )
    else:
        amount = f"{size / 1e6:,.1f} MB, " if size else ""
        yield ok("storage", f"{amount}revision {revision:,}, {'' if compacted else 'not yet '}compacted")


def _check_write(gateway: Gateway, config: EtcdConfig) -> Iterator[Finding]:
    key = f"{config.prefix}/doctor/{secrets.token_hex(8)}".encode()
    try:
        lease_id = grant_lease(gateway, MIN_TTL, deadline_in(_TIMEOUT))
        began = time.perf_counter()
        gateway.call("/kv/put", messages.put_request(key, b"", lease_id), deadline_in(_TIMEOUT))
        duration = time.perf_counter() - began
        revoke_lease(gateway, lease_id, deadline_in(_TIMEOUT))
    except NoAnswerError as error:
        remedy = "Start a majority of its members; until then nobody can claim, and what is held stays held."
        yield failure("majority", f"the cluster accepts no writes: {one_line(str(error))}", remedy)
    except RefusedError as error:
        refused = f"the cluster refuses: {one_line(str(error))}"
        if error.code == GrpcStatus.RESOURCE_EXHAUSTED:
            remedy = "Compact and defragment it, then disarm its alarm (etcdctl alarm disarm); claims can be released."
            yield failure("storage", refused, remedy)
        else:
            yield failure("permission", refused, _permit(config))
    else:
        yield ok("majority", f"the cluster accepts writes and grants leases (a write took {duration * 1000:.1f} ms)")


def _credentials(config: EtcdConfig) -> str:
    parts = [", over TLS"] if config.tls else []
    parts += [" with a certificate"] if config.cert_file else []
    parts += [f" as user {config.user!r}"] if config.user else []
    return "".join(parts)
