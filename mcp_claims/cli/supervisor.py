"""A command that runs in a process of its own, made before it may start, and never without whoever watches over it.

On POSIX the process is forked first and waits at a gate, so that it can be given a claim before it does anything; on
Linux the kernel kills it when we die (PR_SET_PDEATHSIG, prctl(2)), so that nothing goes on that nobody renews.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import NoReturn, Self

from mcp_claims.stores.files.watch import WATCHER

_PR_SET_PDEATHSIG = 1
_FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT")
# What a terminal sends to us it sends to the command, too.
_FROM_TERMINAL = ("SIGINT", "SIGQUIT", "SIGHUP", "SIGWINCH", "SIGCONT")


class CannotStartError(Exception):
    """The command cannot be run; `exit_code` is what a shell would exit with."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"cannot run {command}: {os.strerror(code)}")
        self.exit_code = 127 if code == errno.ENOENT else 126


if sys.platform != "win32":

    class Child:
        """A process that will run *command*; leaving it kills what was never started.  For the main thread."""

        def __init__(self, command: Sequence[str]) -> None:
            self._command = list(command)
            self._ended = self._started = False
            self.exit_code = 0
            # Loaded before the fork: a forked process should do as little as possible.
            libc = ctypes.CDLL(None) if sys.platform == "linux" else None
            parent = os.getpid()
            self._failure, failure = os.pipe()
            gate, self._gate = os.pipe()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            # Who started us may ignore it: the kernel would reap the command and never tell us that it has ended.
            ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.pid: int | None = os.fork()
            if self.pid == 0:
                if ignored:  # The command inherits what it would have without us.
                    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
                _wait_and_run(self._command, gate, self._gate, failure, libc, parent)
            os.close(gate)
            os.close(failure)

        def start(self) -> None:
            """Open the gate; raise `CannotStartError` if there is no such command.  From here signals are the command's."""
            # Threads that do not block signals would take them from us.
            WATCHER.stop()
            signal.pthread_sigmask(signal.SIG_BLOCK, _signals(*_FORWARDED, "SIGCHLD", "SIGALRM"))
            os.write(self._gate, b"!")
            self._started = True
            told = os.read(self._failure, 16)
            if told:
                self._reap()
                raise CannotStartError(self._command[0], int(told))

        def wait(self, seconds: float) -> bool:
            """Pass signals on for *seconds*; tell whether the command has ended."""
            deadline = time.monotonic() + seconds
            while not self._ended and (left := deadline - time.monotonic()) > 0:
                signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))
                number, from_terminal = _next_signal()
                if number == signal.SIGCHLD:
                    self._reap(os.WNOHANG)
                elif number != signal.SIGALRM and not from_terminal:
                    self._send(number)
            signal.setitimer(signal.ITIMER_REAL, 0)
            return self._ended

        def stop(self, patience: float) -> None:
            """End the command: ask it to, and kill it if it has not ended after *patience* seconds."""
            self._send(signal.SIGTERM)
            if not self.wait(patience):
                self._send(signal.SIGKILL)
                self._reap()

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            os.close(self._gate)
            os.close(self._failure)
            if not self._ended:
                # Without the gate being opened it has ended by now or is about to.
                if self._started:
                    self._send(signal.SIGKILL)
                self._reap()

        def _send(self, number: int) -> None:
            # Its PID is its own until it is reaped, which nobody else does.
            if not self._ended and self.pid is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(self.pid, number)

        def _reap(self, options: int = 0) -> None:
            assert self.pid is not None
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._ended = True
                code = os.waitstatus_to_exitcode(status)
                self.exit_code = code if code >= 0 else 128 - code

    def _wait_and_run(
        command: list[str], gate: int, other_end: int, failure: int, libc: ctypes.CDLL | None, parent: int
    ) -> NoReturn:
        """Be the child: wait at the gate, then become *command*."""
        try:
            os.close(other_end)
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(0)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Whoever is refused was asked to end; we end with it.
            if not os.read(gate, 1):
                os._exit(0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # What Python ignores for itself, the command is not to.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execvp(command[0], command)
        except OSError as error:
            os.write(failure, str(error.errno).encode())
        finally:
            os._exit(127)

    def _next_signal() -> tuple[int, bool]:
        """Wait for a signal; return it and whether it comes from a terminal, whose other processes get it as well."""
        waited = _signals(*_FORWARDED, "SIGCHLD", "SIGALRM")
        if sys.platform == "darwin":
            # Nothing tells who sent it.
            number = int(signal.sigwait(waited))
            return number, signal.Signals(number).name in _FROM_TERMINAL and sys.stdin.isatty()
        found = signal.sigwaitinfo(waited)
        return found.si_signo, found.si_code > 0 and signal.Signals(found.si_signo).name in _FROM_TERMINAL

    def _signals(*names: str) -> set[signal.Signals]:
        return {signal.Signals[name] for name in names}

else:

    class Child:
        """A process that runs *command*.  Here it can neither be made before it starts nor be ended by our death."""

        pid: int | None = None

        def __init__(self, command: Sequence[str]) -> None:
            self._command = list(command)
            self._process: subprocess.Popen[bytes] | None = None
            self.exit_code = 0

        def start(self) -> None:
            """Start it; raise `CannotStartError` if there is no such command."""
            try:
                self._process = subprocess.Popen(self._command)
            except OSError as error:
                raise CannotStartError(self._command[0], error.errno or errno.ENOENT) from error

        def wait(self, seconds: float) -> bool:
            """Wait for *seconds*; tell whether the command has ended."""
            assert self._process is not None
            deadline = time.monotonic() + seconds
            while True:
                try:
                    self.exit_code = self._process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    return False
                except KeyboardInterrupt:
                    continue  # The command got it, too.
                return True

        def stop(self, patience: float) -> None:
            """End the command."""
            assert self._process is not None
            self._process.terminate()
            if not self.wait(patience):
                self._process.kill()
                self.wait(patience)

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
