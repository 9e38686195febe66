"""Claims, tickets and events as the page gets them.  Pure.

Others have written most texts: each is put on one line and cut.  Times are milliseconds since 1970 by this machine's clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import TypedDict, cast

from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import is_file_key
from mcp_claims.model.names import user_and_host
from mcp_claims.model.records import Claim, Holder, Mode, Moment, OriginalHolder, ScopedKey, Ticket, Unreadable
from mcp_claims.model.tickets import wants
from mcp_claims.render.phrases import shown, unreadable

_MAX_FILES = 2_000
"""File keys that one ticket is compared with: each pair of patterns takes a while."""


class Session(TypedDict, total=False):
    """Who: the public name, and what tells people which one it is."""

    session: str
    client: str
    label: str
    directory: str


class Row(Session, total=False):
    """One stored claim or marker; a `problem` says why it cannot be read."""

    ns: str
    key: str
    state: str
    since: int
    until: int
    ended: int
    generation: int
    note: str
    slot: int
    slots: int
    shared: bool
    together: int
    problem: str


class Wait(Session):
    """A session that waits for `keys` of a namespace, all or `any`; `blockers` are the ids of the rows that it waits for."""

    ns: str
    keys: list[str]
    any: bool
    since: int
    blockers: list[str]


def row_id(found: Claim | Unreadable) -> str:
    """Return what distinguishes the row of *found* from all others."""
    return "\0".join(found.scoped) if isinstance(found, Claim) else f"\0{found.where}"


def row_of(found: Claim | Unreadable, state: ClaimState, now: Moment) -> Row:
    """Return the row of *found*, which stands as *state* says; it depends on *now* only where a clock was set."""
    if isinstance(found, Unreadable):
        where, since = shown(found.where), milliseconds(found.changed)
        return {"ns": "", "key": where, "state": state.value, "problem": unreadable(found), "since": since}
    base = found.scoped.base
    # The type checker takes no optional keys from another type.
    row = cast(
        "Row",
        {
            "ns": shown(base.namespace),
            "key": shown(base.key),
            "state": state.value,
            "since": milliseconds(found.claimed.wall),
            "until": milliseconds(expiry.end_of(found, now).at),
            **session_of(found.holder),
        },
    )
    if found.ended is not None:
        row["ended"] = milliseconds(found.ended.at.wall)
    if found.generation:
        row["generation"] = found.generation
    if found.note:
        row["note"] = shown(found.note)
    if found.use.slots is not None and found.slot is not None:
        row["slot"], row["slots"] = found.slot, found.use.slots
    elif found.use.mode is Mode.SHARED:
        row["shared"] = True
    if found.group:
        row["together"] = len(found.group)
    return row


@lru_cache(maxsize=4_096)
def session_of(holder: Holder) -> Session:
    """Return who *holder* is, for people."""
    session: Session = {"session": shown(holder.name)}
    if isinstance(holder, OriginalHolder):
        session["client"] = "agent-awareness"
    elif (person := user_and_host(holder.name)) is not None:
        session["client"] = shown(f"{person[0]} (a person)")
    elif holder.client:
        session["client"] = shown(holder.client)
    if holder.label:
        session["label"] = shown(holder.label)
    if holder.directory:
        session["directory"] = shown(holder.directory)
    return session


def waits_of(tickets: Iterable[Ticket], claims: Iterable[tuple[str, Claim]]) -> tuple[Wait, ...]:
    """Return those who wait, in their order; *claims* are those in force, each with the id of its row."""
    holders: dict[ScopedKey, list[str]] = defaultdict(list)
    files: list[tuple[str, ScopedKey]] = []
    for row, claim in claims:
        holders[claim.scoped.base].append(row)
        if is_file_key(claim.scoped):
            files.append((row, claim.scoped.base))
    waits: list[Wait] = []
    for ticket in tickets:
        blockers = [row for key in ticket.keys for row in holders[key]]
        if not blockers and any(map(is_file_key, ticket.keys)):
            blockers = [row for row, key in files[:_MAX_FILES] if wants(ticket, key)]
        wait: Wait = {
            "ns": shown(ticket.keys[0].namespace),
            "keys": [shown(key.base.key) for key in ticket.keys],
            "since": milliseconds(ticket.taken.wall),
            "any": ticket.any and len(ticket.keys) > 1,
            "blockers": blockers,
            **session_of(ticket.holder),
        }
        waits.append(wait)
    return tuple(waits)


def milliseconds(at: datetime) -> int:
    """Return *at* in milliseconds since 1970."""
    return round(at.timestamp() * 1_000)
