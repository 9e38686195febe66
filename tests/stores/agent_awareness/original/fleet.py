"""Start sessions of both kinds that contend for the same keys: `fleet.py CLAIMS LOGS SECONDS KEYS SEED NODES OURS MODE`.

NODES sessions of the original (MODE is `original`, `repaired` or `impatient`, see `original.mjs`) and OURS of mcp-claims
write logs as `tests/processes/contenders.py` describes.  Every 0.1 to 0.3 s one of them is killed and replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from random import Random

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model import validation
from tests.processes.contenders import SECOND, Worker, clock
from tests.stores.agent_awareness.original.mcp_claims_process import open_layout_store
from tests.support.forks import fork

ORIGINAL = Path(__file__).with_name("original.mjs")


class TolerantWorker(Worker):
    """A worker that goes on when a session of the original keeps its lock, or breaks ours."""

    def _try(self, key: str) -> int:
        try:
            return super()._try(key)
        except (StoreBusyError, StoreUnavailableError):
            return 0

    def _act(self, key: str, deadline: int) -> None:
        # A claim that cannot be released expires.
        with suppress(StoreBusyError, StoreUnavailableError):
            super()._act(key, deadline)


class Fleet:
    """The running processes and the log files."""

    def __init__(
        self, claims: str, logs: str, seconds: str, keys: str, seed: str, nodes: str, ours: str, mode: str
    ) -> None:
        self._claims, self._logs, self._seconds, self._seed, self._mode = claims, Path(logs), float(seconds), seed, mode
        self._keys, self._rng = int(keys), Random(seed)
        self._until = clock() + int(self._seconds * SECOND)
        self._kinds = {"node": int(nodes), "ours": int(ours)}
        self._alive: dict[int, str] = {}
        self._lives = 0

    def run(self) -> int:
        for kind, count in self._kinds.items():
            for _ in range(count):
                self._start(kind)
        kills = 0
        while clock() < self._until - SECOND // 2:
            time.sleep(self._rng.uniform(0.1, 0.3))
            pid = self._rng.choice(sorted(self._alive))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
            self._start(self._alive.pop(pid))
        for pid, kind in self._alive.items():
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert code == 0, f"a worker ({kind}) ended with {code}"
        return kills

    def _start(self, kind: str) -> None:
        self._lives += 1
        log, seed = self._logs / f"{kind}-{self._lives}.log", f"{self._seed}/{self._lives}"
        log.touch()
        left = max(0, self._until - clock()) / SECOND
        if kind == "node":
            node = shutil.which("node")
            assert node
            arguments = [node, ORIGINAL, self._claims, "contend", log, left, self._keys, seed, self._mode]
            process = subprocess.Popen([str(word) for word in arguments], stdin=subprocess.DEVNULL)
            self._alive[process.pid] = kind
            process.returncode = 0  # It is reaped by `waitpid`, not by `Popen`.
        elif pid := fork():
            self._alive[pid] = kind
        else:
            keys = [f"key {number}" for number in range(self._keys)]
            TolerantWorker(
                open_layout_store(self._claims), log, keys, lambda: clock() < self._until, Random(seed)
            ).run()
            os._exit(0)


if __name__ == "__main__":
    # Claims of milliseconds, which agents may not ask for.
    validation.MIN_TTL = timedelta(milliseconds=1)
    print(json.dumps({"kills": Fleet(*sys.argv[1:]).run()}), flush=True)
