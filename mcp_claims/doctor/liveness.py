"""Checks what this machine reports about time and processes: can others prove that a session here has died?"""

from __future__ import annotations

from collections.abc import Iterator

from mcp_claims.doctor.finding import Finding, ok, warning
from mcp_claims.liveness import Machine
from mcp_claims.model.records import Holder


def check_liveness(machine: Machine) -> Iterator[Finding]:
    """Check the clock of *machine*, and whether the death of this process could be proved."""
    now, proof = machine.now(), machine.proof()
    if now.epoch is None:
        yield warning(
            "clocks",
            "this machine does not identify its boots, so expiry is judged by the wall clock",
            "Do not step the clock while agents work.",
        )
    else:
        yield ok("clocks", f"expiry is judged by a clock that cannot be set ({now.ticks / 3600:.1f} h since boot)")
    host = machine.host()
    facts = {"the boot": proof.boot, "the PID namespace": proof.pid_namespace, "the start time": proof.start}
    missing = [name for name, value in facts.items() if value is None]
    if machine.provably_dead(Holder("doctor", machine.pid(), proof)):
        yield warning(
            "identity", f"this process on {host} seems dead to others although it is alive", "Report this as a bug."
        )
    elif missing:
        yield warning(
            "identity",
            f"death cannot always be proved on {host}: {', '.join(missing)} cannot be read",
            "Nothing to do: the claims of a crashed session become free when their TTL ends.",
        )
    else:
        yield ok("identity", f"a session on {host} can be proved dead once its process is")
