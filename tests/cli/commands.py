"""Running `mcp-claims` as a person or a script does."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.programs import installed
from tests.support.servers import PYTHON_ENVIRONMENT

COMMAND = [sys.executable, "-m", "mcp_claims"]
TIMEOUT = 150.0
"""Seconds within which anything happens, on a machine that is busy with other things, too."""


class Commands:
    """The commands, on one claims directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = PYTHON_ENVIRONMENT | {"MCP_CLAIMS_DIR": str(directory)}

    def __call__(
        self, *arguments: object, output: str = "", under: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with *output* on its standard input; *under* are words before the command."""
        return subprocess.run(
            [*under, *COMMAND, *map(str, arguments)],
            env=self.environment,
            input=output,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def json(self, *arguments: object, under: Sequence[str] = ()) -> dict[str, Any]:
        """Run a command with `--json` and return what it prints."""
        done = self(*arguments, "--json", under=under)
        assert done.stderr == ""
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    @contextmanager
    def start(self, *arguments: object, **popen: Any) -> Iterator[subprocess.Popen[str]]:
        """Start a command that goes on; what is left of it in the end is killed."""
        command = [*COMMAND, *map(str, arguments)]
        with subprocess.Popen(command, env=self.environment, text=True, **popen) as process:
            try:
                yield process
            finally:
                process.kill()


@contextmanager
def at_terminal(
    command: list[str], environment: dict[str, str], *, stdout: int | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run *command* as the leader of a terminal of its own; yields it and the person's side of the terminal.

    What is left of it in the end is killed.
    """
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [installed("setsid", "util-linux"), "-c", "-w", *command],
            env=environment,
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs if stdout is None else None,
        ) as process:
            os.close(theirs)
            try:
                yield process, ours
            finally:
                process.kill()
    finally:
        os.close(ours)


def eventually(holds: Callable[[], object]) -> None:
    """Wait until *holds* returns something true."""
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(0.01)
