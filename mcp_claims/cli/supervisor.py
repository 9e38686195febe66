"""A command in a child process that exists before the command starts, and that does not outlive this process.

On POSIX the child is forked first and waits at a gate, so that a claim can be bound to it before the command does
anything.  On Linux the kernel kills it when this process dies (PR_SET_PDEATHSIG, prctl(2)): otherwise the command would
go on while nobody renews its claim.
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
# A terminal sends these to the command as well as to us.
_FROM_TERMINAL = ("SIGINT", "SIGQUIT", "SIGHUP", "SIGWINCH", "SIGCONT")


class CannotStartError(Exception):
    """The command cannot be run; `exit_code` is what a shell would exit with."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"cannot run {command}: {os.strerror(code)}")
        self.exit_code = 127 if code == errno.ENOENT else 126


if sys.platform != "win32":

    class Child:
        """A child process that will run *command*; leaving the block kills it.  For the main thread only."""

        def __init__(self, command: Sequence[str]) -> None:
            self._command = list(command)
            self._ended = self._started = False
            self.exit_code = 0
            # Loaded before the fork: between fork and exec a process should do as little as possible.
            libc = ctypes.CDLL(None) if sys.platform == "linux" else None
            parent = os.getpid()
            self._failure, failure = os.pipe()
            gate, self._gate = os.pipe()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            # Our parent may have ignored SIGCHLD.  The kernel would then reap the command and never notify us of its end.
            ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.pid: int | None = os.fork()
            if self.pid == 0:
                if ignored:  # The command inherits what it would inherit without us.
                    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
                _wait_and_run(self._command, gate, self._gate, failure, libc, parent)
            os.close(gate)
            os.close(failure)

        def start(self) -> None:
            """Open the gate; raise `CannotStartError` if the command cannot be run.

            From here on this thread blocks signals, and `wait` passes them on to the command.
            """
            # The thread of the watcher does not block signals, so the kernel could deliver them to it.
            WATCHER.stop()
            signal.pthread_sigmask(signal.SIG_BLOCK, _signals(*_FORWARDED, "SIGCHLD", "SIGALRM"))
            os.write(self._gate, b"!")
            self._started = True
            problem = os.read(self._failure, 16)
            if problem:
                self._reap()
                raise CannotStartError(self._command[0], int(problem))

        def wait(self, seconds: float) -> bool:
            """Pass signals on for *seconds*, or until the command ends; return whether it has ended."""
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

        def stop(self, timeout: float) -> None:
            """Send the command SIGTERM, and SIGKILL if it has not ended after *timeout* seconds."""
            self._send(signal.SIGTERM)
            if not self.wait(timeout):
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
                # A child that was not started ends by itself, now that the gate is closed.
                if self._started:
                    self._send(signal.SIGKILL)
                self._reap()

        def _send(self, number: int) -> None:
            # The PID cannot be another process's yet: it is free only once it is reaped, here and nowhere else.
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
        """Be the child: wait at the gate, then become *command*; end if the gate is closed instead."""
        try:
            os.close(other_end)
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(0)
            # Ctrl-C while we wait for the key ends the parent; the child ends with it, without a traceback.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if not os.read(gate, 1):
                os._exit(0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # Python ignores SIGPIPE; the command must not inherit that.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execvp(command[0], command)
        except OSError as error:
            os.write(failure, str(error.errno).encode())
        finally:
            os._exit(127)

    def _next_signal() -> tuple[int, bool]:
        """Wait for a signal; return it, and whether a terminal sent it, which sends it to the command as well."""
        waited = _signals(*_FORWARDED, "SIGCHLD", "SIGALRM")
        if sys.platform == "darwin":
            # Nothing shows who sent it, so a signal that a terminal can send counts as sent by ours, if we have one.
            number = int(signal.sigwait(waited))
            return number, signal.Signals(number).name in _FROM_TERMINAL and sys.stdin.isatty()
        found = signal.sigwaitinfo(waited)
        return found.si_signo, found.si_code > 0 and signal.Signals(found.si_signo).name in _FROM_TERMINAL

    def _signals(*names: str) -> set[signal.Signals]:
        return {signal.Signals[name] for name in names}

else:

    class Child:
        """A process that runs *command*.  Windows can neither make it before it starts nor end it with this process."""

        pid: int | None = None

        def __init__(self, command: Sequence[str]) -> None:
            self._command = list(command)
            self._process: subprocess.Popen[bytes] | None = None
            self.exit_code = 0

        def start(self) -> None:
            """Start the command; raise `CannotStartError` if it cannot be run."""
            try:
                self._process = subprocess.Popen(self._command)
            except OSError as error:
                raise CannotStartError(self._command[0], error.errno or errno.ENOENT) from error

        def wait(self, seconds: float) -> bool:
            """Wait for *seconds*, or until the command ends; return whether it has ended."""
            assert self._process is not None
            deadline = time.monotonic() + seconds
            while True:
                try:
                    self.exit_code = self._process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    return False
                except KeyboardInterrupt:
                    continue  # The terminal has sent the Ctrl-C to the command as well.
                return True

        def stop(self, timeout: float) -> None:
            """Terminate the command, and kill it if it has not ended after *timeout* seconds."""
            assert self._process is not None
            self._process.terminate()
            if not self.wait(timeout):
                self._process.kill()
                self.wait(timeout)

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
