"""The names of sessions, and what each is bound to.

A name is `host:pid:nonce`; the nonce keeps two lives of one PID apart.  A session bound to its process carries the
proof by which others know one day that the process is dead; one that outlives its process carries none, and its
claims end by release or TTL.
"""

from __future__ import annotations

import os

from mcp_claims.errors import InvalidInputError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.records import Holder, Proof
from mcp_claims.model.validation import one_line
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store

MAX_NAME_CHARACTERS = 64
_NONCE_BYTES = 6
_FIXED = "session"
_ADOPTER = 1


def process_session(store: Store, machine: Machine | None = None) -> Session:
    """Open a session that lives as long as this process, or until `end`.

    Each call is a session of its own: two in one process exclude each other.
    """
    machine = machine or local_machine()
    pid = machine.pid()
    name = holder_name(machine, str(pid), os.urandom(_NONCE_BYTES).hex())
    return Session(store, Holder(name, pid, machine.proof()), machine)


def session_for_process(store: Store, pid: int, machine: Machine | None = None) -> Session:
    """Open the session of process *pid* of this machine, the same for all who act on its behalf.

    Its claims die with that process, whatever becomes of ours; whose process it is does not matter, as it may be one that
    was started with `sudo`.  Raises `InvalidInputError` where it is not there, or nothing tells it from a later process
    with its PID, and for 1.
    """
    machine = machine or local_machine()
    if pid == _ADOPTER:
        raise InvalidInputError(
            "--for-pid",
            "must not be 1, since every script whose parent has ended finds that in $PPID, and all of them would be one "
            "holder; use --session, or run",
        )
    proof = machine.proof(pid) if pid > 0 else Proof()
    # No nonce of `process_session` is spelt like this, so nobody is ever called the same as that process calls itself.
    holder = Holder(holder_name(machine, str(pid), f"for-{proof.start}"), pid, proof)
    if proof.boot is None or proof.start is None or machine.provably_dead(holder):
        raise InvalidInputError("--for-pid", f"must be a process of this machine that is running, not {pid}")
    return Session(store, holder, machine)


def named_session(store: Store, name: str, machine: Machine | None = None) -> Session:
    """Open the session called *name*: 1 to 64 printable characters, on this machine the same for all who use it.

    It outlives the process, for hosts that start a server for each call; its claims end by release or TTL.  All who
    use one name at a time are one holder.  Raises `InvalidInputError`.
    """
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or not name.isprintable() or name != one_line(name):
        raise InvalidInputError("session", f"must be a name of 1 to {MAX_NAME_CHARACTERS} printable characters")
    machine = machine or local_machine()
    # No PID is spelt like this, so no process is ever called the same.
    return Session(store, Holder(holder_name(machine, _FIXED, name), machine.pid()), machine)


def handle_session(store: Store, machine: Machine, pid: int, nonce: bytes, *, bound: bool) -> Session:
    """Open the session of a handle that process *pid* gave out with *nonce*, which stays secret.

    If it is *bound*, its claims die with this process.
    """
    import hashlib  # Few need it, and it takes longer than all else here.

    public = hashlib.sha256(nonce).hexdigest()[: 2 * _NONCE_BYTES]
    proof = machine.proof() if bound else Proof()
    return Session(store, Holder(holder_name(machine, str(pid), public), machine.pid(), proof), machine)


def holder_name(machine: Machine, process: str, nonce: str) -> str:
    """Return the public name of a session."""
    return f"{one_line(machine.host()) or 'localhost'}:{process}:{nonce}"


def host_session_label() -> str | None:
    """Return how the host calls its own session, for people who read claims; never an identity.

    A host that is started inside another one inherits its environment, so two sessions may have the same.
    """
    known = os.environ.get("CLAUDE_CODE_SESSION_ID")
    return short_label(known) if known else None


def short_label(session: str) -> str:
    """Return the beginning of a host's session id: enough for people to tell sessions apart."""
    return f"session {one_line(session[:8])}…" if len(session) > 8 else f"session {one_line(session)}"
