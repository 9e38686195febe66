"""Finding the processes that a test run started and left behind."""

from __future__ import annotations

import os
import time
import uuid

import psutil
import pytest

_MARK = "MCP_CLAIMS_TEST_RUN"
_TIMEOUT = 5.0  # s, for processes that are about to end


def mark_children() -> None:
    """Put a mark of this run into the environment that every process started from now on inherits."""
    os.environ[_MARK] = uuid.uuid4().hex


def exit_with_failure_if_left_behind() -> None:
    """At the exit of the run, end it as failed if a process with its mark does not end within some seconds."""
    deadline = time.monotonic() + _TIMEOUT
    while (found := _marked()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if found:
        print(*found, sep="\n", flush=True)
        os._exit(pytest.ExitCode.TESTS_FAILED)


def _marked() -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if process.pid != os.getpid() and environment.get(_MARK) == os.environ[_MARK]:
                test = environment.get("PYTEST_CURRENT_TEST", "a test")
                found.append(f"LEFT BEHIND by {test}: {process.pid} {' '.join(process.cmdline())}")
        except (psutil.Error, OSError):  # It has ended, or belongs to another user.
            continue
    return found
