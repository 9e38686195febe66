"""The record: one session's claim as it is stored, and what else may be found in its place.

Annotations of fields are values here, not strings, each of which Python would compile whenever a command starts.
"""

from datetime import datetime
from enum import Enum, StrEnum
from typing import NamedTuple, TypeGuard

# JavaScript, which reads these records too, has no larger exact integer.
MAX_GENERATION = 2**53 - 1


# No key that a caller passes has a control character.
_MEMBER = "\1"


class ScopedKey(NamedTuple):
    """A key in its namespace: what a claim is about, or the *place* of one of several who hold it, a member."""

    namespace: str
    key: str

    def place(self, member: str) -> "ScopedKey":
        """Return the place of *member* of this key."""
        return ScopedKey(self.namespace, f"{self.key}{_MEMBER}{member}")

    @property
    def base(self) -> "ScopedKey":
        """The key as callers name it: of a place, that whose member it belongs to."""
        return ScopedKey(self.namespace, self.key.partition(_MEMBER)[0]) if _MEMBER in self.key else self

    @property
    def member(self) -> str | None:
        """The member whose place it is, `None` for a key as callers name it."""
        return self.key.partition(_MEMBER)[2] or None


def is_place(key: str) -> bool:
    """Return whether the text *key* names the place of a member, which no caller's key does."""
    return _MEMBER in key


class Moment(NamedTuple):
    """A point in time on two clocks.

    `ticks` counts seconds on a clock that never steps and counts suspend.  It can be compared only with another moment
    of the same `epoch` (one boot of one machine).  `wall` is UTC and can be compared anywhere, but steps when somebody
    sets the clock.
    """

    wall: datetime
    ticks: float = 0.0
    epoch: str | None = None


class Proof(NamedTuple):
    """What proves later that the holder's process is dead; `None` where it cannot be known.

    The holder's PID is valid only in this `boot` and `pid_namespace`.  `start` (on Linux in clock ticks since boot)
    distinguishes the process from a later one with the same PID; it can be compared only within `time_namespace`.
    """

    boot: str | None = None
    pid_namespace: str | None = None
    time_namespace: str | None = None
    start: int | None = None


class Holder(NamedTuple):
    """The holder of a claim: the public name of its session, `host:pid:nonce`, and the process that it lives in.

    The program, what the session was called and where it works (`~` for the home directory) are for people, who have to
    tell two sessions of one program apart.  `host_session` is the id of the host's own session, and `agent` that of the
    sub-agent in it.  None of it identifies anybody; by the last two a hook recognizes what its own session holds.
    """

    name: str
    pid: int
    proof: Proof = Proof()
    client: str | None = None
    label: str | None = None
    directory: str | None = None
    host_session: str | None = None
    agent: str | None = None

    # An `OriginalHolder` with the same fields has a weaker proof of death, so it is not the same holder.
    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return tuple.__hash__(self)


class OriginalHolder(Holder):
    """A holder that the agent-awareness project wrote: `host:pid`, and nothing else to prove its death by."""

    __slots__ = ()

    def is_on(self, host: str) -> bool:
        """Return whether the name says that the process runs on *host*, as the original compares it."""
        return self.name.startswith(f"{host}:")


class Outcome(Enum):
    """How the work ended, as the holder states it when it releases its claim."""

    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"
    #: Not stated by the holder: another session revoked the claim, and the marker names that session.
    REVOKED = "revoked"
    #: Nor these: somebody found the claim of a dead process, or one whose time was up, and kept its note for the next holder.
    ORPHANED = "orphaned"
    EXPIRED = "expired"


class Ended(NamedTuple):
    """How and when a claim ended."""

    outcome: Outcome
    at: Moment

    @property
    def by_holder(self) -> bool:
        """Whether the holder ended it, so that it has lost nothing."""
        return self.outcome in (Outcome.DONE, Outcome.FAILED, Outcome.ABANDONED)


class Leased(NamedTuple):
    """Under which lease a store that ends claims by itself keeps one, and the revision of its last change.

    With `is_trace` this is what the store has kept of a claim whose lease is over.  `value` is the claim as it is stored, with
    what tells it from an equal one that another call has put.
    """

    lease: int
    revision: int
    is_trace: bool = False
    value: bytes = b""


class Mode(Enum):
    """In which way a key is held."""

    #: By one session, which excludes all others.
    ALONE = "alone"
    #: By several sessions at once, none of which holds it alone.
    SHARED = "shared"
    #: By up to `slots` sessions at once, each in a slot of its own.
    SLOT = "slot"
    #: By nobody yet: it is kept for a session that has waited for it, until that takes it or the time is up.
    RESERVED = "reserved"


class Use(NamedTuple):
    """In which way a session asks for a key: alone, shared with others, or for one of `slots` slots."""

    mode: Mode = Mode.ALONE
    slots: int | None = None

    def goes_with(self, other: "Use") -> bool:
        """Return whether a claim of this use and one of *other* never exclude each other, on keys that overlap either."""
        return self.mode is other.mode is Mode.SHARED


ALONE, SHARED = Use(), Use(Mode.SHARED)


class Maker(StrEnum):
    """Through what a claim was made, for people; a newer version may write another word."""

    TOOL = "tool"
    COMMAND = "command"
    LIBRARY = "library"
    #: A tool over HTTP: the process of the holder serves sessions of many hosts.
    HTTP = "http"
    #: A hook of a host, for a session that is about to edit a file.
    GUARD = "guard"
    PERSON = "person"
    #: The probe of a server: it claims no work, so neither the history nor the metrics count it.
    PROBE = "probe"


class Claim(NamedTuple):
    """One session's expiring hold on a key, exactly as stored.

    `generation` grows with every new holder of the key and is never reused; 0 is a claim that no store has numbered
    yet, or one of an `OriginalHolder`, which nobody numbers.  With `ended` the claim holds nothing any more: it is a
    marker that says how the work ended, kept until `expires`.

    `slot` (from 0 up) and `slots` belong to `Mode.SLOT`.  A `group` has the keys that were granted together, in the order in
    which they were asked for; it is empty for a claim of its own.  A reservation keeps
    in `replaced` the marker that was in its place, for whoever takes the key in the end.  With `redo` the claim was asked for even if the work is done.

    With `members` it is no claim but the *head* of a key that several hold, each in a place of its own: it stands at the key
    itself, says in which mode and who they are, and keeps in `replaced` what the last one of them has left.

    `ttl` (in seconds) is what its holder last asked for.  `editing` names the edit in progress for which a hook made or
    renewed the claim, and `wants` the file key of which a hook has last denied an edit to its holder.

    `stored` (when its file was last changed, in seconds since 1970) and `leased` describe how a store keeps the claim.
    Comparisons ignore them.
    """

    scoped: ScopedKey
    holder: Holder
    claimed: Moment
    expires: Moment
    note: str | None = None
    generation: int = 0
    ended: Ended | None = None
    mode: Mode = Mode.ALONE
    slot: int | None = None
    slots: int | None = None
    group: tuple[ScopedKey, ...] = ()
    maker: str | None = None
    replaced: "Claim | None" = None
    members: tuple[str, ...] = ()
    ttl: float | None = None
    editing: str | None = None
    wants: str | None = None
    redo: bool = False
    stored: float | None = None
    leased: Leased | None = None

    @property
    def use(self) -> Use:
        """The use of the key that the claim, the head or the reservation stands for."""
        if self.slots is not None:
            return Use(Mode.SLOT, self.slots)
        return SHARED if self.members or self.scoped.member else ALONE

    @property
    def places(self) -> tuple[ScopedKey, ...]:
        """The places of the members of a head."""
        return tuple(map(self.scoped.place, self.members))

    # Without the last two fields, which only the store knows.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Claim) and self[:-2] == other[:-2]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:-2])


class Ticket(NamedTuple):
    """The place of a session that waits for `keys`, among all who wait in one namespace; the lowest number comes first.

    With `any` it waits for one of them, otherwise for all; `use` is that of each.  It counts until `until`.  A session that lets a reservation lapse loses its place; its ticket is then `lapsed`, and
    restores the place, once, if the session waits again before `until`.
    """

    number: int
    keys: tuple[ScopedKey, ...]
    holder: Holder
    taken: Moment
    until: Moment
    lapsed: bool = False
    returned: bool = False
    any: bool = False
    use: Use = ALONE


class Unreadable(NamedTuple):
    """Something is stored for a key, but it is not a claim that this version can read.

    `where` names it for people, `problem` says what is wrong, `changed` is the latest moment at which it can have been
    written, and `fingerprint` lets a store recognise it.  With a `remedy` it is a directory of claims that cannot be used
    before that is done.
    """

    where: str
    problem: str
    changed: datetime
    fingerprint: tuple[object, ...]
    remedy: str | None = None


Found = Claim | Unreadable | None


def is_head(found: Found) -> TypeGuard[Claim]:
    """Return whether *found* lists those who hold a key."""
    return isinstance(found, Claim) and bool(found.members)
