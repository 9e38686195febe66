"""Child processes that get their commands over pipes and never outlive their test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.promises import _histories_are_clean  # noqa: F401 (a fixture)


class Child:
    """A process that runs a command of a script beside this file."""

    def __init__(self, script: str, *arguments: object, pass_fds: tuple[int, ...] = ()) -> None:
        command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
        # The child must import the package that the tests import.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, pass_fds=pass_fds
        )
        self.pid = self.process.pid

    def send(self, **order: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the child has ended"
        received: dict[str, Any] = json.loads(line)
        return received

    def ask(self, **order: object) -> dict[str, Any]:
        self.send(**order)
        return self.receive()

    def hear_all(self) -> list[dict[str, Any]]:
        """Return what is said up to the end; half a line, of a child that was killed, is nothing said."""
        assert self.process.stdout
        return [json.loads(line) for line in self.process.stdout if line.endswith(b"\n")]

    def kill(self) -> None:
        """Kill the process, and return once it is dead though not reaped."""
        self.process.kill()
        self.await_death()

    def await_death(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def await_stop(self) -> None:
        """Return once the process has been stopped."""
        status = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert status
        assert status.si_code == os.CLD_STOPPED

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()


class Spawn(Protocol):
    def __call__(self, script: str, *arguments: object, pass_fds: tuple[int, ...] = ()) -> Child: ...


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children: list[Child] = []

    def start(script: str, *arguments: object, pass_fds: tuple[int, ...] = ()) -> Child:
        children.append(Child(script, *arguments, pass_fds=pass_fds))
        return children[-1]

    yield start
    for child in children:
        child.close()
