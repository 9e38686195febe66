"""Agents that share out a list of work: `sharers.py CLAIMS LOGS AGENTS PIECES KILLS SEED`.

CLAIMS is a directory, or the URL of an etcd cluster.  Each agent claims the next piece of the list, works for a moment, notes in
its log that it has done it, and releases it as done, until all of the list is done.  KILLS of them are killed on the way, in the
middle of a piece.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from random import Random

from mcp_claims.model.records import Claim, Outcome
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import Status
from mcp_claims.stores.base import Store
from mcp_claims.stores.config import open_store
from mcp_claims.stores.files.store import FileStore
from tests.support.forks import fork


def work(claims: str, log: Path, pieces: list[str], begun: int, seed: str) -> None:
    """Work until all *pieces* are done; write a byte to *begun* with each that is begun."""
    store: Store = FileStore(claims)
    if claims.startswith("etcd://"):
        store = open_store(url=claims)
    session, rng = process_session(store), Random(seed)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while True:
        request = ClaimRequest.parse(pieces[0], or_else=pieces[1:])._replace(wait_seconds=60)
        result = acquire(session, request)
        if result.status is Status.DONE:
            return
        assert result.claimed and isinstance(result.found, Claim)
        os.write(begun, os.getpid().to_bytes(4, "little"))
        time.sleep(rng.uniform(0.005, 0.02))
        key = result.found.scoped.key
        # In one write: a kill comes before it, and somebody else does the piece, or after the release.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.write(out, f"{key}\n".encode())
        assert session.release(key, outcome=Outcome.DONE).released
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def main(claims: str, logs: str, agents: int, pieces: int, kills: int, seed: str) -> None:
    """Start *agents*, and print how they ended."""
    reading, begun = os.pipe()
    listed = [f"issue-{number}" for number in range(pieces)]
    living: list[int] = []
    for number in range(agents):
        pid = fork()
        if not pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            work(claims, Path(logs) / str(number), listed, begun, f"{seed} {number}")
            os._exit(0)
        living.append(pid)
    worker = 0
    for _ in range(kills):
        for _ in range(pieces // (kills + 2)):
            worker = int.from_bytes(os.read(reading, 4), "little")
        if worker in living:
            os.kill(worker, signal.SIGTERM)
            os.waitpid(worker, 0)
            living.remove(worker)
    ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in living]
    print(json.dumps({"ended": ended}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
