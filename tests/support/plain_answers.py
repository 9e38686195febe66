"""`python -m tests.support.plain_answers`: write `mcp_claims/server/plain.json`, what the SDK's server answers.

The quick stage sends these answers, which do not depend on claims.  They come from that server itself, over stdio.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

import mcp_claims
from tests.support.servers import ENVELOPE, PYTHON_ENVIRONMENT

FILE = Path(mcp_claims.__file__).with_name("server") / "plain.json"

_INITIALIZE = {"protocolVersion": "", "capabilities": {}, "clientInfo": {"name": "plain", "version": "1"}}
_LISTS = ["tools/list", "prompts/list", "resources/list", "resources/templates/list"]
# These fields depend on the request or on claims, so the quick stage fills them in.
_FILLED_IN = {
    "initialize": {"protocolVersion"},
    "resources/list": {"resources", "nextCursor"},
    "tools/call": {"content", "structuredContent", "isError"},
}
_READ = {"uri": "claims://all"}
_CALL = {"name": "list_claims", "arguments": {}}


def make() -> dict[str, Any]:
    """Return the answers of the SDK's server, by kind of protocol and method."""
    handshake = _ask(
        {"initialize": _INITIALIZE, "ping": {}}
        | {method: {} for method in _LISTS}
        | {"resources/read": _READ, "tools/call": _CALL}
    )
    methods: dict[str, dict[str, Any]] = (
        {"server/discover": {}} | {method: {} for method in _LISTS} | {"resources/read": _READ, "tools/call": _CALL}
    )
    asked = {method: params | {"_meta": ENVELOPE} for method, params in methods.items()}
    listen = {"notifications": {"toolsListChanged": True}, "_meta": ENVELOPE}
    modern = _ask(asked | {"subscriptions/listen": listen, "initialize": _INITIALIZE})
    refused = modern.pop("initialize")["error"]
    del refused["data"]["requested"]
    return {
        "versions": {"handshake": HANDSHAKE_PROTOCOL_VERSIONS, "modern": MODERN_PROTOCOL_VERSIONS},
        "closed": modern.pop("subscriptions/listen")["error"],
        "initialize after discover": refused,
        "handshake": {method: _fixed_part(method, answer) for method, answer in handshake.items()},
        "modern": {method: _fixed_part(method, answer) for method, answer in modern.items()},
    }


def _fixed_part(method: str, answer: dict[str, Any]) -> dict[str, Any]:
    filled_in = _FILLED_IN.get(method, set())
    fixed = {name: value for name, value in answer["result"].items() if name not in filled_in}
    # Replaced in each answer: so it stands where the SDK's server has it.
    return fixed | {"contents": []} if method == "resources/read" else fixed


def _ask(requests: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the answer to each method, asked with its parameters in this order."""
    lines = [
        {"jsonrpc": "2.0", "id": method, "method": method, "params": params} for method, params in requests.items()
    ]
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, "-m", "mcp_claims", "serve", "--no-quick", "--dir", directory],
            input="".join(f"{json.dumps(line)}\n" for line in lines),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=PYTHON_ENVIRONMENT,
        )
    answers = {answer.get("id"): answer for answer in map(json.loads, done.stdout.splitlines())}
    # Not in the order of the answers, which depends on how long each takes.
    return {method: answers[method] for method in requests}


def text() -> str:
    """Return the file as it should be."""
    return json.dumps(make(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
