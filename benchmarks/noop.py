"""The floor of a call: `mcp-claims` with two more tools, which do nothing and answer words and structure.

`noop` answers two words; `noop_at_length` what `try_claim` answers, for what the SDK takes for the length of it.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from mcp_types import CallToolResult, TextContent, Tool

from mcp_claims.cli.main import main
from mcp_claims.patience import Report
from mcp_claims.server.tools import TOOLS, ClaimsTool
from mcp_claims.sessions import Caller, Sessions

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


async def _noop(
    name: str,
    sessions: Sessions,  # noqa: ARG001
    caller: Caller,  # noqa: ARG001
    arguments: dict[str, Any] | None,  # noqa: ARG001
    report: Report,  # noqa: ARG001
) -> CallToolResult:
    text, facts = _ANSWERS[name]
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=facts)


if __name__ == "__main__":
    for name in _ANSWERS:
        listed = Tool(name=name, input_schema={"type": "object"}, output_schema={"type": "object"})
        TOOLS[name] = ClaimsTool(listed, partial(_noop, name))
    sys.exit(main())
