"""What may be asked for: bounds of keys, notes, times to live and waits.  Pure."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.records import ScopedKey

MAX_KEY_BYTES = 1_024
MAX_NOTE_CHARACTERS = 500
_MAX_RAW_NOTE = 10 * MAX_NOTE_CHARACTERS
MIN_TTL = timedelta(seconds=1)
MAX_TTL = timedelta(hours=24)
DEFAULT_TTL = timedelta(minutes=30)
TTL_MINUTES = MIN_TTL.total_seconds() / 60, MAX_TTL.total_seconds() / 60
"""The shortest and the longest time to live, as they are asked for."""
MAX_LOCK_TIMEOUT = 3_600.0
MAX_WAIT_SECONDS = 300.0
MIN_RETENTION = timedelta(minutes=1)
MAX_RETENTION = timedelta(days=30)
DEFAULT_RETENTION = timedelta(hours=24)
_RETENTION_HOURS = MIN_RETENTION.total_seconds() / 3600, MAX_RETENTION.total_seconds() / 3600
DEFAULT_NAMESPACE = "default"

# Line and paragraph separators, control characters, lone surrogates: in a key or a note they could end a line of
# a log or of somebody's prompt early, or could not be written as UTF-8.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# What is there but not seen (direction overrides, zero-width spaces, tags) makes one key look like another and hides
# words in a note.  Two of that category join letters and emoji.
_FORMAT_CATEGORY = "Cf"
_JOINERS = frozenset("\u200c\u200d")


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
    if not (_is_number(seconds) and 0 <= seconds <= MAX_WAIT_SECONDS):
        raise InvalidInputError(field, f"must be a number from 0 to {MAX_WAIT_SECONDS:,.0f}")
    return float(seconds)


def wait(seconds: float) -> float:
    """Check how long a call may wait, in seconds: 0 to `MAX_WAIT`.  Raises `InvalidInputError`."""
    if not (_is_number(seconds) and 0 <= seconds <= MAX_LOCK_TIMEOUT):
        raise InvalidInputError("lock_timeout", f"must be a number of seconds from 0 to {MAX_LOCK_TIMEOUT:,.0f}")
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
