"""The machine as this process sees it: its clocks, and which processes on it are alive.

`Machine` is what the rest of the package relies on; `linux` and `portable` provide it.  What cannot be known is
`None`, and what is `None` proves nothing: a claim is then freed by its TTL alone.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from typing import Protocol

from mcp_claims.model.records import Holder, Moment, Proof

SHELLS = frozenset(
    {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox", "cmd.exe", "powershell.exe", "pwsh.exe"}
)
"""Names of programs by which others are started."""


def wall_clock() -> datetime:
    """Return the time in UTC, in whole milliseconds: a record holds no more, and a claim is to read back equal to it."""
    return datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1_000, UTC)


class Machine(Protocol):
    """Clocks and processes of one machine."""

    def now(self) -> Moment:
        """Return the time on both clocks."""

    def host(self) -> str:
        """Return the name by which people know this machine."""

    def pid(self) -> int:
        """Return the PID of the calling process; another one after a fork."""

    def proof(self, pid: int | None = None) -> Proof:
        """Return what others need in order to prove one day that *pid*, else the calling process, is dead."""

    def program_above(self, pid: int) -> int | None:
        """Return which process had *pid* started: the nearest above it that is no shell; `None` where it cannot be known."""

    def provably_dead(self, holder: Holder) -> bool:
        """Tell whether *holder*'s process is dead for certain; any doubt is a no."""

    def watch_exit(self, holder: Holder) -> ProcessExit | None:
        """Return what becomes readable when *holder*'s process ends; `None` where that cannot be watched."""


class ProcessExit(Protocol):
    """A process that is watched; whoever asked for it closes it."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""

    def close(self) -> None:
        """Stop watching."""


def local_machine() -> Machine:
    """Return the machine that this process runs on."""
    # Chosen at run time: neither module can be imported where the other belongs.
    if sys.platform == "linux":
        from mcp_claims.liveness.linux import LinuxMachine

        return LinuxMachine()
    from mcp_claims.liveness.portable import PortableMachine

    return PortableMachine()


# The PID alone does not tell: a child in a new PID namespace may have its parent's.
_forks = 0


def fork_count() -> int:
    """Return how many forks led to this process, as far as they were seen."""
    return _forks


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
