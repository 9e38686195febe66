"""The public names of sessions: `host:process:nonce`, or `host@place:session:NAME` for a session that a caller named.

The host is for people, and may change while a session lives: a laptop takes its name from the network.  So what follows
the host identifies the session.  Callers on two machines can choose the same NAME.  It is one session if the host or the
place is equal; the place is a hash of boot, PID namespace and the start of its first process.
"""

from __future__ import annotations

from mcp_claims.model.text import one_line

_NAMED = "session"
"""No PID looks like this, so no process has the name of a named session."""


def holder_name(host: str, process: int, nonce: str) -> str:
    """Return the name of the session of *process*; a *nonce* is given to one session only, on all machines."""
    return f"{_shown_host(host)}:{process}:{nonce}"


def named_holder(host: str, place: str, name: str) -> str:
    """Return the name of the session that callers call *name*; *place* is empty where it cannot be known."""
    return f"{_shown_host(host)}@{place}:{_NAMED}:{name}"


def is_same_session(one: str, other: str) -> bool:
    """Return whether *one* and *other* name the same session, even if its machine was renamed between the two."""
    if one == other:
        return True
    (machine, _, session), (other_machine, _, other_session) = one.partition(":"), other.partition(":")
    process, nonce, _ = session.partition(":")
    if session != other_session or not nonce:  # Without a nonce it is a holder of the original, `host:pid`.
        return False
    if process != _NAMED:
        return True
    (host, _, place), (other_host, _, other_place) = machine.partition("@"), other_machine.partition("@")
    return host == other_host or (place != "" and place == other_place)


def _shown_host(host: str) -> str:
    return one_line(host).translate({ord(":"): "-", ord("@"): "-"}) or "localhost"
