"""Processes that wait in line for one key: `waiters.py CLAIMS LOGS WAITERS RELEASES KILL_EVERY SEED`.

CLAIMS is a directory, or the URL of an etcd cluster.

Each waits as a server does, acts for a moment, releases and waits again.  With every KILL_EVERY-th grant one of them
is killed, the holder half of the time, and replaced.  Logs are as `contenders.py` writes them; `done` of a `tried` is when
the wait ended, `released` when a release began, `joined` when a ticket was taken.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from random import Random
from resource import RUSAGE_CHILDREN, getrusage

from mcp_claims.model.records import Claim, ScopedKey, Ticket
from mcp_claims.model.validation import ClaimRequest, scoped_key
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import Store
from mcp_claims.stores.config import open_store
from mcp_claims.stores.files.store import FileStore
from tests.support.forks import fork

TIMEOUT = 300.0
KEY = scoped_key("red", "ci")


def wait_in_queue(claims: str, log: Path, grants: int, seed: str) -> None:
    """Wait, act and release, for ever; write a byte to *grants* with each grant."""
    remote = claims.startswith("etcd://")
    store: Store = open_store(url=claims) if remote else FileStore(claims)
    session, rng = process_session(store), Random(seed)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    name = session.holder.name

    def note(event: str, **more: object) -> None:
        line = {"event": event, "key": KEY.key, "holder": name, "at": time.monotonic_ns(), **more}
        os.write(out, json.dumps(line).encode() + b"\n")

    take_ticket = session.queue.join

    def join(scoped: ScopedKey, wait_seconds: float) -> Ticket | None:
        ticket = take_ticket(scoped, wait_seconds)
        note("joined", ticket=ticket and ticket.number)
        return ticket

    vars(session.queue)["join"] = join
    while True:
        asked = time.monotonic_ns()
        attempt = acquire(session, ClaimRequest(KEY, wait_seconds=TIMEOUT))
        assert attempt.claimed and isinstance(attempt.found, Claim)
        why = attempt.taken_over.state.value if attempt.taken_over else None
        note(
            "tried",
            asked=asked,
            done=time.monotonic_ns(),
            status=attempt.status.value,
            generation=attempt.found.generation,
            why=why,
        )
        note("enter")
        os.write(grants, os.getpid().to_bytes(4, "little"))
        time.sleep(rng.uniform(0.001, 0.003))
        note("stay")
        note("released")
        session.release(KEY.key, KEY.namespace)
        time.sleep(rng.uniform(0, 0.01))


def main(claims: str, logs: str, waiters: int, releases: int, kill_every: int, seed: str) -> None:
    """Start *waiters*, count grants and kill, until there were *releases* and as many more as were cut short."""
    rng = Random(seed)
    reading, grants = os.pipe()
    living: list[int] = []
    born = 0

    def bear() -> None:
        nonlocal born
        born += 1
        pid = fork()
        if pid:
            living.append(pid)
            return
        os.close(reading)
        wait_in_queue(claims, Path(logs) / str(born), grants, f"{seed} {born}")

    for _ in range(waiters):
        bear()
    granted = kills = 0
    while granted < releases + kills:
        winner = int.from_bytes(os.read(reading, 4), "little")
        granted += 1
        if kill_every and granted % kill_every == 0:
            victim = winner if rng.random() < 0.5 and winner in living else rng.choice(living)
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            living.remove(victim)
            kills += 1
            bear()
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    used = getrusage(RUSAGE_CHILDREN)
    print(json.dumps({"granted": granted, "kills": kills, "cpu": used.ru_utime + used.ru_stime}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
