"""How a claim stands at a moment, and when it expires.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum

from mcp_claims.model.codec import whole_milliseconds
from mcp_claims.model.records import Claim, Ended, Holder, Moment, Outcome, Unreadable
from mcp_claims.model.validation import MAX_RETENTION, MAX_TTL

_CLOCK_SLACK = 60.0  # s
_SECOND = timedelta(seconds=1)
_LONGEST_TTL, _LONGEST_RETENTION = MAX_TTL.total_seconds(), MAX_RETENTION.total_seconds()


class ClaimState(Enum):
    """How a stored claim stands at a moment; the last two are markers of work that has ended, which hold nothing."""

    HELD = "held"
    EXPIRED = "expired"
    ORPHANED = "orphaned"
    DONE = "done"
    GIVEN_BACK = "given back"


def state(claim: Claim, now: Moment, provably_dead: Callable[[Holder], bool]) -> ClaimState:
    """Judge *claim* at *now*; the instant of expiry already counts as expired.

    *provably_dead* is asked only about a claim that has not expired, since asking costs system calls.
    """
    if expired(claim, now) or _outlives_any_ttl(claim, now):
        return ClaimState.EXPIRED
    if claim.ended is not None:
        # A marker outlives its writer.
        return ClaimState.DONE if claim.ended.outcome is Outcome.DONE else ClaimState.GIVEN_BACK
    return ClaimState.ORPHANED if provably_dead(claim.holder) else ClaimState.HELD


def state_of(found: Claim | Unreadable, now: Moment, provably_dead: Callable[[Holder], bool]) -> ClaimState:
    """Tell how *found* stands at *now*; what cannot be read is held until it is nobody's."""
    if isinstance(found, Claim):
        return state(found, now, provably_dead)
    return ClaimState.EXPIRED if is_past_any_ttl(found, now) else ClaimState.HELD


def expired(claim: Claim, now: Moment) -> bool:
    """Tell whether the time of *claim* is up, as far as that can be told here."""
    return has_passed(claim.expires, now) and not _ends_elsewhere(claim, now)


def expires_in(claim: Claim, now: Moment) -> timedelta | None:
    """Return how long *claim* has to live, negative when it is over; `None` where the clock of *now* has no say in that."""
    return None if _ends_elsewhere(claim, now) else remaining(claim.expires, now)


def _ends_elsewhere(claim: Claim, now: Moment) -> bool:
    """Tell whether the store alone says when *claim* ends.

    For whoever is on another machine, what the store ends by itself is there until the store has ended it: were that
    one's wall clock ahead, it would take the claim from a holder that is within its time.
    """
    return claim.leased is not None and (claim.expires.epoch is None or claim.expires.epoch != now.epoch)


def _outlives_any_ttl(claim: Claim, now: Moment) -> bool:
    """Tell whether *claim* expires later than anybody can have asked for and was written longer ago than that.

    Its expiry is damaged then and would keep the key for ever.  It is judged as what cannot be read is, by `nobodys`.
    """
    longest = _LONGEST_TTL if claim.ended is None else _LONGEST_RETENTION
    impossible = _seconds_left(claim.expires, now) > longest + _CLOCK_SLACK
    return impossible and claim.stored is not None and now.wall.timestamp() - claim.stored > longest


def has_passed(deadline: Moment, now: Moment) -> bool:
    """Tell whether *deadline* has come."""
    return _seconds_left(deadline, now) <= 0


def remaining(deadline: Moment, now: Moment) -> timedelta:
    """Return how long it is from *now* to *deadline*; negative when it has passed."""
    return timedelta(seconds=_seconds_left(deadline, now))


def _seconds_left(deadline: Moment, now: Moment) -> float:
    """Return the seconds from *now* to *deadline*.

    Within one boot only the clock that does not step counts.  The wall clock decides across boots and machines,
    where there is no other.
    """
    if deadline.epoch is not None and deadline.epoch == now.epoch:
        return deadline.ticks - now.ticks
    return (deadline.wall - now.wall).total_seconds()


def wall_expiry(deadline: Moment, now: Moment) -> datetime:
    """Return when *deadline* comes by the wall clock of today, which may have been set since it was written."""
    by_ticks = now.wall + remaining(deadline, now)
    # Reading two clocks takes time; only a difference that somebody made counts.
    return deadline.wall if abs(by_ticks - deadline.wall) < _SECOND else whole_milliseconds(by_ticks)


def later(moment: Moment, span: timedelta) -> Moment:
    """Return the moment that is *span* after *moment*, on both clocks."""
    return Moment(moment.wall + span, moment.ticks + span.total_seconds(), moment.epoch)


def marker(held: Claim, outcome: Outcome, now: Moment, retention: timedelta, note: str | None) -> Claim:
    """Return what stays of *held* when it is given back at *now*; without a *note* it keeps that of the claim."""
    ended = Ended(outcome, now)
    return held._replace(expires=later(now, retention), note=note or held.note, ended=ended)


def is_past_any_ttl(found: Unreadable, now: Moment) -> bool:
    """Tell whether an unreadable record is provably nobody's.

    Every change of a claim writes its file anew and no claim lives longer than `MAX_TTL` from there, so what was
    last written longer ago than that has expired, whatever it once said.
    """
    return now.wall - found.changed > MAX_TTL
