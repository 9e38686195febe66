"""Sessions: who is calling, how that is known and when it ends.

Over stdio the session is the process: a host starts one server for each, and the claims of a server that dies are
provably orphaned.  The name is `host:pid:nonce`; the nonce keeps two lives of one PID apart.
"""

from __future__ import annotations

import secrets

from mcp_claims.claims import Claims
from mcp_claims.machine import Machine, local_machine
from mcp_claims.record import Holder
from mcp_claims.rules import one_line
from mcp_claims.stores.base import Store

_NONCE_BYTES = 6


def process_session(store: Store, machine: Machine | None = None) -> Claims:
    """Open a session that lives as long as this process, or until `end`.

    Each call is a session of its own: two in one process exclude each other.
    """
    machine = machine or local_machine()
    pid = machine.pid()
    name = f"{one_line(machine.host()) or 'localhost'}:{pid}:{secrets.token_hex(_NONCE_BYTES)}"
    return Claims(store, Holder(name, pid, machine.proof()), machine)
