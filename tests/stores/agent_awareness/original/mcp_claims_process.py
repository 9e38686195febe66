"""A session of mcp-claims in a process of its own: `mcp_claims_process.py CLAIMS [stop]`.

It reads commands as `original.mjs` does.  With `stop` it stops itself (SIGSTOP) once, before its first record appears.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from mcp_claims.model.records import Claim, Unreadable
from mcp_claims.session.identity import process_session
from mcp_claims.stores.agent_awareness.filesystem import AgentAwarenessFileSystem
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.config import open_store

UNREADABLE = "a record that cannot be read"


def open_layout_store(claims: Path | str, fs: AgentAwarenessFileSystem | None = None) -> AgentAwarenessStore:
    """Open the store as the command line does, with other system calls if *fs* is given."""
    store = open_store(str(claims), layout="agent-awareness", environment={})
    assert isinstance(store, AgentAwarenessStore)
    return AgentAwarenessStore(store.directory, store.pid_is_gone, fs=fs) if fs else store


class StopsBeforeWrite(AgentAwarenessFileSystem):
    """Stops the process once, before a record appears at its path."""

    stopped = False

    def link(self, source: str, target: str) -> None:
        self._stop(target)
        super().link(source, target)

    def replace(self, source: str, target: str) -> None:
        self._stop(source)
        super().replace(source, target)

    def _stop(self, path: str) -> None:
        if path.endswith(".json") and not path.endswith("meta.json") and not self.stopped:
            self.stopped = True
            os.kill(os.getpid(), signal.SIGSTOP)


def main() -> None:
    claims, *stop = sys.argv[1:]
    session = process_session(open_layout_store(claims, StopsBeforeWrite() if stop else None))
    print(json.dumps({"name": session.holder.name}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        call, key, plugin = command["call"], command["key"], command["plugin"]
        if call == "try_claim":
            attempt = session.try_claim(key, plugin, ttl_minutes=command.get("minutes", 30))
            holder = attempt.found.holder.name if isinstance(attempt.found, Claim) else None
            # On a loaded machine a session of the original can take longer to write its record than it is waited for.
            if isinstance(attempt.found, Unreadable):
                holder = UNREADABLE
            answer: dict[str, object] = {"status": attempt.status.value, "holder": holder}
        else:
            answer = {"released": session.release(key, plugin, outcome=command.get("outcome")).released}
        print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    main()
