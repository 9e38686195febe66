"""Opening sessions: their names, and the process whose death ends each.

A session bound to a process carries what proves that process dead one day; a session that outlives its process carries
no proof, and its claims end by release or expiry.
"""

from __future__ import annotations

import os
import sys

from mcp_claims.errors import InvalidInputError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.digest import sha256
from mcp_claims.model.names import agent_holder, holder_name, named_holder, person_holder, shown_host
from mcp_claims.model.records import Holder, Maker, OriginalHolder, Proof
from mcp_claims.model.text import one_line
from mcp_claims.session.host_session import HostSession
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store
from mcp_claims.stores.config import open_store

if sys.platform == "win32":
    import getpass
else:
    import pwd

MAX_NAME_CHARACTERS = 64
_NONCE_BYTES = 6
_INIT = 1
_MAX_PID = 2**31 - 1


def open_session(store: Store | None = None, *, name: str | None = None) -> Session:
    """Open a session on *store*, by default on the store that the environment configures.

    Without a *name* it lives as long as this process, or until `close`; each call opens a session of its own, and two
    in one process exclude each other.  With a *name* (1 to 64 printable characters) it is the same session for
    everybody on this machine who uses that name, it outlives the process, and its claims end by release or expiry.
    Raises `InvalidInputError`.
    """
    store = open_store() if store is None else store
    return process_session(store) if name is None else named_session(store, name)


def process_session(store: Store, machine: Machine | None = None, *, pid: int | None = None) -> Session:
    """Open a session that lives as long as this process, or until `close`.

    With a *pid*, of a child that is running, it lives as long as that child, and is used by this process all the same.
    """
    machine = machine or local_machine()
    pid = machine.pid() if pid is None else pid
    name = holder_name(machine.host(), pid, os.urandom(_NONCE_BYTES).hex())
    return Session(store, Holder(name, pid, machine.proof(pid)), machine)


def session_for_process(store: Store, pid: int, machine: Machine | None = None) -> Session:
    """Open the session of process *pid* of this machine, the same for every process that acts on its behalf.

    Its claims are orphaned by the death of that process, not of the calling one; where that cannot be proved they end by
    release or expiry.  The process may belong to another user, since it may have been started with `sudo`.  Raises
    `InvalidInputError` for 1 and for a process that is not running.
    """
    machine = machine or local_machine()
    if pid == _INIT:
        rule = "must not be 1: that is the parent of every orphaned script, and all of them would be one holder"
        raise InvalidInputError("pid", rule)
    host = machine.host()
    if not 0 < pid <= _MAX_PID or machine.provably_dead(OriginalHolder(f"{host}:{pid}", pid)):
        raise InvalidInputError("pid", f"must be a process of this machine that is running, not {pid}")
    proof = machine.proof(pid)
    # Distinguishes the process from every other with its PID, also in another PID namespace with the same host name.  What
    # the system does not reveal is as far as we know the same elsewhere, so the host name has to make the difference.
    nonce = _digest(f"{proof.boot or host}/{proof.pid_namespace or host}/{proof.start}")
    # No nonce of `process_session` looks like this, so the process itself never has the same name.
    return Session(store, Holder(holder_name(host, pid, f"for-{nonce}"), pid, proof), machine)


def named_session(store: Store, name: str, machine: Machine | None = None) -> Session:
    """Open the session called *name*, for hosts that start a server for each call; as `open_session` does."""
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or not name.isprintable() or name != one_line(name):
        raise InvalidInputError("session", f"must be a name of 1 to {MAX_NAME_CHARACTERS} printable characters")
    machine = machine or local_machine()
    return Session(store, Holder(named_holder(machine.host(), _place(machine), name), machine.pid()), machine)


def person_session(store: Store, machine: Machine | None = None) -> Session:
    """Open the session of the person who runs this process: one for all shells of that user on this machine.

    Its claims end by release or expiry.
    """
    machine = machine or local_machine()
    session = Session(store, Holder(person_holder(machine.host(), _place(machine), _user()), machine.pid()), machine)
    session.maker = Maker.PERSON
    return session


def handle_session(
    store: Store, machine: Machine, pid: int, nonce: bytes, *, bound: bool, of_agent: bool = False
) -> Session:
    """Open the session of a handle that process *pid* issued with *nonce*, which stays secret.

    If it is *bound*, the death of this process orphans its claims.  A handle *of_agent* was made by a hook of a host.
    """
    public = _public(nonce)
    name = agent_holder(machine.host(), public) if of_agent else holder_name(machine.host(), pid, public)
    session = Session(store, Holder(name, machine.pid(), machine.proof() if bound else Proof()), machine)
    session.has_handle = True
    return session


def guarded_session(store: Store, machine: Machine, nonce: bytes | None, host: HostSession) -> Session:
    """Open the session with *nonce* for the agent of *host*, as a hook that is about to end acts for it.

    It is the one that `handle_session` opens for the handle of that agent.  The death of the host's process orphans its
    claims; where that process is not known, they end by release or expiry.
    """
    pid = host.process
    proof = Proof() if pid is None else machine.proof(pid)
    if proof.start is None:
        proof = Proof()
    # The session's own agent has no handle as a rule, so nothing secret names it; and a hash takes a tenth of a hook's time.
    public = _public(nonce) if nonce is not None else shown_host(host.id or "")
    name = agent_holder(machine.host(), public)
    session = Session(store, Holder(name, pid or machine.pid(), proof), machine)
    session.maker = Maker.GUARD
    session.act_in(host)
    return session


def _public(nonce: bytes) -> str:
    return sha256(nonce).hex()[: 2 * _NONCE_BYTES]


def _place(machine: Machine) -> str:
    # The number of a PID namespace is not enough: once a container is gone, the next one may get it.  Its first process
    # cannot have started at the same time.
    init = machine.proof(_INIT)
    facts = (init.boot, init.pid_namespace, init.start)
    return "" if None in facts else _digest("/".join(map(str, facts)))


def _digest(facts: str) -> str:
    return sha256(facts.encode()).hex()[: 2 * _NONCE_BYTES]


if sys.platform == "win32":
    _user = getpass.getuser
else:

    def _user() -> str:
        # Not the user of the environment, which may be that of somebody else after `su`.
        try:
            return pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            return str(os.getuid())  # A user id without a name, as in many containers.
