"""What the tests of the command line share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Commands


@pytest.fixture
def commands(claims_dir: Path) -> Commands:
    """The commands, on a claims directory that does not exist yet."""
    return Commands(claims_dir)


@pytest.fixture
def somebody() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives on, on whose behalf others can claim."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()
