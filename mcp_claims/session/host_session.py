"""Whose a claim is: of the host's session that acts, of another one, or unknown."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from mcp_claims.liveness import Machine
from mcp_claims.model.names import user_and_host
from mcp_claims.model.records import Claim


class HostSession(NamedTuple):
    """A session of a host: its id, the sub-agent that acts, the processes of the host, and all processes above this one."""

    id: str | None = None
    agent: str | None = None
    processes: frozenset[int] = frozenset()
    above: frozenset[int] = frozenset()


class Whose(Enum):
    """Whose a claim is, as far as can be known."""

    OURS = "ours"
    OTHERS = "others"
    UNKNOWN = "unknown"


def host_session_of_environment(environment: Mapping[str, str], machine: Machine) -> HostSession:
    """Return the session in which this process was started."""
    above, pid = set[int](), machine.program_above(machine.pid())
    while pid is not None:
        above.add(pid)
        pid = machine.program_above(pid)
    return HostSession(environment.get("CLAUDE_CODE_SESSION_ID"), above=frozenset(above))


def whose(claim: Claim, us: HostSession, machine: Machine) -> Whose:
    """Return whose *claim* is, for one that acts in the session *us*."""
    if us.id is not None and us.id == claim.holder.host_session:
        return Whose.OURS
    if claim.holder.proof.boot is None and not user_and_host(claim.holder.name):
        return Whose.UNKNOWN
    return Whose.OURS if machine.program_above(claim.holder.pid) in us.above else Whose.OTHERS
