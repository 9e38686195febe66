"""Fixtures that start sessions of the original, run by Node, and sessions of mcp-claims, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from tests.processes.conftest import Child
from tests.stores.agent_awareness.original.mcp_claims_process import open_layout_store
from tests.support.programs import installed

HERE = Path(__file__).parent


class SessionProcess(Child):
    """A session of either kind, which reads commands from its stdin."""

    def __init__(self, *command: object) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.pid = self.process.pid
        self.name = ""

    def call(self, call: str, key: str | None = None, plugin: str = "ci", **more: Any) -> Any:
        """Let a session of the original make *call*; return the result."""
        answer = self.ask(call=call, plugin=plugin, key=key, **more)
        assert "answer" in answer, answer
        return answer["answer"]

    def kill_and_reap(self) -> None:
        """Kill the process and reap it, so that nothing runs under its PID."""
        self.process.kill()
        self.process.wait()


class StartSession(Protocol):
    def __call__(self, *arguments: object) -> SessionProcess: ...


@pytest.fixture
def processes() -> Iterator[list[SessionProcess]]:
    started: list[SessionProcess] = []
    yield started
    for process in started:
        process.close()


@pytest.fixture
def start_original(processes: list[SessionProcess], claims_dir: Path) -> StartSession:
    """Return a function that starts a session of the original on the claims directory."""
    node = installed("node", "nodejs")  # 18 or later.

    def start(*arguments: object) -> SessionProcess:
        process = SessionProcess(node, HERE / "original.mjs", claims_dir, *arguments)
        processes.append(process)
        process.name = process.receive()["name"]
        return process

    return start


@pytest.fixture
def store(claims_dir: Path) -> AgentAwarenessStore:
    return open_layout_store(claims_dir)


@pytest.fixture
def session(store: AgentAwarenessStore) -> Iterator[Session]:
    """A session of mcp-claims in this process."""
    with process_session(store) as session:
        yield session


@pytest.fixture
def start_ours(processes: list[SessionProcess], claims_dir: Path) -> StartSession:
    """Return a function that starts a session of mcp-claims; its arguments are those of `mcp_claims_process.py`."""

    def start(*arguments: object) -> SessionProcess:
        process = SessionProcess(sys.executable, HERE / "mcp_claims_process.py", claims_dir, *arguments)
        processes.append(process)
        process.name = process.receive()["name"]
        return process

    return start
