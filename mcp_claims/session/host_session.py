"""Whose a claim is: of the host's session that acts, of another one, or unknown.  The one notion of "us".

A host, such as Claude Code, runs a session of its own, with sub-agents in it.  What belongs to that session comes by many
ways: its claims server, perhaps behind a launcher; commands in its shell; hooks, perhaps run by a worker.  Each claim
carries the id of the host's session where a header, a request, the environment or a hook has given it.  Where none has, the
processes decide: what a host starts, directly or by launchers, runs below its process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from mcp_claims.liveness import Machine, Program
from mcp_claims.model.digest import sha256
from mcp_claims.model.names import shown_host, user_and_host
from mcp_claims.model.records import Claim, Holder, Maker, OriginalHolder

MAX_ID = 100
"""Characters of an id of a host's session or of a sub-agent; a longer one is cut."""

_NO_HOSTS = frozenset(
    {"init", "systemd", "launchd", "tini", "dumb-init", "docker-init", "s6-svscan", "runit", "sleep", "tail", "cron"}
    | {"tmux", "tmux:", "screen", "SCREEN", "zellij", "sshd", "sshd:", "login", "su", "crond", "supervisord"}
)
"""Programs below which several hosts run, each by itself."""


class HostProgram(NamedTuple):
    """How the processes of a host are recognized.

    `names` are those of its programs.  `session_variable` and `pid_variable` are set in the environment of what it starts.
    `one_session` says that a process of it has one session at a time, so that the process tells more than an id that may
    be old: Claude Code has another id after `/clear`, and its server the old one.
    """

    names: frozenset[str]
    session_variable: str | None = None
    pid_variable: str | None = None
    one_session: bool = True


HOST_PROGRAMS: Mapping[str, HostProgram] = {
    "claude-code": HostProgram(frozenset({"claude"}), "CLAUDE_CODE_SESSION_ID", "CLAUDE_PID"),
    "codex": HostProgram(frozenset({"codex"}), one_session=False),
    "copilot-cli": HostProgram(frozenset({"copilot"}), "COPILOT_AGENT_SESSION_ID"),
    "cursor": HostProgram(frozenset({"cursor", "cursor-agent", "Cursor"}), one_session=False),
    "gemini-cli": HostProgram(frozenset({"gemini"}), "GEMINI_SESSION_ID"),
    "opencode": HostProgram(frozenset({"opencode"}), one_session=False),
    "qwen-code": HostProgram(frozenset({"qwen"}), "QWEN_CODE_SESSION_ID"),
}
"""The hosts that have hooks, by the name that `install` takes."""

_ALL_NAMES = frozenset().union(*(each.names for each in HOST_PROGRAMS.values()))


class HostSession(NamedTuple):
    """A session of a host, as one of its processes knows it.

    `id` is the host's, and `agent` that of the sub-agent that acts, `None` for the session's own agent.  `processes` are
    those of the host, if they are known; `above` are all ancestors of the process that asks.  Unless it *is known* that there
    is a host, that process may be a command of whoever has started it.
    """

    id: str | None = None
    agent: str | None = None
    processes: frozenset[int] = frozenset()
    above: tuple[Program, ...] = ()
    one_session: bool = False
    is_known: bool = True

    @property
    def process(self) -> int | None:
        """The process that lives as long as the host does, if it is known."""
        outermost = [each.pid for each in self.above if each.pid in self.processes]
        return outermost[-1] if outermost else next(iter(self.processes), None)


class Whose(Enum):
    """Whose a claim is, as far as can be known."""

    OURS = "ours"
    OTHERS = "others"
    UNKNOWN = "unknown"


def host_session(
    host: str, session: str | None, agent: str | None, environment: Mapping[str, str], machine: Machine
) -> HostSession:
    """Return the session with the id *session* of *host*, a name of `HOST_PROGRAMS`, as a hook of it knows it."""
    program, above = HOST_PROGRAMS[host], tuple(machine.programs_above(machine.pid()))
    processes = frozenset(_named(program.names, above))
    if (pid := _pid_in(environment, program)) is not None:
        processes = frozenset({pid})
    return HostSession(_cut(session), _cut(agent), processes, above, program.one_session)


def host_session_of_environment(environment: Mapping[str, str], machine: Machine) -> HostSession:
    """Return the session in which this process was started, by the variables in *environment* and its ancestors.

    Variables are inherited by a host that runs inside another one, so they count only if their host is the nearest above.
    """
    above = tuple(machine.programs_above(machine.pid()))
    nearest = next((each for each in above if each.name in _ALL_NAMES), None)
    for program in HOST_PROGRAMS.values():
        session = environment.get(program.session_variable) if program.session_variable else None
        pid = _pid_in(environment, program)
        ours = nearest is None or nearest.pid == pid or nearest.name in program.names
        if session and ours and (pid is None or any(each.pid == pid for each in above)):
            processes = _named(program.names, above) if pid is None else [pid]
            return HostSession(_cut(session), None, frozenset(processes), above, program.one_session)
    for program in HOST_PROGRAMS.values():
        if nearest is not None and nearest.name in program.names:
            found = frozenset(_named(program.names, above))
            return HostSession(processes=found, above=above, one_session=program.one_session)
    return HostSession(above=above, is_known=False)


def whose(claim: Claim, us: HostSession, machine: Machine) -> Whose:
    """Return whose *claim* is, for one that acts in the session *us*.

    What the session's own agent holds is its sub-agents' too, since they work for it; what one of them holds is nobody
    else's.
    """
    holder = claim.holder
    shares_id = holder.host_session is not None and holder.host_session == us.id
    differs = holder.host_session is not None and us.id is not None and not shares_id
    # Of several sessions in one process a server without an id cannot tell for which one a hook has claimed.
    differs = differs or (claim.maker == Maker.GUARD and us.id is None)
    if shares_id or ((us.one_session or not differs) and _is_below_host(claim, us, machine)):
        return Whose.OURS if holder.agent in (None, us.agent) else Whose.OTHERS
    has_process = holder.proof.boot is not None or isinstance(holder, OriginalHolder)
    if (
        (has_process and claim.maker != Maker.HTTP)
        or holder.host_session is not None
        or user_and_host(holder.name)
        or not _is_here(holder, machine)
    ):
        return Whose.OTHERS
    return Whose.UNKNOWN


def _is_below_host(claim: Claim, us: HostSession, machine: Machine) -> bool:
    """Return whether the process that holds *claim* was started by the host of *us*, perhaps by launchers."""
    if not _is_process_here(claim, machine):
        return False
    if claim.maker == Maker.GUARD:  # A hook claims for the process of the host itself.
        return claim.holder.pid in us.processes
    above = machine.programs_above(claim.holder.pid)
    if us.processes:
        # The nearest host: one that runs inside another one is a session of its own.
        nearest = next((each for each in above if each.pid in us.processes or each.name in _ALL_NAMES), None)
        return nearest is not None and nearest.pid in us.processes
    ancestors = {each.pid for each in us.above}
    if claim.holder.pid in ancestors:
        # It has started our host, and is not started by it; or it is the shell or the program that runs this command.
        return not us.is_known
    program = next((each for each in above if not each.is_launcher), None)
    return program is not None and program.name not in _NO_HOSTS and program.pid in ancestors


def _is_process_here(claim: Claim, machine: Machine) -> bool:
    """Return whether the PID of *claim*'s holder is one that this process can see, of the session alone."""
    ours, theirs = machine.proof(), claim.holder.proof
    if claim.maker == Maker.HTTP:  # That process serves sessions of many hosts.
        return False
    if isinstance(claim.holder, OriginalHolder):
        return claim.holder.is_on(machine.host())
    return theirs.boot is not None and (theirs.boot, theirs.pid_namespace) == (ours.boot, ours.pid_namespace)


def _named(names: frozenset[str], above: Sequence[Program]) -> list[int]:
    """Return the nearest processes *above* with one of *names*: a host, and the workers and wrappers that have its name."""
    start = next((at for at, each in enumerate(above) if each.name in names), len(above))
    found = []
    for each in above[start:]:
        if each.name not in names:
            break
        found.append(each.pid)
    return found


def _pid_in(environment: Mapping[str, str], program: HostProgram) -> int | None:
    text = environment.get(program.pid_variable, "") if program.pid_variable else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _is_here(holder: Holder, machine: Machine) -> bool:
    """Return whether *holder* may be on this machine, by the host in its name."""
    return holder.name.partition(":")[0].partition("@")[0] == shown_host(machine.host())


def _cut(text: str | None) -> str | None:
    if not text:
        return None
    # Half a surrogate pair, which JSON can hold, fits in no record, and a NUL separates two ids.
    text = text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    # Not only cut: the ids of two agents may begin alike.
    return text if len(text) <= MAX_ID else f"{text[: MAX_ID - 33]}-{sha256(text.encode()).hex()[:32]}"
