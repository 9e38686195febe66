"""The public names of sessions.

- `host:process:nonce`
- `host:agent:nonce`: the agent of a host's session, or a sub-agent in it, for whom a hook acts
- `host@place:session:NAME`: a session that a caller named
- `host@place:person:USER`: a person, who needs no process

The host is for people, and may change while a session lives: a laptop takes its name from the network.  So what follows
the host identifies the session.  Callers on two machines can choose the same NAME, and users have the same USER.  It is
one session if the host or the place is equal; the place is a hash of boot, PID namespace and the start of its first process.
"""

from __future__ import annotations

from mcp_claims.model.text import one_line

_NAMED, _PERSON, _AGENT = "session", "person", "agent"
"""No PID looks like these, so no process has the name of another session."""


def holder_name(host: str, process: int, nonce: str) -> str:
    """Return the name of the session of *process*; a *nonce* is given to one session only, on all machines."""
    return f"{shown_host(host)}:{process}:{nonce}"


def agent_holder(host: str, nonce: str) -> str:
    """Return the name of the session for which the hooks of a host act; *nonce* as for `holder_name`."""
    return f"{shown_host(host)}:{_AGENT}:{nonce}"


def named_holder(host: str, place: str, name: str) -> str:
    """Return the name of the session that callers call *name*; *place* is empty where it cannot be known."""
    return f"{shown_host(host)}@{place}:{_NAMED}:{name}"


def person_holder(host: str, place: str, user: str) -> str:
    """Return the name of the session of the person who is *user* on this machine; *place* may be empty."""
    return f"{shown_host(host)}@{place}:{_PERSON}:{user}"


def user_and_host(name: str) -> tuple[str, str] | None:
    """Return the user and the host of a person's session; `None` if *name* is that of another session."""
    machine, _, session = name.partition(":")
    kind, _, user = session.partition(":")
    return (user, machine.partition("@")[0]) if kind == _PERSON and user else None


def is_named(name: str) -> bool:
    """Return whether *name* is that of a session that a caller named, which outlives all processes."""
    return name.partition(":")[2].startswith(f"{_NAMED}:")


def is_same_session(one: str, other: str) -> bool:
    """Return whether *one* and *other* name the same session, even if its machine was renamed between the two."""
    if one == other:
        return True
    (machine, _, session), (other_machine, _, other_session) = one.partition(":"), other.partition(":")
    process, nonce, _ = session.partition(":")
    if session != other_session or not nonce:  # Without a nonce it is a holder of the original, `host:pid`.
        return False
    if process not in (_NAMED, _PERSON):
        return True
    (host, _, place), (other_host, _, other_place) = machine.partition("@"), other_machine.partition("@")
    return host == other_host or (place != "" and place == other_place)


def shown_host(host: str) -> str:
    """Return *host* as names have it."""
    return one_line(host).translate({ord(":"): "-", ord("@"): "-"}) or "localhost"
