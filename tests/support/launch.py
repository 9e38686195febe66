"""Starting `tests.support.process`, in new namespaces where a test needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcp_claims.model.records import Holder
from tests.support.process import COMMAND, holder_from_json, holder_to_json

ROOT = Path(__file__).parents[2]


class Process:
    """A running `tests.support.process`."""

    def __init__(self, command: list[str]) -> None:
        self._popen = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        self.holder = holder_from_json(self._line())

    def ask(self, line: str) -> str:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()
        return self._line()

    def state_of(self, holder: Holder) -> str:
        return self.ask(f"judge {holder_to_json(holder)}")

    def end(self) -> None:
        """Close its input, which ends it; kill it if that does not."""
        with self._popen:
            try:
                self._popen.communicate(timeout=60)
            finally:
                self._popen.kill()

    def _line(self) -> str:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()


@contextmanager
def process(*options: str, under: list[str] | None = None) -> Iterator[Process]:
    other = Process([*(under or []), *COMMAND, *options])
    try:
        yield other
    finally:
        other.end()


def unshare(*flags: str) -> list[str]:
    """Return the words that run a command in new namespaces; where that is not allowed, skip the test, or fail it in CI."""
    root = sys.platform == "linux" and os.geteuid() == 0
    text_of = ["unshare", *([] if root else ["--user", "--map-root-user"]), *flags]
    try:
        subprocess.run([*text_of, "true"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI has to allow namespaces, or nothing tests them: {error}")
        pytest.skip(f"no new namespaces here: {error}")
    return text_of
