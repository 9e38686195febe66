"""Which events a change of records is.  Pure: it compares what was stored with what is stored instead.

Of a key that several hold, the head says nothing that the places of its members do not, so it is only asked what its members
have left.  A claim that passes between its place and the key itself keeps its generation, and so is neither ended nor granted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeGuard

from mcp_claims.model import expiry
from mcp_claims.model.codec import timestamp
from mcp_claims.model.history import Event, Kind, more_facts, plain_line
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Ended, Holder, Maker, Mode, Moment, Outcome
from mcp_claims.stores.base import Change

ProofOfDeath = Callable[[Holder], str | None]
"""Says what proves that the process of a holder is dead, if anything does."""

_A_MINUTE = 60
_KINDS = {Outcome.REVOKED: Kind.REVOKED, Outcome.ORPHANED: Kind.ORPHANED, Outcome.EXPIRED: Kind.EXPIRED}


def plain(change: Change, now: Moment, revision: int | None) -> bytes | None:
    """Return the only line of *change*, made at *revision*, if that is as plain as most: a free key is granted, a claim released."""
    _, old, new, found_dead = change
    claim = old if new is None else new
    # What is in a place is not held alone.
    if not _is_live(claim) or claim.mode is not Mode.ALONE or claim.group:
        return None
    rest = more_facts(note=claim.note, revision=revision)
    if old is None:
        # Its own times, which its record has, too.
        rest = f',"expires":"{timestamp(claim.expires.wall)}"{rest}'
        return plain_line(Kind.GRANTED, claim.claimed.wall, claim, f'{rest},"redo":true' if claim.redo else rest)
    if new is not None or found_dead:
        return None
    began = claim.claimed
    if now.epoch == began.epoch is not None:
        seconds = now.ticks - began.ticks
    else:
        seconds = max(0.0, -expiry.remaining(began, now).total_seconds())
    return plain_line(Kind.RELEASED, now.wall, claim, f',"duration_seconds":{seconds:.3f}{rest}')


def ends(changes: Sequence[Change], now: Moment, proof_of_death: ProofOfDeath) -> list[Event]:
    """Return an event for each claim or reservation that *changes*, made at *now*, end."""
    after = {change.new.generation for change in changes if _is_live(change.new)}
    found: list[Event] = []
    for change in changes:
        old = change.old
        if _is_live(old) and old.generation not in after:
            found.append(_end(change, old, changes, now, proof_of_death))
    return found


def begins(changes: Sequence[Change], now: Moment) -> list[Event]:
    """Return an event for each claim or reservation that *changes*, made at *now*, begin or continue, and each marker that they remove."""
    before = {change.old.generation: change.old for change in changes if _is_live(change.old)}
    found: list[Event] = []
    for change in changes:
        old, new = change.old, change.new
        if _is_live(new):
            if (event := _begin(change, new, before.get(new.generation), changes, now)) is not None:
                found.append(event)
        elif new is None and old is not None and old.ended is not None and old.scoped.member is None:
            found.append(event_of(Kind.FORGOTTEN, old, now, outcome=old.ended.outcome.value))
    return found


def end_of_trace(trace: Claim, now: Moment, changes: Sequence[Change]) -> Event:
    """Return how the claim ended of which a store has kept *trace*, as the first grant of *changes* after it has found."""
    kind = _KINDS.get(trace.ended.outcome, Kind.RELEASED) if trace.ended is not None else Kind.EXPIRED
    new = next((change.new for change in changes if change.scoped == trace.scoped), None)
    proof = "its lease has ended" if kind is Kind.ORPHANED else None
    by = None if new is None else new.holder.name
    return event_of(kind, trace, now, note=trace.note, proof=proof, by=by)


def ends_beside(
    changes: Sequence[Change], passed: Sequence[Claim], now: Moment, proof_of_death: ProofOfDeath
) -> list[tuple[Claim, Event]]:
    """Return how those of *passed* ended that *changes* would not go with if they were alive."""
    new = next((change.new for change in changes if _is_live(change.new)), None)
    if new is None:
        return []
    found: list[tuple[Claim, Event]] = []
    for claim in passed:
        is_own = is_same_session(claim.holder.name, new.holder.name)
        if claim.ended is None and not is_own and not claim.use.goes_with(new.use):
            end = _end(Change(claim.scoped, claim, None, found_dead=True), claim, (), now, proof_of_death)
            found.append((claim, end._replace(by=new.holder.name)))
    return found


def event_of(
    kind: Kind,
    claim: Claim,
    now: Moment,
    *,
    expires: datetime | None = None,
    found: str | None = None,
    found_generation: int | None = None,
    outcome: str | None = None,
    note: str | None = None,
    duration_seconds: float | None = None,
    proof: str | None = None,
    by: str | None = None,
    redo: bool = False,
) -> Event:
    """Return what happened *now* to *claim*, with what more is known."""
    holder, scoped = claim.holder, claim.scoped.base
    if duration_seconds is not None:
        # By a wall clock that was set back it would be less than nothing.
        duration_seconds = max(0.0, round(duration_seconds, 3))
    # In their order, since names take twice as long.
    return Event(
        now.wall,
        kind,
        scoped.namespace,
        scoped.key,
        claim.generation,
        (claim.use.mode if claim.mode is Mode.RESERVED else claim.mode)._value_,
        claim.slot,
        claim.slots,
        tuple(each.base for each in claim.group) if claim.group else (),
        holder.name,
        holder.client,
        holder.label,
        holder.directory,
        holder.host_session,
        claim.maker,
        holder.pid,
        holder.proof.start,
        expires,
        duration_seconds,
        found,
        found_generation,
        outcome,
        note,
        proof,
        by,
        None,
        None,
        redo,
        claim.mode is Mode.RESERVED,
    )


def _begin(change: Change, new: Claim, before: Claim | None, changes: Sequence[Change], now: Moment) -> Event | None:
    more: dict[str, Any] = {"expires": new.expires.wall}
    if before is None or (before.mode is Mode.RESERVED and new.mode is not Mode.RESERVED):
        kind = Kind.RESERVED if new.mode is Mode.RESERVED else Kind.GRANTED
        return event_of(kind, new, now, **more, **_found(change, changes), note=new.note, redo=new.redo)
    if not is_same_session(before.holder.name, new.holder.name):
        return event_of(Kind.TAKEN_OVER, new, now, **more, by=before.holder.name)
    # Two renewals of one minute end in one minute, whichever processes make them.
    same_minute = _minute(before.expires) == _minute(new.expires)
    if new.mode is Mode.RESERVED or (same_minute and before.mode is new.mode):
        return None
    return event_of(Kind.RENEWED, new, now, **more, note=new.note)


def _found(change: Change, changes: Sequence[Change]) -> dict[str, Any]:
    """Return what a new claim took the place of."""
    old = change.old
    if old is None and change.scoped.member is not None:
        # What was left of the key is told to the first who shares it, or has a slot.
        base = next((each.old for each in changes if each.scoped == change.scoped.base), None)
        old = base.replaced if base is not None and base.members else base
    if old is not None and old.mode is Mode.RESERVED and old.ended is None:
        old = old.replaced
    if old is None or old.members:
        return {}
    now = change.new.claimed if change.new is not None else old.expires
    is_expired = expiry.is_expired(old, now)
    if old.ended is not None:
        state = Outcome.EXPIRED.value if is_expired else old.ended.outcome.value
    else:
        state = Outcome.EXPIRED.value if is_expired else Outcome.ORPHANED.value
    return {"found": state, "found_generation": old.generation}


def _end(change: Change, old: Claim, changes: Sequence[Change], now: Moment, proof_of_death: ProofOfDeath) -> Event:
    marker = _marker_of(change, old, changes)
    more: dict[str, Any] = {}
    if marker is not None and marker.ended is not None:
        kind = _KINDS.get(marker.ended.outcome, Kind.RELEASED)
        more["note"] = marker.note
        if kind is Kind.REVOKED:
            more["by"] = marker.holder.name
        elif kind is Kind.RELEASED:
            more |= {"outcome": marker.ended.outcome.value, "expires": marker.expires.wall}
        ended: Moment = marker.ended.at
    else:
        kind, ended = _kind_of_end(change, old, now, proof_of_death), now
        more["note"] = old.note
        if change.new is not None and change.new.ended is None and not change.new.members:
            more["by"] = change.new.holder.name
    if kind is Kind.ORPHANED:
        more["proof"] = proof_of_death(old.holder)
    seconds = -expiry.remaining(old.claimed, ended).total_seconds()
    return event_of(kind, old, now, **more, duration_seconds=seconds)


def _kind_of_end(change: Change, old: Claim, now: Moment, proof_of_death: ProofOfDeath) -> Kind:
    """Return how *old* ended, which left no marker."""
    new = change.new
    is_taken = new is not None and new.ended is None
    if old.mode is Mode.RESERVED:
        if expiry.is_expired(old, now):
            return Kind.EXPIRED
        return Kind.ORPHANED if proof_of_death(old.holder) else Kind.RELEASED
    if not (is_taken or change.found_dead):
        return Kind.RELEASED
    # As whoever took the key has judged it: it waited for the lock since.
    judged = new.claimed if new is not None and new.generation != old.generation else now
    return Kind.EXPIRED if expiry.is_expired(old, judged) else Kind.ORPHANED


def _marker_of(change: Change, old: Claim, changes: Sequence[Change]) -> Claim | None:
    """Return the marker that says how *old* ended: in its place, or what the head keeps of a member, or has left there."""
    left = [change.new, *(each.new for each in changes if each.scoped == old.scoped.base)]
    for new in left:
        for each in (new, None if new is None else new.replaced):
            if each is None or each.ended is None:
                continue
            if each.generation == old.generation or (each is change.new and _is_revocation(each.ended)):
                return each
    return None


def _is_revocation(ended: Ended) -> bool:
    return ended.outcome is Outcome.REVOKED


def _is_live(found: Claim | None) -> TypeGuard[Claim]:
    """Return whether *found* is a claim or a reservation for work, and neither a head nor a marker."""
    return found is not None and found.ended is None and not found.members and found.maker != Maker.PROBE


def _minute(moment: Moment) -> int:
    return int(moment.wall.timestamp() // _A_MINUTE)
