"""Threads of the store."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from threading import Thread


def start_thread(name: str, run: Callable[[], None]) -> Thread:
    """Have *run* run in a thread that keeps neither the process from ending nor a signal from its main thread.

    Whoever waits for signals (`mcp-claims run`) blocks them in its own thread; another one that does not would take them,
    and the end of a command would never be heard of.
    """

    def without_signals() -> None:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        run()

    thread = Thread(target=without_signals, name=name, daemon=True)
    thread.start()
    return thread
