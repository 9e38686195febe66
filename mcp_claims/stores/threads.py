"""Background threads that end with the process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from threading import Thread


def start_daemon_thread(run: Callable[[], None], name: str) -> None:
    """Start a thread called *name* that calls *run*; raise `RuntimeError` if the system has no thread left.

    A daemon: it must not keep the process alive, whatever it waits for.  It blocks all signals: `mcp-claims run` blocks
    and awaits them in its own thread, and a signal that the kernel delivered to another thread would end the process,
    and so the command.
    """

    def run_without_signals() -> None:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        run()

    Thread(target=run_without_signals, name=name, daemon=True).start()
