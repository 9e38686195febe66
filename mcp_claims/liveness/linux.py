"""Linux: process identity from `/proc`, time from `CLOCK_BOOTTIME`.

A process is identified by its PID *and* its start time (field 22 of `/proc/PID/stat`, proc(5)), since PIDs are
recycled.  Either number means something else in another boot (ticks count from it), another PID namespace (a container
has PIDs of its own) or another time namespace (it shifts the start time and `CLOCK_BOOTTIME`, time_namespaces(7)), so
all three are recorded beside them.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from mcp_claims.liveness.machine import Program, needs_arguments, program_name
from mcp_claims.model.records import Holder, Moment, OriginalHolder, Proof

assert sys.platform == "linux"

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_STAT_BYTES = 4_096
_ENDED_STATES = frozenset({b"Z", b"X", b"x"})
# A process is being killed if SIGKILL is pending or has been taken (PF_SIGNALED).  The flags may change with the kernel
# (proc(5)), so they are a reason to check again, never a proof.
_SIGKILL_PENDING = 1 << (signal.SIGKILL - 1)
_PF_SIGNALED = 0x400
_EXIT_TIMEOUT = 50  # ms


class _Status(NamedTuple):
    """The fields of `/proc/PID/stat` that matter here."""

    ended: bool
    dying: bool
    start: int
    parent: int
    name: str


class Pidfd:
    """A descriptor of a process that becomes readable when the process ends, pidfd_open(2)."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


class LinuxMachine:
    """A machine with a Linux kernel."""

    def __init__(self) -> None:
        self._boot = _read_line(_BOOT_ID)
        self._pid_namespace = _namespace("pid")
        self._time_namespace = _time_namespace()
        # CLOCK_BOOTTIME counts from boot, time asleep included, and cannot be set; but a time namespace shifts it.
        self._epoch = f"{self._boot}/{self._time_namespace}" if self._boot else None
        self._proc_is_ours = _proc_shows_our_namespace()
        # Processes that did not end within the time-out: one stuck in the kernel must not delay every check by it.
        self._slow_to_die: set[tuple[int, int]] = set()

    def now(self) -> Moment:
        wall = datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1_000, UTC)
        return Moment(wall, time.clock_gettime(time.CLOCK_BOOTTIME), self._epoch)

    def host(self) -> str:
        return os.uname().nodename

    def pid(self) -> int:
        return os.getpid()

    def proof(self, pid: int | None = None) -> Proof:
        status = self._status(os.getpid() if pid is None else pid)
        return Proof(self._boot, self._pid_namespace, self._time_namespace, status.start if status else None)

    def programs_above(self, pid: int) -> list[Program]:
        return list(self._ancestors(pid))

    def peers(self, fd: int) -> list[Holder]:
        with suppress(OSError):
            mode = os.fstat(fd).st_mode
            if stat.S_ISSOCK(mode):
                pids = [_maker_of_socket(fd)]
            else:
                # A shell on the way may have inherited the end that the host writes to, and waits for us.
                pipe = os.readlink(f"/proc/self/fd/{fd}")
                above = self._ancestors(os.getpid())
                pids = [each.pid for each in above if not each.is_launcher and _writes_to(each.pid, pipe)]
            return [Holder("peer", pid, self.proof(pid)) for pid in pids if pid > 1 and pid != os.getpid()]
        return []

    def _ancestors(self, pid: int) -> Iterator[Program]:
        status = self._status(pid)
        while status is not None and (pid := status.parent) > 0:
            if (status := self._status(pid)) is not None:
                yield Program(pid, program_name(status.name, _arguments(pid) if needs_arguments(status.name) else ()))

    def provably_dead(self, holder: Holder) -> bool:
        if isinstance(holder, OriginalHolder):
            return holder.is_on(self.host()) and self._probe(holder.pid)[0]
        proof = holder.proof
        if proof.boot is None or proof.boot != self._boot:
            return False
        if proof.pid_namespace is None or proof.pid_namespace != self._pid_namespace:
            return False
        ended, status = self._probe(holder.pid)
        if ended or status is None:
            return ended
        # A process has that PID, perhaps another one by now.
        comparable = proof.start is not None and proof.time_namespace == self._time_namespace
        return comparable and proof.start != status.start

    def watch_exit(self, holder: Holder) -> Pidfd | None:
        if holder.proof.boot != self._boot or holder.proof.pid_namespace != self._pid_namespace or self._boot is None:
            return None
        try:
            watched = Pidfd(os.pidfd_open(holder.pid))
        except (OSError, AttributeError, OverflowError):
            return None
        return watched

    def _probe(self, pid: int) -> tuple[bool, _Status | None]:
        """Return whether no process runs under *pid*, and otherwise its status if `/proc` reveals it."""
        if _gone(pid):
            return True, None
        status = self._status(pid)
        if status and status.dying and (pid, status.start) not in self._slow_to_die:
            _wait_for_end(pid)
            status = self._status(pid)
            if status and status.dying and not status.ended:
                self._slow_to_die.add((pid, status.start))
        # It may have ended meanwhile, or be a zombie that its parent has not reaped.
        return (_gone(pid), None) if status is None else (status.ended, status)

    def _status(self, pid: int) -> _Status | None:
        return _status(pid) if self._proc_is_ours else None


def _gone(pid: int) -> bool:
    """Return whether no process has *pid*; a process of another user counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        # EPERM means that it exists.  A sandbox that forbids the call, or a number that is no PID, proves nothing.
        return False
    return False


def _status(pid: int) -> _Status | None:
    """Return the status of *pid*; `None` where `/proc` does not show it (`hidepid`, no `/proc`)."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            line = os.read(fd, _STAT_BYTES)
        finally:
            os.close(fd)
    except OSError:
        return None
    # The name, field 2, may contain spaces and brackets, so fields are counted from the last bracket: `state` (3) comes
    # first; `ppid` (4), `flags` (9), `num_threads` (20), `starttime` (22) and `signal` (31) are used.
    before, _, after = line.rpartition(b")")
    name, fields = before.partition(b"(")[2].decode(errors="replace"), after.split()
    # A process whose first thread has exited looks like a zombie while its other threads run.
    ended = fields[0] in _ENDED_STATES and int(fields[17]) <= 1
    dying = bool(int(fields[6]) & _PF_SIGNALED or int(fields[28]) & _SIGKILL_PENDING)
    return _Status(ended, dying, int(fields[19]), int(fields[1]), name)


def _arguments(pid: int) -> list[str]:
    """Return the first arguments with which process *pid* was started; none where `/proc` does not show them."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            return os.fsdecode(file.read(_STAT_BYTES)).split("\0")
    except OSError:
        return []


def _maker_of_socket(fd: int) -> int:
    """Return the PID of the process that made the other end of the socket *fd*, unix(7); 0 if this process cannot see it."""
    import socket  # 3 ms, where most commands take 60 and have no socket.

    with socket.socket(fileno=os.dup(fd)) as ours:
        return int(
            struct.unpack("3i", ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[0]
        )


def _writes_to(pid: int, pipe: str) -> bool:
    """Return whether process *pid* has *pipe*, an anonymous one as `/proc` names it, open for writing."""
    if not pipe.startswith("pipe:"):
        return False  # A named one may have a new writer at any time.
    with suppress(OSError):  # It has ended, or belongs to another user.
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):  # Closed meanwhile.
                if os.readlink(f"/proc/{pid}/fd/{name}") == pipe:
                    with open(f"/proc/{pid}/fdinfo/{name}") as info:
                        flags = next(int(line.split()[1], 8) for line in info if line.startswith("flags:"))
                    if flags & os.O_ACCMODE != os.O_RDONLY:
                        return True
    return False


def _wait_for_end(pid: int) -> None:
    """Wait until *pid*, which is being killed, has ended, at most 50 ms; return at once where that cannot be watched.

    The kernel takes some 5 ms after a SIGKILL to end the process.  A caller that asks just then would learn that the
    dead session is alive, and might never ask again.
    """
    with suppress(OSError, AttributeError):
        fd = os.pidfd_open(pid)
        try:
            watcher = select.poll()
            watcher.register(fd, select.POLLIN)
            watcher.poll(_EXIT_TIMEOUT)
        finally:
            os.close(fd)


def _proc_shows_our_namespace() -> bool:
    """Return whether `/proc` numbers processes as `getpid` does.

    In a PID namespace whose `/proc` was not mounted anew, `/proc/PID` is another process than the one that `kill(PID)`
    reaches; its start time would "prove" a living holder dead.
    """
    with suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("NSpid:"):
                return line.split()[1:] == [str(os.getpid())]
    return False


def _namespace(kind: str) -> str | None:
    try:
        return os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return None


def _time_namespace() -> str | None:
    """Return a name for the clocks of this process: processes with equal names have equal clocks.

    `None` means that the kernel has no time namespaces, so all processes share one set.

    The number of a namespace is not enough: once the namespace is gone, the next one, with other clocks, may get it.
    """
    name = _namespace("time")
    if name is None:
        return None  # The kernel has no time namespaces.
    with suppress(OSError, ValueError), open("/proc/self/timens_offsets") as offsets:
        shift = next(tuple(map(int, line.split()[1:])) for line in offsets if line.startswith("boottime"))
        # The file has the offsets of the namespace that children get.
        if name == _namespace("time_for_children"):
            return name if shift == (0, 0) else f"{name}+{shift[0]}.{shift[1]:09}"
    return f"{name}?{os.urandom(6).hex()}"  # Nobody else has it, so nothing is compared with our clocks.


def _read_line(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip() or None
    except OSError:
        return None
