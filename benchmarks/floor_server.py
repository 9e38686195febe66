"""A server whose tools make the system calls of a claim and nothing else: `python -m benchmarks.floor_server DIRECTORY`.

It knows of MCP only what an answer looks like: there is no SDK in it, and it checks nothing.  Its answer is as long as that of
`try_claim`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.system_calls import BareClaims

TEXT = (
    'CLAIMED: you hold "red" (namespace "default") until 2026-11-24T02:30:19Z (30 min from now), generation 1. '
    "You act, nobody else will. Call release with an outcome when you stop. To renew, call try_claim again before it expires."
)
STRUCTURE = {
    "advice": TEXT,
    "holder": "host:20057:3131c145fea9",
    "client": "benchmark 1.0.0",
    "generation": 1,
    "claimed_at": "2026-11-24T02:00:19.945Z",
    "expires_at": "2026-11-24T02:30:19.945Z",
    "expires_in_seconds": 1800.0,
    "claimed": True,
    "status": "acquired",
}


def serve(directory: Path) -> None:
    """Serve one client until it closes stdin."""
    directory.mkdir(exist_ok=True)
    claims = BareClaims(directory, json.dumps(STRUCTURE, indent=2).encode())
    tools = {"claim": claims.claim, "release": claims.release}
    answer = {"content": [{"type": "text", "text": TEXT}], "isError": False, "structuredContent": STRUCTURE}
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if message["method"] == "tools/call":
            tools[message["params"]["name"]]("red")
        if "id" in message:
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answer}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
