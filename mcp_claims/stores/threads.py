"""Background threads that end with the process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextvars import copy_context
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """`call()` in a thread of its own, in the context of the caller."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call, self._context, self._ended = call, copy_context(), Event()
        self._returned: list[T] = []
        self._raised: list[BaseException] = []
        start_daemon_thread(self._run, "mcp-claims call")

    def has_ended(self, within: float) -> bool:
        """Return whether the call ends within *within* seconds."""
        return self._ended.wait(within)

    def result(self) -> T:
        """Return or raise what the call does, once it has ended."""
        self._ended.wait()
        if self._raised:
            raise self._raised[0]
        return self._returned[0]

    def _run(self) -> None:
        try:
            self._returned.append(self._context.run(self._call))
        except BaseException as error:  # noqa: BLE001 - raised again in the other thread
            self._raised.append(error)
        self._ended.set()


def call_within(seconds: float, call: Callable[[], T], progress: Callable[[], object] = lambda: None) -> T:
    """Return `call()`, which runs in a thread; raise `TimeoutError` once *progress* returns the same after *seconds*.

    The thread that is left behind then, as by a network file system that hangs, ends with the process.
    """
    running = BackgroundCall(call)
    before = progress()
    while not running.has_ended(seconds):
        if progress() == before:
            raise TimeoutError
        before = progress()
    return running.result()


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
