"""The floor of a call: `mcp-claims` with more tools, which do nothing and answer words and structure.

`noop` answers two words; `noop_at_length` what `try_claim` answers, for what the SDK takes for the length of it.
`bare_claim`, `bare_release` and `bare_refusal` make the system calls of a claim besides, without any judgement: no server that
keeps claims in files in this way can take less than these, whatever it is written in.  `bare_put` and `bare_drop` write and
remove one file, without lock or comparison: less than that no way to keep a claim in a file can take.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mcp_types import CallToolResult, TextContent

from benchmarks.bare import Bare
from mcp_claims.cli.main import main
from mcp_claims.server.registry import Caller, SessionRegistry
from mcp_claims.server.tools import TOOLS
from mcp_claims.session.acquire import Report

_ADVICE = "You act, nobody else will. Release it when done; call try_claim again before it expires to renew."
_AT_LENGTH = {
    "advice": _ADVICE,
    "holder": "host:20057:3131c145fea9",
    "client": "benchmark 1.0.0",
    "generation": 1,
    "claimed_at": "2026-11-24T02:00:19.945Z",
    "expires_at": "2026-11-24T02:30:19.945Z",
    "expires_in_seconds": 1800.0,
    "claimed": True,
    "status": "acquired",
}
_ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "noop": ("nothing done", {"advice": "nothing done"}),
    "noop_at_length": (
        'CLAIMED: you hold "red" (namespace "default") until 2026-11-24T02:30:19Z (30 min from now), generation 1. '
        + _ADVICE,
        _AT_LENGTH,
    ),
}


def _nothing() -> None:
    """Do what a no-op does."""


async def _noop(
    name: str,
    do: Callable[[], object],
    sessions: SessionRegistry,
    caller: Caller,
    arguments: dict[str, Any] | None,
    report: Report,
) -> CallToolResult:
    do()
    text, facts = _ANSWERS[name]
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=facts)


def _add(name: str, answer: str, do: Callable[[], object] = _nothing) -> None:
    TOOLS[name] = partial(_noop, answer, do)


if __name__ == "__main__":
    for each in _ANSWERS:
        _add(each, each)
    # Beside the namespaces, where whoever chose the directory removes it: servers of benchmarks are killed.
    beside = Path(sys.argv[sys.argv.index("--dir") + 1], ".bare")
    beside.mkdir(exist_ok=True)
    bare = Bare(beside, json.dumps(_AT_LENGTH, indent=2).encode())
    bare.try_once("held")
    _add("bare_claim", "noop_at_length", partial(bare.try_once, "red"))
    _add("bare_release", "noop", partial(bare.release, "red"))
    _add("bare_refusal", "noop_at_length", partial(bare.begin_close, "held", os.getppid()))
    _add("bare_put", "noop_at_length", partial(bare.put, "file"))
    _add("bare_drop", "noop", partial(bare.drop, "file"))
    sys.exit(main())
