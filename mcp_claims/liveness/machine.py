"""The interface to the clocks and processes of a machine, and what `linux` and `portable` share."""

from __future__ import annotations

from typing import Protocol

from mcp_claims.model.records import Holder, Moment, Proof

LAUNCHERS = frozenset(
    {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox", "cmd.exe", "powershell.exe", "pwsh.exe"}
    | {"uv", "uvx", "uv.exe", "uvx.exe"}
)
"""Names of programs that start other programs on behalf of a caller."""


class Machine(Protocol):
    """Clocks and processes of one machine."""

    def now(self) -> Moment:
        """Return the time on both clocks: in whole milliseconds, as precise as a record, so that a claim reads back equal."""

    def host(self) -> str:
        """Return the host name of this machine."""

    def pid(self) -> int:
        """Return the PID of the calling process; it changes with a fork."""

    def proof(self, pid: int | None = None) -> Proof:
        """Return what other processes need to prove later that *pid*, by default the calling process, is dead."""

    def program_above(self, pid: int) -> int | None:
        """Return the nearest ancestor of *pid* that is not a shell; `None` if the system does not reveal it."""

    def peers(self, fd: int) -> list[Holder]:
        """Return the processes that have the other end of the pipe or socket *fd* and started this one, perhaps through others.

        That is the host of a server.  None where the system does not reveal it.
        """

    def provably_dead(self, holder: Holder) -> bool:
        """Return whether *holder*'s process is certainly dead; in doubt, false."""

    def watch_exit(self, holder: Holder) -> ProcessExit | None:
        """Return an object that becomes readable when *holder*'s process ends; `None` if that cannot be watched."""


class ProcessExit(Protocol):
    """A watch on the end of a process; the caller closes it."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""

    def close(self) -> None:
        """Stop watching."""
