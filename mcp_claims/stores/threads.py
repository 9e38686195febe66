"""Background threads that end with the process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextvars import copy_context
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


def call_within(seconds: float, call: Callable[[], T], progress: Callable[[], object] = lambda: None) -> T:
    """Return `call()`, which runs in a thread; raise `TimeoutError` once *progress* returns the same after *seconds*.

    The thread that is left behind then, as by a network file system that hangs, ends with the process.
    """
    ended, context = Event(), copy_context()
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(context.run(call))
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)
        ended.set()

    start_daemon_thread(run, "mcp-claims call")
    before = progress()
    while not ended.wait(seconds):
        if progress() == before:
            raise TimeoutError
        before = progress()
    if raised:
        raise raised[0]
    return returned[0]


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
