"""The guardian of a command of `run`: it starts the command, and ends after the last process of it.

The claim of `run` is bound to this process, so the key is not free while anything of the command is left, whatever happens
to `run` itself.  It runs this file as a program of its own that needs the standard library only:

    guardian.py CHANNEL CLOCK SIGNALS

CHANNEL is the descriptor of a socket to `run`, CLOCK the number of the clock of all times, SIGNALS those that the command
is to have blocked, with commas.  Lines from `run`:

    set HEX                  put NAME=VALUE, in hexadecimal, into the environment of the command
    start HEX...             start the command with these arguments
    until STOP KILL          send SIGTERM at the time STOP and SIGKILL at KILL, unless another `until` comes before
    stop KILL                send SIGTERM now and SIGKILL at the time KILL
    signal NUMBER SENT       `run` received this signal; pass it on to the command if SENT is 1

Lines to `run`:

    started TARGET           what `os.kill` reaches the command by, 0 if it is found by its parents
    failed ERRNO             the command could not be started; ETIME: the time STOP was past
    stopped                  the time STOP has come
    ended CODE               all that had to end has ended; CODE is the exit code of the command, negative for a signal

1. A session of its own and blocked signals keep away what ends `run` and its process group.  Its command line is not that
   of `run`, so `pkill -f` does not end both.
2. When the channel closes, `run` is dead.  Everything is killed at once, since nobody renews the claim.
3. When `run` is stopped, its last `until` comes true: the command has ended before the claim expires.
4. After `ended` this process waits for the channel to close, so that `run` can release the claim, which an end of this
   process would orphan.
5. A command that ended by itself may leave processes behind.  If it was ended, they end too: SIGTERM, then SIGKILL.
6. On Linux, orphans of the command become children of this process (PR_SET_CHILD_SUBREAPER), so none escapes, not even by
   setsid(2).  Elsewhere the command has a process group of its own, unless it shares the terminal with `run`; processes
   that leave both the group and their parents are not found.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn

assert sys.platform != "win32"


_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_POLL_INTERVAL = 0.5  # s; macOS may drop SIGCHLD
_KILL_INTERVAL = 0.02  # s between two attempts to kill what is left, which may have forked meanwhile
_REST_TIMEOUT = 10.0  # s for what a command that was ended has left, before it is killed
_CATCH_UP = 0.5  # s for a renewal after the machine was suspended: the claim may still be there
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Guardian:
    """The guardian's part of the conversation with `run`, which is at the other end of *channel*."""

    def __init__(self, channel: int, clock: int, command_mask: set[int]) -> None:
        self._channel, self._clock, self._command_mask = channel, clock, command_mask
        self._received = b""
        self._environment: dict[bytes, bytes] = {}
        self._processes: Processes | None = None
        self._pid = 0
        self._code: int | None = None
        self._stop_at = self._kill_at = float("inf")
        self._asleep = self._suspended_time()
        self._not_before = 0.0
        self._early: list[int] = []
        self._stopping = self._interrupted = self._alone = self._reported = False

    def serve(self) -> None:
        """Do what `run` asks for, until it has closed the channel and everything has ended."""
        # The command inherits an ignored SIGCHLD, as it would without us; here it would make the kernel reap it.
        self._ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
        awake, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(awake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        poller = select.poll()
        poller.register(awake, select.POLLIN)
        poller.register(self._channel, select.POLLIN)
        while not (self._alone and self._is_over()):
            for descriptor, _ in poller.poll(self._pause() * 1_000):
                if descriptor == awake:
                    os.read(awake, 4_096)
                elif not self._read_orders():
                    self._alone = True
                    poller.unregister(self._channel)
            self._reap()
            self._end_what_must_end()
            if self._code is not None and self._is_over() and not self._reported:
                self._reported = True
                self._report(f"ended {self._code}")

    def _pause(self) -> float:
        if self._alone or self._stopping:
            return _KILL_INTERVAL
        return min(_POLL_INTERVAL, max(0.0, self._stop_at - self._now()))

    def _read_orders(self) -> bool:
        """Carry out what `run` has sent; return whether it is still there."""
        try:
            data = os.read(self._channel, 65_536)
        except OSError:
            data = b""
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            word, *arguments = line.decode().split(" ")
            if word == "until":
                # Not once the command is being ended: each renewal would put off the end of what ignores SIGTERM.
                if not self._stopping:
                    self._stop_at, self._kill_at = map(float, arguments)
            elif word == "stop":
                self._begin_to_stop(float(arguments[0]))
            elif word == "signal":
                self._pass_on(int(arguments[0]), sent=arguments[1] == "1")
            elif word == "set":
                name, _, value = bytes.fromhex(arguments[0]).partition(b"=")
                self._environment[name] = value
            elif word == "start":
                self._start([bytes.fromhex(each) for each in arguments])
        return bool(data)

    def _start(self, command: list[bytes]) -> None:
        if self._now() >= self._stop_at:
            # `run` was stopped between its grant and this order: somebody else may hold the key by now.
            self._report(f"failed {errno.ETIME}")
            return
        # Loaded before the fork: between fork and exec a process should do as little as possible.
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        adopted = adopt_orphans()
        alone = not (adopted and proc_is_ours())  # Not all that belongs to the command can be found.
        own_group = alone and not in_foreground()
        guardian, (problem, failure) = os.getpid(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                if libc is not None:
                    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                    if os.getppid() != guardian:
                        os._exit(0)
                if own_group:
                    os.setpgid(0, 0)
                self._become(command)
            except (OSError, ValueError) as error:  # ValueError: an empty name.
                os.write(failure, str(getattr(error, "errno", errno.ENOENT)).encode())
            finally:
                os._exit(127)
        os.close(failure)
        # After the fork, so that the command stays in the session and at the terminal of `run`.
        with suppress(PermissionError):
            os.setsid()
        found = os.read(problem, 16)
        os.close(problem)
        if found:
            os.waitpid(self._pid, 0)
            self._report(f"failed {int(found)}")
            return
        target = 0 if not alone else -self._pid if own_group else self._pid
        self._processes = Processes(target, adopted=adopted)
        self._report(f"started {target}")
        for number in self._early:
            self._pass_on(number, sent=True)

    def _become(self, command: list[bytes]) -> NoReturn:
        # Python ignores the first two, a shell the third for what it starts in the background, although `run` passes it on.
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN if self._ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._command_mask)
        os.execvpe(command[0], command, os.environb | self._environment)

    def _pass_on(self, number: int, *, sent: bool) -> None:
        self._interrupted |= number in _ENDING
        if self._processes is None:
            # The command gets it as soon as it runs, also from a terminal, which has not reached it.
            self._early.append(number)
            return
        if not sent or self._code is not None:
            return
        if number in _ENDING:
            # To all, as a terminal does: a shell ends by SIGINT only if what it waits for does.
            self._processes.send(number)
            return
        # The PID cannot be another process's yet: it is free only once it is reaped, here and nowhere else.
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self._pid, number)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if self._processes is not None and ended[0] == self._pid:
                    self._processes.forget(self._pid)
                    self._code = os.waitstatus_to_exitcode(ended[1])
                    if not self._stopping and (self._code < 0 or (self._interrupted and self._code)):
                        self._begin_to_stop(min(self._kill_at, self._now() + _REST_TIMEOUT))

    def _end_what_must_end(self) -> None:
        if self._processes is None or self._is_over():
            return
        now, asleep = self._now(), self._suspended_time()
        if asleep > self._asleep + 1:
            self._not_before = now + _CATCH_UP
        self._asleep = asleep
        if now >= max(self._stop_at, self._not_before) and not self._stopping and not self._alone:
            self._report("stopped")
            self._begin_to_stop(self._kill_at)
        if self._alone or now >= max(self._kill_at, self._not_before):
            self._processes.send(signal.SIGKILL)

    def _begin_to_stop(self, kill_at: float) -> None:
        if self._processes is None or self._stopping or self._reported:
            return
        self._stopping, self._kill_at = True, kill_at
        self._processes.send(signal.SIGTERM)

    def _is_over(self) -> bool:
        """Return whether all that has to end has ended."""
        if self._processes is None:
            return True
        if self._code is None:
            return False
        return not (self._stopping or (self._alone and not self._reported)) or not self._processes.left()

    def _report(self, line: str) -> None:
        with suppress(OSError):  # `run` is dead.
            os.write(self._channel, f"{line}\n".encode())

    def _now(self) -> float:
        return time.clock_gettime(self._clock)

    def _suspended_time(self) -> float:
        """Return for how long the machine has been suspended, counted from any moment."""
        return self._now() - time.monotonic()


class Processes:
    """The processes of a command: what is below this process, and *target*, a process or minus the number of a group.

    *adopted* says that its orphans become children of this process; *others* are children that have nothing to do with it.
    """

    def __init__(self, target: int, *, adopted: bool, others: frozenset[int] = frozenset()) -> None:
        self._target = target
        self._adopted, self._others = adopted, others
        self._known: dict[int, str] = {}

    def forget(self, pid: int) -> None:
        """Forget the process *pid*, which has been reaped: its number may be another's from now on."""
        if self._target == pid:
            self._target = 0

    def send(self, number: int) -> None:
        """Send *number* to all, once to each, parents first: a shell must not go on to its next command."""
        if self._target:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self._target, number)
        for pid, start in self._find().items():
            with suppress(ProcessLookupError, PermissionError):
                if self._target in (pid, -os.getpgid(pid)):
                    continue  # It has got *number* already.
                # Read again just before: the PID may be another process's by now.
                if process_table(pid).get(pid, (0, ""))[1] == start:
                    os.kill(pid, number)

    def left(self) -> bool:
        """Return whether any is left.  Every child that has ended must have been reaped before."""
        if sys.platform == "linux" and self._adopted and not self._others:
            # Not by a list of processes, which is read while they change.
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            return True
        if self._target:
            try:
                os.kill(self._target, 0)
            except ProcessLookupError:
                self._target = 0
            except PermissionError:
                return True
            else:
                return True
        return bool(self._find())

    def _find(self) -> dict[int, str]:
        """Return the start time of each process below this one, parents first; and of those seen before that still run."""
        table = process_table()
        below: dict[int, list[int]] = {}
        for pid, (parent, _) in table.items():
            below.setdefault(parent, []).append(pid)
        known = [pid for pid, start in self._known.items() if pid in table and table[pid][1] == start]
        found = [os.getpid(), *known]
        for pid in found:
            found += (each for each in below.pop(pid, ()) if each not in self._others and each not in known)
        self._known = {pid: table[pid][1] for pid in found[1:]}
        return self._known


def process_table(only: int | None = None) -> dict[int, tuple[int, str]]:
    """Return the parent and the start time of each process, or of *only* one; nothing where the system hides them."""
    table: dict[int, tuple[int, str]] = {}
    if sys.platform == "linux":
        if not proc_is_ours():
            return table
        for name in os.listdir("/proc") if only is None else [str(only)]:
            if name.isdigit():
                with suppress(OSError):
                    with open(f"/proc/{name}/stat", "rb") as file:
                        # Counted from the last bracket, since field 2, the name, may contain brackets and spaces.
                        fields = file.read().rpartition(b")")[2].split()
                    table[int(name)] = int(fields[1]), fields[19].decode()
        return table
    which = "-A" if only is None else f"-p {only}"
    # The first line is the PID of `ps` itself, which is a child of this process as well.
    with os.popen(f"echo $$; exec ps {which} -o pid=,ppid=,lstart= 2>/dev/null") as listed:
        itself, *lines = listed.read().splitlines()
    for line in lines:
        number, parent, start = line.split(maxsplit=2)
        if number != itself:
            table[int(number)] = int(parent), start
    return table


def proc_is_ours() -> bool:
    """Return whether `/proc` numbers processes as `getpid` does; if not, its PIDs are those of other processes."""
    with suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("NSpid:"):
                return line.split()[1:] == [str(os.getpid())]
    return False


def in_foreground() -> bool:
    """Return whether the process group of this process is in the foreground of its terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def adopt_orphans() -> bool:
    """Make orphans below this process its children; return whether the system can do that."""
    return sys.platform == "linux" and not ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main() -> None:
    """Be the guardian that the command line asks for."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    channel, clock, mask = sys.argv[1:]
    os.set_inheritable(int(channel), False)
    Guardian(int(channel), int(clock), {int(number) for number in mask.split(",") if number}).serve()


if __name__ == "__main__":
    main()
