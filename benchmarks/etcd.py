"""Claims on etcd, beside the bare client with the same two transactions; it starts one node of etcd on this machine."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

from benchmarks.measure import Effort, Figure, interleaved, medians
from mcp_claims import Claim, FileStore, Store, open_session, open_store
from mcp_claims.model.codec import to_json
from tests.support.etcd import Cluster

KEY = "vercel/next.js#4521:checks_failed"
_PROCESSES = 16
_SECONDS = 4.0


def measure(effort: Effort) -> Iterator[Figure]:
    """Claim and release a key, alone and in 16 processes, each with a key of its own."""
    cluster = Cluster()
    try:
        with open_session(open_store(url=cluster.url("/cycle"))) as ours:
            found = ours.try_claim("a key whose record is as long").found
            assert isinstance(found, Claim)
            bare = _BareClient(cluster.clients[0], to_json(found))

            def claim_and_release() -> None:
                ours.try_claim(KEY)
                ours.release(KEY)

            interleaved(effort.of(50), claim_and_release, bare.claim_and_release)
            ours_took, bare_took = interleaved(effort.of(1_000), claim_and_release, bare.claim_and_release)
        floor_is = "the bare client's two transactions"
        yield medians("etcd", "claim + release", "ms", ours_took, bare_took, floor_is)
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
