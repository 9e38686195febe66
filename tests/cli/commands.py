"""Running `mcp-claims` as a person or a script does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.servers import PYTHON_ENVIRONMENT

COMMAND = [sys.executable, "-m", "mcp_claims"]


class Commands:
    """The commands, on one claims directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = PYTHON_ENVIRONMENT | {"MCP_CLAIMS_DIR": str(directory)}

    def __call__(self, *arguments: object, said: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with *said* on its standard input."""
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self.environment,
            input=said,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def facts(self, *arguments: object) -> dict[str, Any]:
        """Run a command with `--json` and return what it prints."""
        done = self(*arguments, "--json")
        assert done.stderr == ""
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def start(self, *arguments: object, **popen: Any) -> subprocess.Popen[str]:
        """Start a command that goes on."""
        return subprocess.Popen([*COMMAND, *map(str, arguments)], env=self.environment, text=True, **popen)
