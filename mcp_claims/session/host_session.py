"""Which claims belong to the session of the host that this process serves."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from mcp_claims.liveness import Machine
from mcp_claims.model.records import Claim


class HostSession(NamedTuple):
    """A session of a host: its id, the sub-agent in it, and the processes above this one; what is unknown is left out."""

    id: str | None
    agent: str | None
    processes: frozenset[int]


class Whose(Enum):
    """Whose a claim is."""

    OURS = "ours"
    OTHERS = "others"
    UNKNOWN = "unknown"


def host_session_of_environment(environment: Mapping[str, str], machine: Machine) -> HostSession:
    """Return the session of the host that has started this process."""
    above = machine.program_above(machine.pid())
    return HostSession(
        environment.get("CLAUDE_CODE_SESSION_ID"), None, frozenset() if above is None else frozenset({above})
    )


def whose(claim: Claim, us: HostSession, machine: Machine) -> Whose:
    """Return whether the holder of *claim* belongs to the session *us*."""
    if us.id is not None and claim.holder.host_session is not None:
        return Whose.OURS if claim.holder.host_session == us.id else Whose.OTHERS
    above = machine.program_above(claim.holder.pid)
    if above is None:
        return Whose.UNKNOWN
    return Whose.OURS if above in us.processes else Whose.OTHERS
