"""Claims on etcd, beside its bare client doing the same two transactions: `python -m benchmarks.etcd`.

A node of its own, on loopback and this disk.  Apart from the other subjects, as it needs etcd.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

import requests
from etcd3gw import Etcd3Client

from benchmarks.measure import Bar, Effort, Figure, beside, interleaved
from benchmarks.report import as_json, as_table
from mcp_claims import FileStore, process_session
from mcp_claims.model.codec import to_json
from mcp_claims.model.records import Claim
from mcp_claims.stores.base import Store
from mcp_claims.stores.config import open_store
from tests.support.etcd import Cluster

KEY = "vercel/next.js#4521:checks_failed"
_PROCESSES = 16
_SECONDS = 4.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 1 if a bar is not met, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.etcd", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, metavar="X", help="of the rounds (%(default)g)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    figures = list(measure(Effort(options.share)))
    print(as_json(figures) if options.json else as_table(figures))
    return int(any(figure.met is False for figure in figures))


def measure(effort: Effort) -> Iterator[Figure]:
    """Claim and release a key, alone and in 16 processes, each with keys of its own."""
    cluster = Cluster()
    try:
        with process_session(open_store(url=cluster.url("/cycle"))) as ours:
            found = ours.try_claim("a key whose record is as long").found
            assert isinstance(found, Claim)
            bare = _Bare(cluster.clients[0], to_json(found))

            def cycle() -> None:
                ours.try_claim(KEY)
                ours.release(KEY)

            interleaved(effort.of(50), cycle, bare.cycle)
            ours_took, bare_took = interleaved(effort.of(1_000), cycle, bare.cycle)
        floor_is = "the bare client's two transactions"
        yield beside("etcd", "claim + release", "ms", ours_took, bare_took, floor_is, Bar(1.3))
        seconds = max(0.2, _SECONDS * effort.share)
        on_etcd = _cycles_a_second(cluster.url("/many"), seconds)
        with tempfile.TemporaryDirectory() as directory:
            in_files = _cycles_a_second(f"{directory}/claims", seconds)
        yield Figure(
            "etcd",
            f"{_PROCESSES} processes, own keys: cycles",
            "/s",
            on_etcd,
            in_files,
            "the file store on this machine",
        )
    finally:
        cluster.close()


class _Bare:
    """The client, doing nothing but a claim and a release."""

    def __init__(self, port: int, record: bytes) -> None:
        session = requests.Session()
        session.trust_env = False
        self._client = Etcd3Client("127.0.0.1", port, timeout=2, api_path="/v3/", session=session)
        self._lease = self._client.lease(3_600).id
        self._key, self._record = b64encode(b"/bare/red").decode(), b64encode(record).decode()

    def cycle(self) -> None:
        put = {"key": self._key, "value": self._record, "lease": self._lease}
        granted = self._transact(0, {"request_put": put})
        self._transact(int(granted["header"]["revision"]), {"request_delete_range": {"key": self._key}})

    def _transact(self, created: int, operation: dict[str, Any]) -> dict[str, Any]:
        compare = {"key": self._key, "target": "CREATE", "result": "EQUAL", "create_revision": created}
        answer = self._client.transaction(
            {
                "compare": [compare],
                "success": [operation],
                "failure": [{"request_range": {"key": self._key}}],
            }
        )
        assert answer["succeeded"]
        return dict(answer)


def _cycles_a_second(where: str, seconds: float) -> float:
    context = multiprocessing.get_context("spawn")
    begin, done = context.Barrier(_PROCESSES), context.Queue()
    workers = [context.Process(target=_work, args=(where, seconds, begin, done)) for _ in range(_PROCESSES)]
    for worker in workers:
        worker.start()
    counts: list[int] = [done.get() for _ in workers]
    for worker in workers:
        worker.join()
    return sum(counts) / seconds


def _work(where: str, seconds: float, begin: Any, done: Any) -> None:
    store: Store = open_store(url=where) if "://" in where else FileStore(where)
    with process_session(store) as claims:
        key = claims.holder.name
        claims.try_claim(key)
        begin.wait()
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            claims.try_claim(key)
            claims.release(key)
            count += 1
    done.put(count)


if __name__ == "__main__":
    sys.exit(main())
