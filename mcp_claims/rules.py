"""The rules, as pure functions: what may be asked for, and how a claim stands at a moment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from functools import lru_cache

from mcp_claims.errors import InvalidInputError
from mcp_claims.record import Claim, Ended, Holder, Moment, Outcome, ScopedKey, Unreadable
from mcp_claims.record_json import whole_milliseconds

MAX_KEY_BYTES = 1_024
MAX_NOTE_CHARACTERS = 500
_MAX_RAW_NOTE = 10 * MAX_NOTE_CHARACTERS
MIN_TTL = timedelta(seconds=1)
MAX_TTL = timedelta(hours=24)
DEFAULT_TTL = timedelta(minutes=30)
TTL_MINUTES = MIN_TTL.total_seconds() / 60, MAX_TTL.total_seconds() / 60
"""The shortest and the longest time to live, as they are asked for."""
MAX_WAIT = 3_600.0
MAX_PATIENCE = 300.0
_CLOCK_SLACK = 60.0  # s
_SECOND = timedelta(seconds=1)
MIN_RETENTION = timedelta(minutes=1)
MAX_RETENTION = timedelta(days=30)
DEFAULT_RETENTION = timedelta(hours=24)
_LONGEST_TTL, _LONGEST_RETENTION = MAX_TTL.total_seconds(), MAX_RETENTION.total_seconds()
_RETENTION_HOURS = MIN_RETENTION.total_seconds() / 3600, MAX_RETENTION.total_seconds() / 3600
DEFAULT_NAMESPACE = "default"

# Line and paragraph separators, control characters, lone surrogates: in a key or a note they could end a line of
# a log or of somebody's prompt early, or could not be written as UTF-8.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# What is there but not seen (direction overrides, zero-width spaces, tags) makes one key look like another and hides
# words in a note.  Two of that category join letters and emoji.
_FORMAT_CATEGORY = "Cf"
_JOINERS = frozenset("\u200c\u200d")


class Standing(Enum):
    """How a stored claim stands at a moment; the last two are markers of work that has ended, which hold nothing."""

    HELD = "held"
    EXPIRED = "expired"
    ORPHANED = "orphaned"
    DONE = "done"
    GIVEN_BACK = "given back"


def standing(claim: Claim, now: Moment, provably_dead: Callable[[Holder], bool]) -> Standing:
    """Judge *claim* at *now*; the instant of expiry already counts as expired.

    *provably_dead* is asked only about a claim that has not expired, since asking costs system calls.
    """
    if expired(claim, now) or _outlives_any_ttl(claim, now):
        return Standing.EXPIRED
    if claim.ended is not None:
        # A marker outlives its writer.
        return Standing.DONE if claim.ended.outcome is Outcome.DONE else Standing.GIVEN_BACK
    return Standing.ORPHANED if provably_dead(claim.holder) else Standing.HELD


def judge(found: Claim | Unreadable, now: Moment, provably_dead: Callable[[Holder], bool]) -> Standing:
    """Tell how *found* stands at *now*; what cannot be read is held until it is nobody's."""
    if isinstance(found, Claim):
        return standing(found, now, provably_dead)
    return Standing.EXPIRED if nobodys(found, now) else Standing.HELD


def expired(claim: Claim, now: Moment) -> bool:
    """Tell whether the time of *claim* is up, as far as that can be told here."""
    return passed(claim.expires, now) and not _ends_elsewhere(claim, now)


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


def passed(deadline: Moment, now: Moment) -> bool:
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


def nobodys(found: Unreadable, now: Moment) -> bool:
    """Tell whether an unreadable record is provably nobody's.

    Every change of a claim writes its file anew and no claim lives longer than `MAX_TTL` from there, so what was
    last written longer ago than that has expired, whatever it once said.
    """
    return now.wall - found.changed > MAX_TTL


def scoped_key(key: str, namespace: str = DEFAULT_NAMESPACE) -> ScopedKey:
    """Check a key and its namespace.

    Each is 1 to 1,024 bytes of UTF-8 without control characters, and is taken as it is: case, spaces and the
    composition of accents all count.  Raises `InvalidInputError`.
    """
    if type(key) is type(namespace) is str:
        return _known_scoped_key(namespace, key)
    return _checked_scoped_key(namespace, key)


def _checked_scoped_key(namespace: str, key: str) -> ScopedKey:
    return ScopedKey(_name("namespace", namespace), _name("key", key))


# Who claims a key asks about it again; what is refused is not remembered.
_known_scoped_key = lru_cache(maxsize=1_024)(_checked_scoped_key)


def _name(field: str, text: str) -> str:
    if not isinstance(text, str):
        raise InvalidInputError(field, "must be text")
    if not text:
        raise InvalidInputError(field, "must not be empty")
    # Counted before looked at: somebody may send megabytes.  A character is a byte at least.
    if len(text) > MAX_KEY_BYTES or len(text.encode(errors="replace")) > MAX_KEY_BYTES:
        raise InvalidInputError(field, f"must be at most {MAX_KEY_BYTES:,} bytes of UTF-8")
    if _has_forbidden(text):
        raise InvalidInputError(field, "must not contain line breaks, control characters or invisible ones")
    return text


def _has_forbidden(text: str) -> bool:
    """Tell whether *text* has a character that no key may have."""
    # Whatever is printable is allowed, and nearly every key is; of the rest, joined emoji for one are allowed too.
    return not text.isprintable() and any(map(_forbidden, text))


def _forbidden(character: str) -> bool:
    import unicodedata  # Few keys and notes need it.

    category = unicodedata.category(character)
    return category in _FORBIDDEN_CATEGORIES or (category == _FORMAT_CATEGORY and character not in _JOINERS)


def ttl(minutes: float, field: str = "ttl_minutes") -> timedelta:
    """Check a time to live in minutes: one second (1/60) to 24 hours (1,440).  Raises `InvalidInputError`."""
    low, high = TTL_MINUTES
    # NaN and the infinities fail this too; written the other way round, as two refusals, NaN would pass.
    if not (_is_number(minutes) and low <= minutes <= high):
        raise InvalidInputError(field, f"must be a number from 1/60 (one second) to {high:,.0f} (24 hours)")
    return _milliseconds(round(minutes * 60_000))


# Nearly all ask for the same spans, and making one takes as long as all else about it.
@lru_cache(maxsize=64)
def _milliseconds(count: int) -> timedelta:
    return timedelta(milliseconds=count)


def generation(number: int | None) -> int | None:
    """Check a generation to ask about.  Raises `InvalidInputError`."""
    if number is None or (_is_whole(number) and number >= 1):
        return number
    raise InvalidInputError("generation", "must be a whole number from 1 up, as try_claim returned it")


def retention(hours: float, field: str = "retention_hours") -> timedelta:
    """Check how long what became of a claim is kept, in hours: a minute (1/60) to 30 days (720).

    Raises `InvalidInputError`.
    """
    low, high = _RETENTION_HOURS
    if not (_is_number(hours) and low <= hours <= high):
        raise InvalidInputError(field, f"must be a number from 1/60 (one minute) to {high:,.0f} (30 days)")
    return _milliseconds(round(hours * 3_600_000))


def patience(seconds: float, field: str = "wait_seconds") -> float:
    """Check how long a call may wait for a key that is held, in seconds: 0 to 300.  Raises `InvalidInputError`."""
    if not (_is_number(seconds) and 0 <= seconds <= MAX_PATIENCE):
        raise InvalidInputError(field, f"must be a number from 0 to {MAX_PATIENCE:,.0f}")
    return float(seconds)


def wait(seconds: float) -> float:
    """Check how long a call may wait, in seconds: 0 to `MAX_WAIT`.  Raises `InvalidInputError`."""
    if not (_is_number(seconds) and 0 <= seconds <= MAX_WAIT):
        raise InvalidInputError("wait", f"must be a number of seconds from 0 to {MAX_WAIT:,.0f}")
    return float(seconds)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    # `True` would be 1 minute.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def note(text: str | None) -> str | None:
    """Check a note and put it on one line; it ends up in front of other agents.

    At most 500 characters after white space was folded and control characters were dropped; an empty note is
    none.  Raises `InvalidInputError`.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidInputError("note", "must be text")
    line = one_line(text[: _MAX_RAW_NOTE + 1])
    if len(line) > MAX_NOTE_CHARACTERS or len(text) > _MAX_RAW_NOTE:
        raise InvalidInputError("note", f"must be at most {MAX_NOTE_CHARACTERS} characters")
    return line or None


def one_line(text: str) -> str:
    """Turn what could disturb a terminal, a log or a prompt into spaces, and fold those."""
    if _has_forbidden(text):
        text = "".join(" " if _forbidden(character) else character for character in text)
    return " ".join(text.split())
