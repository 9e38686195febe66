"""Bounds of everything that a caller may pass, and the requests made of what has been checked.  Pure.

The arguments of a call are checked once, at the edge (tool, command line, library), by `parse` of a request, which is
handed down whole.  Each function returns its argument in the form in which the package uses it, or raises
`InvalidInputError`, which names the argument and the rule.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, Self

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.records import ALONE, SHARED, Mode, Outcome, ScopedKey, Use
from mcp_claims.model.text import misleading_positions, one_line

DEFAULT_NAMESPACE = "default"
MAX_KEY_BYTES = 1_024
MAX_NOTE_CHARACTERS = 500
MAX_LABEL_BYTES = 60
MIN_TTL, DEFAULT_TTL, MAX_TTL = timedelta(seconds=1), timedelta(minutes=30), timedelta(hours=24)
MIN_RETENTION, DEFAULT_RETENTION, MAX_RETENTION = timedelta(minutes=1), timedelta(hours=24), timedelta(days=30)
DEFAULT_TTL_MINUTES = DEFAULT_TTL / timedelta(minutes=1)
DEFAULT_RETENTION_HOURS = DEFAULT_RETENTION / timedelta(hours=1)
MAX_WAIT_SECONDS = 300.0
MAX_LOCK_TIMEOUT = 3_600.0
MAX_ALSO, MAX_OR_ELSE = 31, 255
MIN_SLOTS, MAX_SLOTS = 2, 1_000

_MINUTE, _HOUR, _MILLISECOND = timedelta(minutes=1), timedelta(hours=1), timedelta(milliseconds=1)
_MAX_RAW_NOTE = 10 * MAX_NOTE_CHARACTERS
_OUTCOMES = tuple(each.value for each in (Outcome.DONE, Outcome.FAILED, Outcome.ABANDONED))


class ClaimRequest(NamedTuple):
    """A claim or a renewal; `wait_seconds` is how long to wait for another holder, `keep_alive` asks for renewals.

    With `also` it is for all of these keys or for none, with `or_else` for the first of them that is free and not done.
    `use` says in which way each key is asked for.  `editing` names the edit for which a hook asks.
    """

    scoped: ScopedKey
    ttl: timedelta = DEFAULT_TTL
    note: str | None = None
    redo: bool = False
    wait_seconds: float = 0.0
    keep_alive: bool = False
    also: tuple[ScopedKey, ...] = ()
    or_else: tuple[ScopedKey, ...] = ()
    use: Use = ALONE
    editing: str | None = None

    @property
    def keys(self) -> tuple[ScopedKey, ...]:
        """All keys that it is for, each once."""
        return tuple(dict.fromkeys((self.scoped, *self.also, *self.or_else)))

    @classmethod
    def parse(
        cls,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        ttl_minutes: float = DEFAULT_TTL_MINUTES,
        note: str | None = None,
        redo: bool = False,
        wait_seconds: float = 0,
        keep_alive: bool = False,
        also: Sequence[str] = (),
        or_else: Sequence[str] = (),
        shared: bool = False,
        slots: int | None = None,
    ) -> Self:
        """Return the request, or raise `InvalidInputError` for the first argument that breaks a rule."""
        if also and or_else:
            raise InvalidInputError("or_else", "does not go with also")
        use = parse_use(shared, slots)
        if use.mode is Mode.SLOT and (also or or_else):
            raise InvalidInputError("slots", "does not go with also or or_else")
        if use.mode is Mode.SHARED and or_else:
            raise InvalidInputError("shared", "does not go with or_else")
        return cls(
            scoped_key(key, namespace),
            parse_ttl(ttl_minutes),
            parse_note(note),
            parse_flag("redo", redo),
            parse_wait_seconds(wait_seconds),
            parse_flag("keep_alive", keep_alive),
            parse_keys("also", also, namespace, MAX_ALSO),
            parse_keys("or_else", or_else, namespace, MAX_OR_ELSE),
            use,
        )


class InspectRequest(NamedTuple):
    """A read of a key; with `generation` also whether that grant is in force."""

    scoped: ScopedKey
    generation: int | None = None

    @classmethod
    def parse(cls, key: str, namespace: str = DEFAULT_NAMESPACE, *, generation: int | None = None) -> Self:
        """Return the request, or raise `InvalidInputError` for the first argument that breaks a rule."""
        return cls(scoped_key(key, namespace), parse_generation(generation))


class ReleaseRequest(NamedTuple):
    """The release of a claim; with an `outcome` a marker stays for `retention`."""

    scoped: ScopedKey
    outcome: Outcome | None = None
    note: str | None = None
    retention: timedelta = DEFAULT_RETENTION

    @classmethod
    def parse(
        cls,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        outcome: Outcome | str | None = None,
        note: str | None = None,
        retention_hours: float = DEFAULT_RETENTION_HOURS,
    ) -> Self:
        """Return the request, or raise `InvalidInputError` for the first argument that breaks a rule."""
        request = cls(
            scoped_key(key, namespace),
            parse_outcome(outcome),
            parse_note(note),
            parse_retention(retention_hours),
        )
        if request.note is not None and request.outcome is None:
            raise InvalidInputError("note", "goes with an outcome")
        return request


def scoped_key(key: str, namespace: str = DEFAULT_NAMESPACE) -> ScopedKey:
    """Check a key and its namespace.

    Each has 1 to 1,024 bytes of UTF-8, no blank at either end, and nothing that people cannot see.  It is taken literally:
    case, spaces and the composition of accents all count.
    """
    return ScopedKey(_name("namespace", namespace), _name("key", key))


def parse_keys(name: str, keys: Sequence[str], namespace: str, limit: int) -> tuple[ScopedKey, ...]:
    """Check the argument *name*, further keys of one call: at most *limit*, each as `scoped_key` checks it."""
    if keys == ():
        return ()
    if isinstance(keys, str) or not isinstance(keys, Sequence):
        raise InvalidInputError(name, "must be a list of keys")
    if len(keys) > limit:
        raise InvalidInputError(name, f"must be at most {limit} keys")
    return tuple(ScopedKey(_name("namespace", namespace), _name(name, key)) for key in keys)


def parse_use(shared: bool, slots: int | None) -> Use:
    """Check in which way a key is asked for: shared with others, for one of 2 to 1,000 slots, or alone."""
    if parse_flag("shared", shared) and slots is not None:
        raise InvalidInputError("slots", "does not go with shared")
    if slots is None:
        return SHARED if shared else ALONE
    if type(slots) is not int or not MIN_SLOTS <= slots <= MAX_SLOTS:
        raise InvalidInputError("slots", f"must be a whole number from {MIN_SLOTS} to {MAX_SLOTS:,}")
    return Use(Mode.SLOT, slots)


def parse_ttl(minutes: float) -> timedelta:
    """Check a time to live in minutes: one second (1/60) to 24 hours (1,440)."""
    return _span("ttl_minutes", minutes, _MINUTE, MIN_TTL, MAX_TTL, "from 1/60 (one second) to 1,440 (24 hours)")


def parse_retention(hours: float) -> timedelta:
    """Check for how long an outcome is kept, in hours: one minute (1/60) to 30 days (720)."""
    rule = "from 1/60 (one minute) to 720 (30 days)"
    return _span("retention_hours", hours, _HOUR, MIN_RETENTION, MAX_RETENTION, rule)


def parse_wait_seconds(seconds: float) -> float:
    """Check for how long a call may wait for the holder of a key, in seconds: 0 to 300."""
    if not (_is_number(seconds) and 0 <= seconds <= MAX_WAIT_SECONDS):
        raise InvalidInputError("wait_seconds", f"must be a number from 0 to {MAX_WAIT_SECONDS:,.0f}")
    return float(seconds)


def parse_lock_timeout(seconds: float) -> float:
    """Check for how long a change may wait for another change in the same namespace, in seconds: 0 to 3,600."""
    if not (_is_number(seconds) and 0 <= seconds <= MAX_LOCK_TIMEOUT):
        raise InvalidInputError("lock_timeout", f"must be a number of seconds from 0 to {MAX_LOCK_TIMEOUT:,.0f}")
    return float(seconds)


def parse_generation(number: int | None) -> int | None:
    """Check a generation: a whole number from 1 up, or `None`."""
    # `True` is an `int` to Python.
    if number is None or (type(number) is int and number >= 1):
        return number
    raise InvalidInputError("generation", "must be a whole number from 1 up")


def parse_outcome(value: Outcome | str | None) -> Outcome | None:
    """Check the outcome of a release: `done`, `failed` or `abandoned`, as a word or as an `Outcome`."""
    if value is None:
        return None
    word = value.value if isinstance(value, Outcome) else value
    if word not in _OUTCOMES:
        raise InvalidInputError("outcome", f"must be one of {', '.join(_OUTCOMES)}")
    return Outcome(word)


def parse_flag(name: str, value: bool) -> bool:
    """Check that the argument *name* is true or false."""
    if not isinstance(value, bool):
        raise InvalidInputError(name, "must be true or false")
    return value


def parse_note(text: str | None) -> str | None:
    """Check a note and put it on one line, since it ends up in front of other agents; an empty note is none.

    At most 500 characters once white space is folded and control characters are dropped.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidInputError("note", "must be text")
    line = one_line(text[: _MAX_RAW_NOTE + 1])
    if len(line) > MAX_NOTE_CHARACTERS or len(text) > _MAX_RAW_NOTE:
        raise InvalidInputError("note", f"must be at most {MAX_NOTE_CHARACTERS} characters")
    return line or None


def parse_label(text: str | None) -> str | None:
    """Check a label and put it on one line; an empty label is none.  At most 60 bytes of UTF-8."""
    line = one_line(text or "")
    if len(line.encode()) > MAX_LABEL_BYTES:
        raise InvalidInputError("label", f"must be at most {MAX_LABEL_BYTES} bytes of UTF-8")
    return line or None


def _name(field: str, text: str) -> str:
    if not isinstance(text, str):
        raise InvalidInputError(field, "must be text")
    if not text:
        raise InvalidInputError(field, "must not be empty")
    # The length first: the text may be megabytes long, and a character is at least a byte.
    if len(text) > MAX_KEY_BYTES or len(text.encode(errors="replace")) > MAX_KEY_BYTES:
        raise InvalidInputError(field, f"must be at most {MAX_KEY_BYTES:,} bytes of UTF-8")
    if text != text.strip():
        raise InvalidInputError(field, "must not begin or end with a blank")
    # Every other character is allowed, those that join emoji too.
    if misleading := misleading_positions(text):
        rule = "must not contain line breaks, control characters, invisible ones or blanks other than the plain space"
        raise InvalidInputError(field, f"{rule} (here U+{ord(text[min(misleading)]):04X})")
    return text


def _span(field: str, number: float, unit: timedelta, low: timedelta, high: timedelta, rule: str) -> timedelta:
    # NaN and the infinities fail this too; written as two refusals, NaN would pass.
    if not (_is_number(number) and low / unit <= number <= high / unit):
        raise InvalidInputError(field, f"must be a number {rule}")
    return round(number * (unit / _MILLISECOND)) * _MILLISECOND


def _is_number(value: object) -> bool:
    # `True` would be 1 minute.
    return isinstance(value, int | float) and not isinstance(value, bool)
