"""A command that does not outlive this process, or the claim for which it runs.

On POSIX a guardian (`guardian.py`) starts and ends the command; this is the other end of its channel.  On Windows a job
object does, as far as it can.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import Self

from mcp_claims.stores.files.watch import WATCHER
from mcp_claims.stores.threads import start_daemon_thread

if sys.platform != "win32":
    from mcp_claims.cli import guardian

_FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT")
# A terminal sends these to the command as well as to us.
_FROM_TERMINAL = ("SIGINT", "SIGQUIT", "SIGHUP", "SIGWINCH", "SIGCONT")
_ENDING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
_KILL_INTERVAL = 0.02  # s


class CannotStartError(Exception):
    """The command cannot be run; `exit_code` is what a shell would exit with."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"cannot run {command}: {os.strerror(code)}")
        self.exit_code = 127 if code == errno.ENOENT else 126


class TooLateError(Exception):
    """The claim had expired before the command was started, so it was not."""


if sys.platform != "win32":
    # The clock that counts expiry (`liveness`); the guardian reads it too.
    _CLOCK: int = {"linux": getattr(time, "CLOCK_BOOTTIME", 0), "darwin": getattr(time, "CLOCK_MONOTONIC_RAW", 0)}.get(
        sys.platform, time.CLOCK_MONOTONIC
    )

    class Child:
        """A process that will run *command*, and its guardian; leaving the block kills what is left of a command that has not ended.

        For the main thread only.
        """

        def __init__(self, command: Sequence[str]) -> None:
            self._command = list(command)
            self._received, self._sending = b"", Lock()
            self._target: int | None = None
            self._problem = 0
            self.ended = self.out_of_time = self.guardian_died = False
            self.exit_code = 0
            #: The last signal that asked this process to end.
            self.interrupted_by: str | None = None
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            self._others = frozenset(
                pid for pid, (parent, _) in guardian.process_table().items() if parent == os.getpid()
            )
            # If the guardian is killed, what it guarded becomes ours to end.
            self._adopts = guardian.proc_is_ours() and guardian.adopt_orphans()
            self._channel, theirs = socket.socketpair()
            theirs.set_inheritable(True)
            # The guardian is born with all signals blocked: a Ctrl-C must not end it before it can block them itself.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self._guardian = subprocess.Popen(
                    [
                        *(sys.executable, "-I", guardian.__file__),
                        *(str(theirs.fileno()), str(_CLOCK), ",".join(str(int(number)) for number in mask)),
                    ],
                    close_fds=False,  # The command inherits what it would inherit without us.
                )
            except OSError as error:
                raise CannotStartError(sys.executable, error.errno or errno.ENOENT) from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                theirs.close()
            #: The process to which the claim has to be bound; it ends after the command.
            self.guardian_pid: int | None = self._guardian.pid

        def start(self, environment: Mapping[str, str], stop_at: float, kill_at: float) -> None:
            """Start the command with *environment* besides ours; raise `CannotStartError` or `TooLateError`.

            See `keep_until` for the times.  From here on this process passes signals on to the command.
            """
            # The thread of the watcher does not block signals, so the kernel could deliver them to it.
            WATCHER.stop()
            signal.pthread_sigmask(signal.SIG_BLOCK, _signals(*_FORWARDED))
            start_daemon_thread(self._pass_signals_on, "mcp-claims signals")
            self.keep_until(stop_at, kill_at)
            for name, value in environment.items():
                self._send(f"set {os.fsencode(f'{name}={value}').hex()}")
            self._send(" ".join(["start", *(os.fsencode(word).hex() for word in self._command)]))
            while self._target is None and not self._problem and not self.guardian_died:
                self._receive(_KILL_INTERVAL)
            if self._problem == errno.ETIME:
                raise TooLateError
            if self._problem or self._target is None:
                raise CannotStartError(self._command[0], self._problem or errno.ECHILD)

        def keep_until(self, stop_at: float, kill_at: float) -> None:
            """Have the command sent SIGTERM at *stop_at* and SIGKILL at *kill_at*, unless this is called again before.

            The times are ticks of this machine's clock.  It happens even if this process is stopped.
            """
            self._send(f"until {stop_at} {kill_at}")

        def stop(self, kill_at: float) -> None:
            """Send the command SIGTERM, and SIGKILL at *kill_at*; return when it has ended."""
            self._send(f"stop {kill_at}")  # Has no effect if the guardian has begun to.
            while not self.wait(_KILL_INTERVAL):
                pass

        def wait(self, seconds: float) -> bool:
            """Wait for *seconds*, or until the command has ended; return whether it has ended."""
            # Somebody may have stopped the guardian.
            with suppress(ProcessLookupError):
                self._guardian.send_signal(signal.SIGCONT)
            deadline = time.monotonic() + seconds
            while not self.ended and (left := deadline - time.monotonic()) > 0:
                self._receive(left)
            return self.ended

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            # The guardian kills what has not ended, and ends.
            self._channel.close()
            self._guardian.send_signal(signal.SIGCONT)
            self._guardian.wait()

        def _send(self, line: str) -> None:
            with self._sending, suppress(OSError):  # The guardian has died; the next `_receive` notices that.
                self._channel.sendall(f"{line}\n".encode())

        def _receive(self, timeout: float) -> None:
            if self.guardian_died or not select.select([self._channel], [], [], timeout)[0]:
                return
            try:
                data = self._channel.recv(4_096)
            except OSError:
                data = b""
            *lines, self._received = (self._received + data).split(b"\n")
            for line in lines:
                word, _, number = line.decode().partition(" ")
                if word == "started":
                    self._target = int(number)
                elif word == "failed":
                    self._problem = int(number)
                elif word == "stopped":
                    self.out_of_time = True
                elif word == "ended":
                    code = int(number)
                    self.ended, self.exit_code = True, code if code >= 0 else 128 - code
            if not data and not self.ended:
                self._replace_guardian()

        def _replace_guardian(self) -> None:
            """End the command, since its guardian was killed."""
            self.ended = self.guardian_died = True
            self.exit_code = 128 + signal.SIGKILL
            self._guardian.wait()
            if self._target is None:
                return
            left = guardian.Processes(self._target, adopted=self._adopts, others=self._others)
            while True:
                left.send(signal.SIGKILL)
                with suppress(ChildProcessError):
                    while os.waitpid(-1, os.WNOHANG)[0]:
                        pass
                if not left.left():
                    return
                time.sleep(_KILL_INTERVAL)

        def _pass_signals_on(self) -> None:
            while True:
                number, from_terminal = _next_signal()
                name = signal.Signals(number).name
                if name in _ENDING:
                    self.interrupted_by = name
                self._send(f"signal {number} {int(not from_terminal)}")

    def _next_signal() -> tuple[int, bool]:
        """Wait for a signal; return it, and whether a terminal sent it, which sends it to the command as well."""
        waited = _signals(*_FORWARDED)
        if sys.platform == "darwin":
            # Nothing shows who sent it, so a signal that a terminal can send counts as sent by ours, if we have one.
            number = int(signal.sigwait(waited))
            return number, signal.Signals(number).name in _FROM_TERMINAL and guardian.in_foreground()
        found = signal.sigwaitinfo(waited)
        return found.si_signo, found.si_code > 0 and signal.Signals(found.si_signo).name in _FROM_TERMINAL

    def _signals(*names: str) -> set[signal.Signals]:
        return {signal.Signals[name] for name in names}

else:
    from mcp_claims.liveness import local_machine

    _KILL_ON_CLOSE, _EXTENDED_LIMITS = 0x2000, 9

    class _BasicLimits(ctypes.Structure):
        _fields_ = (
            ("times", ctypes.c_int64 * 2),
            ("flags", ctypes.c_uint32),
            ("sizes", ctypes.c_size_t * 2),
            ("processes", ctypes.c_uint32),
            ("affinity", ctypes.c_size_t),
            ("classes", ctypes.c_uint32 * 2),
        )

    class _Limits(ctypes.Structure):
        _fields_ = (("basic", _BasicLimits), ("counters", ctypes.c_uint64 * 6), ("memory", ctypes.c_size_t * 4))

    class _Job:
        """A job object with this process in it, and so all that it starts; the end of this process kills the others."""

        def __init__(self) -> None:
            self._kernel = ctypes.windll.kernel32
            self._kernel.CreateJobObjectW.restype = ctypes.c_void_p
            self._kernel.GetCurrentProcess.restype = ctypes.c_void_p
            self._job = ctypes.c_void_p(self._kernel.CreateJobObjectW(None, None))
            self._kill_on_close(True)
            self._kernel.AssignProcessToJobObject(self._job, ctypes.c_void_p(self._kernel.GetCurrentProcess()))

        def release(self) -> None:
            """Let the processes that a command has left behind go on; it ended by itself."""
            self._kill_on_close(False)

        def kill(self, exit_code: int) -> None:
            """Kill everything in the job, this process too, which ends with *exit_code*."""
            self._kernel.TerminateJobObject(self._job, exit_code)

        def _kill_on_close(self, kill: bool) -> None:
            limits = _Limits()
            limits.basic.flags = _KILL_ON_CLOSE if kill else 0
            self._kernel.SetInformationJobObject(
                self._job, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
            )

    class Child:
        """A process that will run *command*, in a job object.

        Windows can neither bind a claim to a process that ends after the job, nor stop it when this process is suspended.
        """

        guardian_pid: int | None = None
        guardian_died = False

        def __init__(self, command: Sequence[str]) -> None:
            self._command = list(command)
            self._process: subprocess.Popen[bytes] | None = None
            self._job = _Job()
            self._stop_at = float("inf")
            self.out_of_time = False
            self.exit_code = 0
            self.interrupted_by: str | None = None

        def start(self, environment: Mapping[str, str], stop_at: float, kill_at: float) -> None:
            """Start the command with *environment* besides ours; raise `CannotStartError` or `TooLateError`."""
            self.keep_until(stop_at, kill_at)
            if self._is_late():
                raise TooLateError
            try:
                self._process = subprocess.Popen(self._command, env=os.environ | dict(environment))
            except OSError as error:
                raise CannotStartError(self._command[0], error.errno or errno.ENOENT) from error

        def keep_until(self, stop_at: float, kill_at: float) -> None:
            """Have `out_of_time` set at *stop_at*, in ticks of this machine's clock, unless this is called again before."""
            self._stop_at = stop_at

        def stop(self, kill_at: float) -> None:
            """Kill the command, what it has started, and this process."""
            self._job.kill(128 + signal.SIGTERM)
            assert self._process is not None
            self._process.kill()  # There was no job.
            self._process.wait()

        def wait(self, seconds: float) -> bool:
            """Wait for *seconds*, or until the command ends; return whether it has ended."""
            assert self._process is not None
            deadline = time.monotonic() + seconds
            while True:
                try:
                    self.exit_code = self._process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self.out_of_time = self._is_late()
                    return False
                except KeyboardInterrupt:
                    self.interrupted_by = "Ctrl-C"  # The terminal has sent it to the command as well.
                    continue
                self._job.release()
                return True

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

        def _is_late(self) -> bool:
            return local_machine().now().ticks >= self._stop_at
