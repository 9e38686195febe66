"""Threads that do something meanwhile."""

from __future__ import annotations

import signal
import sys
import threading
from queue import Queue

import pytest

from mcp_claims.stores.threads import start_daemon_thread


@pytest.mark.rule("L4")
@pytest.mark.skipif(sys.platform == "win32", reason="there threads get no signals")
def test_no_background_thread_takes_signals() -> None:
    """While `run` renews it awaits none, and the kernel would give its SIGTERM to a thread that does not block it."""
    notified: Queue[tuple[set[int], bool]] = Queue()

    def notify() -> None:
        notified.put((signal.pthread_sigmask(signal.SIG_BLOCK, []), threading.current_thread().daemon))

    start_daemon_thread(notify, "test")
    blocked, daemon = notified.get(timeout=20)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGCHLD, signal.SIGCONT} <= blocked
    assert daemon
