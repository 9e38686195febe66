"""Clocks, process identity and proof of death on this machine.

`Machine` is the interface; `linux` and `portable` implement it.  A fact that the system does not reveal is `None`, and
`None` proves nothing: a claim then ends by its TTL alone.
"""

from __future__ import annotations

import sys

from mcp_claims.liveness.machine import Machine, ProcessExit, Program

# Each module can be imported on its own systems only.
if sys.platform == "linux":
    from mcp_claims.liveness.linux import LinuxMachine as _ThisMachine
else:
    from mcp_claims.liveness.portable import PortableMachine as _ThisMachine

__all__ = ["Machine", "ProcessExit", "Program", "local_machine"]


def local_machine() -> Machine:
    """Return the machine that this process runs on."""
    return _ThisMachine()
