"""Clocks and identity: can others prove one day that a process of this machine is dead?"""

from __future__ import annotations

from collections.abc import Iterator

from mcp_claims.doctor.finding import Finding, ok, warning
from mcp_claims.liveness import Machine
from mcp_claims.model.records import Holder

_BY_TTL = "Nothing has to be done: the claims of a crashed session are freed by their TTL alone here."


def examine_identity(machine: Machine) -> Iterator[Finding]:
    """Examine what *machine* tells of this process and of time."""
    now, proof = machine.now(), machine.proof()
    if now.epoch is None:
        yield warning(
            "clocks",
            "this boot has no name here, so expiry is judged by the wall clock",
            "Do not step the clock while agents work.",
        )
    else:
        yield ok("clocks", f"expiry is judged by a clock that cannot be set ({now.ticks / 3600:.1f} h since boot)")
    host = machine.host()
    missing = [
        name
        for name, value in (
            ("the boot", proof.boot),
            ("the PID namespace", proof.pid_namespace),
            ("the start time", proof.start),
        )
        if value is None
    ]
    if machine.provably_dead(Holder("doctor", machine.pid(), proof)):
        yield warning(
            "identity", f"this process on {host} looks dead to others while it lives", "Report this as a defect."
        )
    elif missing:
        yield warning(
            "identity", f"death cannot always be proved on {host}: {', '.join(missing)} cannot be read", _BY_TTL
        )
    else:
        yield ok("identity", f"a session on {host} can be proved dead once its process is")
