"""Claims on etcd, beside the bare client with the same two transactions; it starts one node of etcd on this machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

from benchmarks.measure import Bar, Effort, Figure, interleaved, medians
from mcp_claims import Claim, FileStore, Session, Store, open_session, open_store
from mcp_claims.model.codec import to_json
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import named_session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd.config import parse_config
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.keys import Keyspace
from mcp_claims.stores.etcd.messages import put_operation
from tests.support.etcd import Cluster

KEY = "vercel/next.js#4521:checks_failed"
_PROCESSES = 16
_MANY = 100_000
_SECONDS = 4.0
_WAITERS, _WAITING_PROCESSES = 200, 8


def measure(effort: Effort) -> Iterator[Figure]:
    """Claim and release a key, alone and in 16 processes, each with a key of its own."""
    cluster = Cluster()
    try:
        with open_session(open_store(url=cluster.url("/cycle"))) as ours:
            found = ours.try_claim("a key whose record is as long").found
            assert isinstance(found, Claim)
            bare = _BareClient(cluster.clients[0], to_json(found))

            claim_and_release = partial(_claim_and_release, ours)
            interleaved(effort.of(50), claim_and_release, bare.claim_and_release)
            ours_took, bare_took = interleaved(effort.of(1_000), claim_and_release, bare.claim_and_release)
            cpu, bare_cpu = (_own_cpu_of(work, effort.of(500)) for work in (claim_and_release, bare.claim_and_release))
        floor_is = "the bare client's two transactions"
        yield medians("etcd", "claim + release", "ms", ours_took, bare_took, floor_is, Bar(1.3))
        yield Figure("etcd", "our CPU for it", "ms", cpu, bare_cpu, floor_is, Bar(1.2, "value"))
        yield from _beside_waiters(cluster, effort)
        yield from _among_many(cluster, effort)
        seconds = max(0.2, _SECONDS * effort.share)
        count = effort.of(_PROCESSES)
        on_etcd = _grants_a_second(cluster.url("/many"), count, seconds)
        with tempfile.TemporaryDirectory() as directory:
            in_files = _grants_a_second(f"{directory}/claims", count, seconds)
        yield Figure(
            "etcd",
            f"{count} processes, own keys: grants",
            "/s",
            on_etcd,
            in_files,
            "the file store on this machine",
        )
    finally:
        cluster.close()


def _beside_waiters(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """What a claim and its release cost etcd while sessions of other processes wait for other keys, and what those cost alone."""
    url, each = cluster.url("/waiting"), _WAITERS // _WAITING_PROCESSES
    rounds, seconds = effort.of(500), max(1.0, 10 * effort.share)
    context = multiprocessing.get_context("spawn")
    waiting, over = context.Semaphore(0), context.Event()
    with open_session(open_store(url=url)) as session:
        for number in range(_WAITERS):
            session.try_claim(f"waited for {number}")
        without = _etcd_cpu_of(cluster, partial(_claim_and_release, session), rounds)
        waiters = [
            context.Process(target=_wait, args=(url, range(at, at + each), waiting, over))
            for at in range(0, _WAITERS, each)
        ]
        for process in waiters:
            process.start()
        for _ in range(_WAITERS):
            waiting.acquire()
        time.sleep(5)  # Each has its watch by then.
        beside = _etcd_cpu_of(cluster, partial(_claim_and_release, session), rounds)
        what = f"etcd's CPU for a claim + release beside {_WAITERS} waiters"
        yield Figure("etcd", what, "ms", beside, without, "without them", Bar(1.3))
        before = _raft_index(cluster)
        time.sleep(seconds)
        proposals = (_raft_index(cluster) - before) / seconds
        yield Figure("etcd", f"proposals of {_WAITERS} idle waiters", "/s", proposals, bar=Bar(0.5, "value"))
        over.set()
    for process in waiters:
        process.join()


def _wait(url: str, numbers: range, waiting: Any, over: Any) -> None:
    """Wait in a session of its own for each key of these *numbers*, until it is *over*."""
    store = open_store(url=url)

    def wait(number: int) -> None:
        request = ClaimRequest.parse(key=f"waited for {number}", wait_seconds=300)
        # A key that the end of the run sets free is nobody's concern any more.
        acquire(named_session(store, f"waiter {number}"), request, refused=lambda _: waiting.release())

    for number in numbers:
        Thread(target=wait, args=(number,), daemon=True).start()
    over.wait()


def _own_cpu_of(work: Callable[[], object], rounds: int) -> float:
    """Return the CPU, in milliseconds, that this process spends on *work*, on average."""
    before = time.process_time()
    for _ in range(rounds):
        work()
    return (time.process_time() - before) / rounds * 1_000


def _etcd_cpu_of(cluster: Cluster, work: Callable[[], object], rounds: int) -> float:
    """Return the CPU, in milliseconds, that etcd spends on *work*, on average."""
    work()
    before = _cpu_seconds(cluster.processes[0].pid)
    for _ in range(rounds):
        work()
    return (_cpu_seconds(cluster.processes[0].pid) - before) / rounds * 1_000


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _raft_index(cluster: Cluster) -> int:
    return int(cluster.ask(0, "/v3/maintenance/status", {})["raftIndex"])


def _among_many(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Claim, list and prune among many claims of another session, beside the same among few."""
    few, many = 10, effort.of(_MANY)
    stores = {count: open_store(url=cluster.url(f"/among-{count}")) for count in (few, many)}
    sessions = {count: open_session(store) for count, store in stores.items()}
    for count in (few, many):
        _fill(cluster, f"/among-{count}", count)
    claims = [partial(_claim_and_release, session) for session in sessions.values()]
    interleaved(effort.of(50), *claims)
    among_few, among_many = interleaved(effort.of(500), *claims)
    yield medians(
        "etcd", f"claim + release among {many:,} claims", "ms", among_many, among_few, f"among {few}", Bar(1.1)
    )
    lists = [session.list_claims for session in sessions.values()]
    of_few, of_many = interleaved(effort.of(50), *lists)
    yield medians("etcd", f"first page of {many:,} claims", "ms", of_many, of_few, f"of {few}", Bar(10, "value"))
    for number in range(10):
        sessions[many].try_claim(f"mine {number}")
    (mine,) = interleaved(effort.of(50), partial(sessions[many].list_claims, mine=True))
    yield Figure("etcd", f"own claims among {many:,}", "ms", median(mine) * 1_000, bar=Bar(100, "value"))
    (pruned,) = interleaved(3, sessions[many].prune)
    yield Figure("etcd", f"prune among {many:,} claims", "s", median(pruned), bar=Bar(5, "value"))
    for session in sessions.values():
        session.close()


def _fill(cluster: Cluster, prefix: str, count: int) -> None:
    """Store *count* claims that another session holds, without the cost of making each."""
    store = open_store(url=cluster.url(prefix))
    with open_session(store) as session:
        found = session.try_claim("a template").found
        assert isinstance(found, Claim)
        config = parse_config(cluster.url(prefix), {})
        gateway, keyspace = Gateway(config), Keyspace(config.prefix)
        lease = gateway.call("/lease/grant", {"TTL": 3_600}, deadline_in(60))["ID"]
        for at in range(0, count, 100):
            keys = [found.scoped._replace(key=f"event {number:06}") for number in range(at, min(at + 100, count))]
            puts = [
                put_operation(keyspace.claim_key(each), to_json(found._replace(scoped=each)), int(lease))
                for each in keys
            ]
            gateway.call("/kv/txn", {"success": puts}, deadline_in(60))


def _claim_and_release(session: Session) -> None:
    session.try_claim(KEY)
    session.release(KEY)


class _BareClient:
    """The bare client, `http.client` and `json`: a claim and a release, each one transaction."""

    def __init__(self, port: int, record: bytes) -> None:
        self._connection = HTTPConnection("127.0.0.1", port)
        self._lease = self._post("/v3/lease/grant", {"TTL": 3_600})["ID"]
        self._key, self._record = b64encode(b"/bare/red").decode(), b64encode(record).decode()

    def claim_and_release(self) -> None:
        put = {"key": self._key, "value": self._record, "lease": self._lease}
        granted = self._run_transaction(0, {"request_put": put})
        self._run_transaction(int(granted["header"]["revision"]), {"request_delete_range": {"key": self._key}})

    def _run_transaction(self, created: int, operation: dict[str, Any]) -> dict[str, Any]:
        compare = {"key": self._key, "target": "CREATE", "result": "EQUAL", "create_revision": created}
        reads = [{"request_range": {"key": self._key}}]
        answer = self._post("/v3/kv/txn", {"compare": [compare], "success": [operation], "failure": reads})
        assert answer["succeeded"]
        return answer

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return dict(json.load(self._connection.getresponse()))


def _grants_a_second(location: str, count: int, seconds: float) -> float:
    context = multiprocessing.get_context("spawn")
    begin, done = context.Barrier(count), context.Queue()
    workers = [context.Process(target=_work, args=(location, seconds, begin, done)) for _ in range(count)]
    for worker in workers:
        worker.start()
    grants: list[int] = [done.get() for _ in workers]
    for worker in workers:
        worker.join()
    return sum(grants) / seconds


def _work(location: str, seconds: float, begin: Any, done: Any) -> None:
    store: Store = open_store(url=location) if "://" in location else FileStore(location)
    with open_session(store) as session:
        key = session.holder.name
        session.try_claim(key)
        begin.wait()
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            session.try_claim(key)
            session.release(key)
            count += 1
    done.put(count)
