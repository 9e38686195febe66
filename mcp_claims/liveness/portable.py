"""macOS and Windows: process identity from `psutil`, the boot from a system call or the registry.

Written from the systems' documentation and type-checked for both, but never run there: the tests run it on Linux, with
stand-ins for what only those systems have.
Where a fact is missing, no process is ever proved dead and claims end by their TTL.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import stat
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

import psutil

if sys.platform == "win32":
    import winreg

from mcp_claims.liveness.machine import ProcessExit, Program, needs_arguments, program_name
from mcp_claims.model.records import Holder, Moment, OriginalHolder, Proof

_SOL_LOCAL, _LOCAL_PEERPID = 0, 2


class PortableMachine:
    """A machine whose processes psutil shows."""

    def __init__(self) -> None:
        self._boot = _boot()

    def now(self) -> Moment:
        wall = datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1_000, UTC)
        return Moment(wall, _ticks(), self._boot)

    def host(self) -> str:
        return socket.gethostname()

    def pid(self) -> int:
        return os.getpid()

    def proof(self, pid: int | None = None) -> Proof:
        # Neither system has PID namespaces: a PID means the same throughout a boot.
        return Proof(self._boot, self._boot, None, _start(os.getpid() if pid is None else pid))

    def programs_above(self, pid: int) -> list[Program]:
        with suppress(psutil.Error):
            return [Program(above.pid, _name(above)) for above in psutil.Process(pid).parents()]
        return []

    def peers(self, fd: int) -> list[Holder]:
        if sys.platform == "win32":
            return []
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                pid = _user_of_socket(fd)
            else:
                # Nothing shows who has the other end of a pipe.
                pid = next((each.pid for each in self.programs_above(os.getpid()) if not each.is_launcher), 0)
        except (OSError, psutil.Error):
            return []
        return [Holder("peer", pid, self.proof(pid))] if pid > 1 and pid != os.getpid() else []

    def provably_dead(self, holder: Holder) -> bool:
        if isinstance(holder, OriginalHolder):
            return holder.is_on(self.host()) and _ended(holder.pid)
        proof = holder.proof
        if not self._ran_in_this_boot(proof):
            return False
        if _ended(holder.pid):
            return True
        start = _start(holder.pid)
        return proof.start is not None and start is not None and start != proof.start

    def watch_exit(self, holder: Holder) -> ProcessExit | None:
        if sys.platform != "darwin" or not self._ran_in_this_boot(holder.proof):
            return None
        # The process may have ended, a sandbox may forbid to watch it, and descriptors may have run out.
        with suppress(OSError, OverflowError):
            queue = select.kqueue()  # It becomes readable when an event comes, kqueue(2).
            flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
            queue.control([select.kevent(holder.pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)], 0)
            return queue
        return None

    def _ran_in_this_boot(self, proof: Proof) -> bool:
        return self._boot is not None and proof.boot == self._boot and proof.pid_namespace == self._boot


def _name(process: psutil.Process) -> str:
    name = process.name()
    with suppress(psutil.Error):  # Of another user: its arguments are hidden, its name is not.
        return program_name(name, process.cmdline() if needs_arguments(name) else ())
    return program_name(name)


def _user_of_socket(fd: int) -> int:
    """Return the PID of the process that uses the other end of the socket *fd*, as macOS has it in `sys/un.h`."""
    with socket.socket(fileno=os.dup(fd)) as ours:
        return ours.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)


def _ended(pid: int) -> bool:
    """Return whether no process runs under *pid*."""
    # OverflowError: a damaged record has a number that is no PID, which proves nothing.
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OverflowError):
        # Not `os.kill(pid, 0)`: on Windows that ends the process.
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return False


def _start(pid: int) -> int | None:
    """Return the creation time of *pid* in microseconds, `None` if it cannot be read or may change.

    On macOS psutil's public `create_time` changes when somebody sets the clock, which would "prove" a living holder dead.
    The kernel's value does not, but psutil (from 7.1) reads it with a private method.  Should that method disappear, there
    is no start time, and a recycled PID keeps a claim alive until its TTL.
    """
    try:
        process = psutil.Process(pid)
        if sys.platform == "darwin":
            raw: float = process._proc.create_time(monotonic=True)  # type: ignore[attr-defined]
            return round(raw * 1_000_000)
        return round(process.create_time() * 1_000_000)
    except (psutil.Error, AttributeError, TypeError, OverflowError):
        return None


def _ticks() -> float:
    if sys.platform == "win32":
        # `time.monotonic` counts from another zero since Python 3.13; this counter is the same for all versions, and
        # it counts time asleep.
        get_tick_count = ctypes.windll.kernel32.GetTickCount64
        get_tick_count.restype = ctypes.c_ulonglong
        return float(get_tick_count()) / 1_000
    if sys.platform == "darwin":
        # settimeofday does not step it, and it counts time asleep, clock_gettime(3).
        return time.clock_gettime(time.CLOCK_MONOTONIC_RAW)
    return time.monotonic()


def _boot() -> str | None:
    """Return a name for this boot of this machine, `None` if it is unknown.

    macOS makes a UUID at each boot; Windows counts its boots and has a GUID for each installation.
    """
    if sys.platform == "darwin":
        with suppress(OSError, AttributeError):
            buffer = ctypes.create_string_buffer(64)
            size = ctypes.c_size_t(len(buffer))
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.sysctlbyname(b"kern.bootsessionuuid", buffer, ctypes.byref(size), None, 0) == 0:
                return buffer.value.decode() or None
    elif sys.platform == "win32":
        with suppress(OSError):
            machine = winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography")
            boots = winreg.OpenKey(
                winreg.HKEY_LOCAL_MACHINE,
                r"SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters",
            )
            with machine, boots:
                guid, boot = winreg.QueryValueEx(machine, "MachineGuid")[0], winreg.QueryValueEx(boots, "BootId")[0]
                return f"{guid}:{boot}"
    return None
