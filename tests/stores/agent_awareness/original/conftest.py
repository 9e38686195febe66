"""The parties: sessions of the original, run by Node, and processes of ours."""

from __future__ import annotations

import os
import shutil
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
from tests.stores.agent_awareness.original.partner import layout_store

HERE = Path(__file__).parent


class Party(Child):
    """A process of either kind; it is told what to do over its stdin."""

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
        """Let a session of the original make *call*; return its answer."""
        answer = self.ask(call=call, plugin=plugin, key=key, **more)
        assert "answer" in answer, answer
        return answer["answer"]

    def bury(self) -> None:
        """Kill the process and reap it, so that its PID is nobody's."""
        self.process.kill()
        self.process.wait()


class Original(Protocol):
    def __call__(self, *arguments: object) -> Party: ...


@pytest.fixture
def parties() -> Iterator[list[Party]]:
    started: list[Party] = []
    yield started
    for party in started:
        party.close()


@pytest.fixture
def original(parties: list[Party], claims_dir: Path) -> Original:
    """Start sessions of the original on the claims directory."""
    node = shutil.which("node")
    assert node, "these tests need Node (any version since 18), as on the machines that run agent-awareness"

    def start(*arguments: object) -> Party:
        party = Party(node, HERE / "original.mjs", claims_dir, *arguments)
        parties.append(party)
        party.name = party.hear()["name"]
        return party

    return start


@pytest.fixture
def store(claims_dir: Path) -> AgentAwarenessStore:
    return layout_store(claims_dir)


@pytest.fixture
def session(store: AgentAwarenessStore) -> Iterator[Session]:
    """A session of ours."""
    with process_session(store) as session:
        yield session


@pytest.fixture
def ours(parties: list[Party], claims_dir: Path) -> Original:
    """Start sessions of ours in processes of their own: `ours(COMMAND, ...)`, see `partner.py`."""

    def start(*arguments: object) -> Party:
        party = Party(sys.executable, HERE / "partner.py", claims_dir, *arguments)
        parties.append(party)
        party.name = party.hear()["name"]
        return party

    return start
