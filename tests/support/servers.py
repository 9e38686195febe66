"""Real servers: processes that are started as a host starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from mcp import StdioServerParameters
from mcp_types import CallToolResult, TextContent

from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import Store

BOTH_STAGES = pytest.mark.parametrize("options", [[], ["--no-quick"]], ids=["quick", "sdk"])
"""Runs a test of a server on stdio with its quick stage and with the SDK's server alone: options of `serve`."""

PYTHON_ENVIRONMENT = dict(os.environ)
"""Handed to every child, or coverage and PYTHONPATH do not reach it."""

# The envelope of a 2026-07-28 request, without a handshake before it.
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def stdio(directory: Path) -> StdioServerParameters:
    """Return what starts a server on *directory*."""
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_claims", "serve", "--dir", str(directory)],
        env=PYTHON_ENVIRONMENT,
    )


def one_client(store: Store) -> SessionRegistry:
    """Return the sessions of a server that has one client, as over stdio."""
    return SessionRegistry(store, own=process_session(store))


def text_of(result: CallToolResult) -> str:
    """Return the text of an answer."""
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


def structured_of(result: CallToolResult) -> dict[str, Any]:
    """Return the structured part of an answer, which has to be there."""
    assert not result.is_error, text_of(result)
    assert result.structured_content is not None
    return dict(result.structured_content)


def in_queue(claims_dir: Path) -> list[str]:
    """Return the alarms of those who wait, or have waited a moment ago, in the default namespace."""
    return sorted(path.name for path in (claims_dir / "default").glob(".alarm-*"))


def has_imported_the_sdk(pid: int) -> bool:
    """Return whether the server *pid* has, on Linux: pydantic's core is a library that it maps then."""
    return any("pydantic_core" in each.path for each in psutil.Process(pid).memory_maps())


def mcp_claims(constants: Mapping[str, object] | None = None) -> list[str]:
    """Return the command `mcp-claims`, with other values of *constants*: `{"model.expiry.RESERVATION": timedelta(0)}`."""
    if not constants:
        return [sys.executable, "-m", "mcp_claims"]
    lines = ["import datetime", "from importlib import import_module"]
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        lines.append(f"import_module('mcp_claims.{module}').{constant} = {value!r}")
    return [sys.executable, "-c", "\n".join([*lines, "from mcp_claims.cli.main import command", "command()"])]


class RawServer:
    """A server process and its pipes, for tests of what is on the wire and of how it ends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._last_id = 0

    @property
    def stdin(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def send(
        self, tool: str, arguments: dict[str, Any], *, token: int | None = None, more: Mapping[str, Any] | None = None
    ) -> int:
        """Send a call, with a progress *token* by choice and with *more* in `_meta`, and return its id; nothing is read."""
        self._last_id += 1
        meta = ENVELOPE | ({} if token is None else {"progressToken": token}) | dict(more or {})
        call = {"name": tool, "arguments": arguments, "_meta": meta}
        self.send_line(json.dumps({"jsonrpc": "2.0", "id": self._last_id, "method": "tools/call", "params": call}))
        return self._last_id

    def send_line(self, line: str) -> None:
        """Send *line* as it is."""
        self.stdin.write(line + "\n")
        self.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Read the next message."""
        line = self.stdout.readline()
        assert line, "the server closed its stdout"
        message: dict[str, Any] = json.loads(line)
        return message

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call *tool* and return its structured answer."""
        sent = self.send(tool, arguments)
        message = self.receive()
        assert message["id"] == sent
        structured: dict[str, Any] = message["result"]["structuredContent"]
        return structured


@contextmanager
def raw_server(
    directory: Path | None,
    *arguments: str,
    stderr: int | None = None,
    env: dict[str, str] | None = None,
    constants: Mapping[str, object] | None = None,
) -> Iterator[RawServer]:
    """Start a server on *directory*, or on the store in *arguments*; it is killed at the end if it is still there.

    *constants* are those of `mcp_claims`.
    """
    where = [] if directory is None else ["--dir", str(directory)]
    process = subprocess.Popen(
        [*mcp_claims(constants), "serve", *where, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=PYTHON_ENVIRONMENT | (env or {}),
    )
    try:
        yield RawServer(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    # What the test wrote last went to a server that has ended.
                    continue
