"""The interface to the clocks and processes of a machine, and what `linux` and `portable` share."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mcp_claims.model.records import Holder, Moment, Proof

LAUNCHERS = frozenset(
    {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox", "cmd", "powershell", "pwsh"}
    | {"uv", "uvx", "npm", "npm-cli", "npx", "npx-cli", "pnpm", "yarn", "bunx", "pipx", "mise", "direnv"}
    | {"env", "sudo", "nohup", "setsid", "timeout", "nice", "stdbuf", "xargs", "mcp-claims", "mcp_claims"}
)
"""Names of programs that start other programs on behalf of a caller, ours included: `run` starts a guardian."""

_INTERPRETERS = ("python", "node", "mainthread", "bun", "deno", "ruby", "electron")
"""How their names begin, in lower case; Node may show the name of its first thread."""


class Program(NamedTuple):
    """A process that runs: its PID, and the name of its program, or of the script if that is an interpreter."""

    pid: int
    name: str

    @property
    def is_launcher(self) -> bool:
        """Whether it may have started others on behalf of a caller."""
        return self.name in LAUNCHERS


def needs_arguments(name: str) -> bool:
    """Return whether the program *name*, as the system shows it, is an interpreter, whose arguments name the script."""
    return name.lower().startswith(_INTERPRETERS)


def program_name(name: str, arguments: Sequence[str] = ()) -> str:
    """Return what a process runs that the system shows as *name*; an interpreter was started with *arguments*."""
    # npm shows its whole command line as its name, which the system cuts.
    name = (name.split() or [""])[0]
    words = iter(arguments[1:] if needs_arguments(name) else ())
    for word in words:
        if word == "-m":
            return next(words, name)
        if word == "-c" or word == "-e":
            break
        if not word.startswith("-"):
            name = word
            break
    base, extension = os.path.splitext(os.path.basename(name.replace("\\", "/")))
    return base if extension.lower() in (".exe", ".cmd", ".js", ".mjs", ".cjs", ".py") else base + extension


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

    def programs_above(self, pid: int) -> Sequence[Program]:
        """Return the ancestors of *pid*, the nearest first, as far as the system reveals them."""

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
