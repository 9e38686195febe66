"""How a claim stands at a moment (`state_of`: held, expired, orphaned …), when it expires, what it becomes.  Pure."""

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from mcp_claims.model.codec import whole_milliseconds
from mcp_claims.model.records import (
    Claim,
    Ended,
    Found,
    Holder,
    Maker,
    Mode,
    Moment,
    Outcome,
    ScopedKey,
    Unreadable,
    Use,
)
from mcp_claims.model.validation import DEFAULT_RETENTION, MAX_RETENTION, MAX_TTL, ClaimRequest

RESERVATION = timedelta(seconds=60)
"""How long a key that has become free is kept for the session that waited for it."""

_CLOCK_SLACK = timedelta(seconds=60)
_SECOND = timedelta(seconds=1)


class ClaimState(Enum):
    """How a key or a stored claim stands at a moment.

    `HELD` and `DONE` block a new claim, `RESERVED` that of any session but the one it is for.  `ORPHANED` is the claim of a
    dead process.  The last four are outcomes, read from a marker; a marker may say `EXPIRED` or `ORPHANED` too, of the claim
    that was in its place (see `trace_of`).
    """

    FREE = "free"
    HELD = "held"
    RESERVED = "reserved"
    EXPIRED = "expired"
    ORPHANED = "orphaned"
    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"
    REVOKED = "revoked"

    @property
    def in_force(self) -> bool:
        """Whether a session has the key, or it is kept for one that has waited."""
        return self in (ClaimState.HELD, ClaimState.RESERVED)

    @property
    def dead(self) -> bool:
        """Whether the claim is expired or orphaned, so that any session may take the key; `trace_of` says what stays."""
        return self in (ClaimState.EXPIRED, ClaimState.ORPHANED)


def state_of(found: Found, now: Moment, provably_dead: Callable[[Holder], bool]) -> ClaimState:
    """Return how *found* stands at *now*; the instant of expiry already counts as expired.

    *provably_dead* is called only for a claim that has not expired, since it costs system calls.  An unreadable record
    is held until it is older than any TTL.
    """
    if found is None:
        return ClaimState.FREE
    if isinstance(found, Unreadable):
        return ClaimState.EXPIRED if is_past_any_ttl(found, now) else ClaimState.HELD
    if found.members:
        # Whether one of them is alive is for whoever reads them to say.  Its own time, twice the longest of a claim, would
        # count as damaged once somebody has set the clock.
        return ClaimState.HELD
    if _is_over(found, now):
        return ClaimState.EXPIRED
    if found.ended is not None:
        return ClaimState(found.ended.outcome.value)  # A marker outlives its writer.
    if provably_dead(found.holder):
        return ClaimState.ORPHANED
    return ClaimState.RESERVED if found.mode is Mode.RESERVED else ClaimState.HELD


def trace_of(found: Found, state: ClaimState, now: Moment) -> Found:
    """Return what stays in the place of *found* when somebody meets it in *state*: itself, unless it is dead.

    Of a dead claim with a note a marker stays for a day, since the note is for the next holder; of a dead reservation, the
    marker that it replaced.  Of any other dead claim, and of a marker whose retention has passed, nothing does (`None`).
    """
    if found is None or not state.dead:
        return found
    if isinstance(found, Unreadable):
        return None
    if found.mode is Mode.RESERVED:
        return uncovered(found, now)
    if found.ended is not None:
        return None if _is_over(found, now) else found
    return None if found.note is None else _marker_of_dead(found, state, now)


def uncovered(reservation: Claim, now: Moment) -> Claim | None:
    """Return what is in the place of *reservation* again when it goes: the marker that it replaced, if that still counts."""
    marker = reservation.replaced
    if marker is None or marker.ended is None or _is_over(marker, now):
        return None
    is_trace = marker.ended.outcome in (Outcome.ORPHANED, Outcome.EXPIRED)
    return None if is_trace and marker.note is None else marker


def _marker_of_dead(claim: Claim, state: ClaimState, now: Moment) -> Claim:
    claimed, ended = claim.claimed, end_of_dead(claim, state, now)
    if claimed.epoch != now.epoch:
        # A record has one epoch for all its times: the marker of a claim of another boot goes by the wall clock.
        claimed, now = Moment(claimed.wall), Moment(now.wall)
        ended = ended._replace(at=Moment(ended.at.wall))
    return claim._replace(claimed=claimed, expires=later(now, DEFAULT_RETENTION), ended=ended)


def end_of_dead(claim: Claim, state: ClaimState, now: Moment) -> Ended:
    """Return how and when *claim* ended, which is dead: at its expiry, or *now*, when its holder was found dead."""
    expired = state is ClaimState.EXPIRED and has_passed(claim.expires, now)
    return Ended(Outcome(state.value), claim.expires if expired else now)


def is_expired(claim: Claim, now: Moment) -> bool:
    """Return whether the time of *claim* is up, as far as this machine can know."""
    return has_passed(claim.expires, now) and not _store_decides(claim, now)


def expires_in(claim: Claim, now: Moment) -> timedelta | None:
    """Return how long *claim* has to live, negative once it is over; `None` where only the store knows."""
    return None if _store_decides(claim, now) else remaining(claim.expires, now)


class End(NamedTuple):
    """When a claim ends by today's wall clock, and how long it has to live.

    `overdue` means that the time is up, but the store, which alone decides, has not ended the claim yet: it is held, with
    nothing left.
    """

    at: datetime
    left: timedelta
    overdue: bool


def end_of(claim: Claim, now: Moment) -> End:
    """Return when *claim* ends, for people and models."""
    left = remaining(claim.expires, now)
    overdue = left <= timedelta(0) and _store_decides(claim, now)
    return End(wall_expiry(claim.expires, now), timedelta(0) if overdue else left, overdue)


def _store_decides(claim: Claim, now: Moment) -> bool:
    """Return whether the store alone decides when *claim* ends.

    On another machine a claim that the store ends by itself lasts until the store has ended it: a wall clock that is
    ahead there would take the claim from a holder that is within its time.  Not so a reservation, which holds nothing: it
    stays stored beyond its time, so that somebody sees that it has lapsed, and a wrong clock costs its session a turn.
    """
    here = claim.expires.epoch is not None and claim.expires.epoch == now.epoch
    return claim.leased is not None and claim.mode is not Mode.RESERVED and not here


def _outlives_any_ttl(claim: Claim, left: timedelta, now: Moment) -> bool:
    """Return whether *claim*, with *left* to live, expires later than any TTL allows, written longer ago than the longest.

    Its expiry is damaged and would block the key for ever, so it ends when an unreadable record would.
    """
    longest = MAX_TTL if claim.ended is None else MAX_RETENTION
    impossible = left > longest + _CLOCK_SLACK
    return impossible and claim.stored is not None and now.wall.timestamp() - claim.stored > longest.total_seconds()


def _is_over(claim: Claim, now: Moment) -> bool:
    left = remaining(claim.expires, now)
    return (left <= timedelta(0) and not _store_decides(claim, now)) or _outlives_any_ttl(claim, left, now)


def is_past_any_ttl(found: Unreadable, now: Moment) -> bool:
    """Return whether an unreadable record is so old that the claim in it must have expired.

    Every change of a claim writes its file anew and no claim lives longer than `MAX_TTL`.
    """
    return now.wall - found.changed > MAX_TTL


def has_passed(deadline: Moment, now: Moment) -> bool:
    """Return whether *now* is at or past *deadline*."""
    return remaining(deadline, now) <= timedelta(0)


def remaining(deadline: Moment, now: Moment) -> timedelta:
    """Return how long it is from *now* to *deadline*; negative when it has passed.

    Within one boot only the clock that does not step counts.  Across boots and machines the wall clock decides, since
    there is no other.
    """
    if deadline.epoch is not None and deadline.epoch == now.epoch:
        return timedelta(seconds=deadline.ticks - now.ticks)
    return deadline.wall - now.wall


def wall_expiry(deadline: Moment, now: Moment) -> datetime:
    """Return when *deadline* comes by today's wall clock, which may have been set since the deadline was written."""
    by_ticks = now.wall + remaining(deadline, now)
    # Two clocks are never read at the same instant; only a difference that somebody made counts.
    return deadline.wall if abs(by_ticks - deadline.wall) < _SECOND else whole_milliseconds(by_ticks)


def later(moment: Moment, span: timedelta) -> Moment:
    """Return the moment *span* after *moment*, on both clocks."""
    return Moment(moment.wall + span, moment.ticks + span.total_seconds(), moment.epoch)


def granted(request: ClaimRequest, holder: Holder, now: Moment, maker: Maker) -> Claim:
    """Return the new claim of *holder* that *request* asks for, made through *maker*; the store numbers it."""
    new = Claim(
        request.scoped,
        holder,
        claimed=now,
        expires=later(now, request.ttl),
        note=request.note,
        maker=maker,
        ttl=request.ttl.total_seconds(),
        editing=request.editing,
        redo=request.redo,
    )
    return new if request.use.mode is Mode.ALONE else in_place(new, request.use)


def in_place(claim: Claim, use: Use) -> Claim:
    """Return *claim*, which has the place of a member of a key of this *use*, with what is written of that."""
    mode = claim.mode if claim.mode is Mode.RESERVED else use.mode
    slot = int(claim.scoped.member or 0) if use.mode is Mode.SLOT else None
    return claim._replace(mode=mode, slot=slot, slots=use.slots)


def reserved(scoped: ScopedKey, holder: Holder, now: Moment, replaced: Claim | None, state: ClaimState) -> Claim:
    """Return the reservation of *scoped* for *holder*, which keeps the marker of *replaced*, whose state is *state*."""
    reservation = Claim(scoped, holder, claimed=now, expires=later(now, RESERVATION), mode=Mode.RESERVED)
    return reservation if replaced is None else _over(reservation, replaced, state, now)


def untaken(grant: Claim, replaced: Claim, state: ClaimState, now: Moment) -> Claim | None:
    """Return what stays when *grant* is undone, which took the key over from *replaced*, whose state was *state*."""
    return uncovered(_over(grant, replaced, state, now), now)


def _over(claim: Claim, replaced: Claim, state: ClaimState, now: Moment) -> Claim:
    marker = replaced if replaced.ended is not None else _marker_of_dead(replaced, state, now)
    return claim._replace(replaced=marker)


def renewed(held: Claim, request: ClaimRequest, holder: Holder, now: Moment, maker: Maker | None = None) -> Claim:
    """Return *held* as *request* renews it: with the later of the two expiries, and the newer of the two notes.

    A person's claim ends when *request* says, even if that is earlier.  One that a hook made becomes one of *maker*, if
    there is one.
    """
    expires = later(now, request.ttl)
    # Nobody but that person renews it.  Any other session may have several callers, and none may cut short what
    # another one was granted.
    if held.maker != Maker.PERSON and remaining(held.expires, now) >= request.ttl:
        # Never the same record: the undo of a cancelled call would find its grant unchanged, and remove what a parallel
        # call has just been told that it holds.
        ticks = math.nextafter(held.expires.ticks, math.inf)
        expires = held.expires._replace(wall=wall_expiry(held.expires, now), ticks=ticks)
    return held._replace(
        holder=holder,
        expires=expires,
        note=request.note or held.note,
        maker=maker if held.maker == Maker.GUARD and maker is not None else held.maker,
        ttl=request.ttl.total_seconds(),
        editing=request.editing,
    )


def marker_of(held: Claim, outcome: Outcome, now: Moment, retention: timedelta, note: str | None) -> Claim:
    """Return the marker that replaces *held*, released at *now*; without a *note* it keeps the claim's."""
    return held._replace(expires=later(now, retention), note=note or held.note, ended=Ended(outcome, now))
