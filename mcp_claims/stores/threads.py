"""Threads that do something meanwhile and end with the process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Thread


def start_daemon_thread(do: Callable[[], None], name: str) -> None:
    """Start a thread called *name* that does *do*; raise `RuntimeError` if the system has none left.

    A daemon: it must not keep the process from ending, whatever it waits for.  And it takes no signals: `mcp-claims run`
    blocks and awaits them, and one that the kernel gave to another thread instead would end it, and so the command.
    """

    def without_signals() -> None:
        if sys.platform != "win32":
            import signal

            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        do()

    Thread(target=without_signals, name=name, daemon=True).start()
