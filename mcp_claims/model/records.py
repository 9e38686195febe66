"""The record: one session's claim as it is stored, and what else may be found in its place; `record_json` spells it.

Named tuples, neither pydantic nor dataclasses: the command line reads records in processes that live for 25 ms, and
importing either alone would make that half as much again or more.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import NamedTuple

# JavaScript, which reads these records too, has no larger exact integer.
MAX_GENERATION = 2**53 - 1


class ScopedKey(NamedTuple):
    """A key in its namespace: what a claim is about."""

    namespace: str
    key: str


class Moment(NamedTuple):
    """A point in time on two clocks.

    `ticks` counts seconds on a clock that never steps, time asleep included, and means something only beside
    another moment of the same `epoch` (one boot of one machine).  `wall` is UTC and can be compared anywhere,
    but steps when somebody sets the clock.
    """

    wall: datetime
    ticks: float = 0.0
    epoch: str | None = None


class Proof(NamedTuple):
    """What it takes to prove later that the holder's process is dead; `None` where it cannot be known.

    `boot` and `pid_namespace` say where `pid` means anything, `start` (clock ticks since boot on Linux) tells the
    process from a later one with the same PID, and `time_namespace` says for whom `start` reads the same.
    """

    boot: str | None = None
    pid_namespace: str | None = None
    time_namespace: str | None = None
    start: int | None = None


class Holder(NamedTuple):
    """Who holds: the public name of a session, `host:pid:nonce`, and the process that it lives in."""

    name: str
    pid: int
    proof: Proof = Proof()
    client: str | None = None

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return tuple.__hash__(self)


class Outcome(Enum):
    """What a holder says of its work when it gives its claim back."""

    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"
    #: Not said by the holder: somebody took the claim away from it, and the marker has that one's name.
    REVOKED = "revoked"


class Ended(NamedTuple):
    """How and when a claim was given back."""

    outcome: Outcome
    at: Moment


class Leased(NamedTuple):
    """How a store that ends claims by itself, on a clock of its own, keeps one: under which lease, and since when.

    `revision` is that of its last change; it belongs to exactly the claim that the store returned.
    """

    lease: int
    revision: int


class OriginalHolder(Holder):
    """A holder that the agent-awareness project wrote: `host:pid`, and nothing else to prove its death by.

    A type of its own, so that a record of ours, whose proof is stronger, is never judged by host and PID alone.
    """

    __slots__ = ()

    def is_on(self, host: str) -> bool:
        """Tell whether the name says that the process runs on *host*, as the original compares it."""
        return self.name.startswith(f"{host}:")


class Claim(NamedTuple):
    """One session's exclusive, expiring hold on a key, exactly as stored.

    `generation` grows with every new holder of the key and is never reused; 0 marks a claim that no store has numbered
    yet, and one of an `OriginalHolder`, which nobody numbers.  With `ended` it holds nothing any more: it is the marker
    of what became of the work, kept until `expires`.  `stored` is when its file was last changed, in seconds since 1970,
    where a store can tell, and `leased` is there where the store ends it by itself; neither is part of what it says.
    """

    scoped: ScopedKey
    holder: Holder
    claimed: Moment
    expires: Moment
    note: str | None = None
    generation: int = 0
    ended: Ended | None = None
    stored: float | None = None
    leased: Leased | None = None

    def numbered(self, generation: int) -> Claim:
        """Return the same claim as the grant *generation*."""
        # Not `_replace`, which takes twice as long, here and below: these are on the way of every claim.
        return Claim(self.scoped, self.holder, self.claimed, self.expires, self.note, generation, self.ended)

    def stored_at(self, changed: float) -> Claim:
        """Return the same claim as found in a file that was last changed then, in seconds since 1970."""
        scoped, holder, claimed, expires, note, generation, ended, _, _ = self
        return Claim(scoped, holder, claimed, expires, note, generation, ended, changed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Claim) and self[:_SAID] == other[:_SAID]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:_SAID])


class Unreadable(NamedTuple):
    """Something is stored for a key, but it is not a claim that this version can read.

    `where` names it for people, `problem` says what is wrong, `changed` is the latest moment at which anybody
    can have written it, and `fingerprint` lets a store tell whether it is still the same thing.
    """

    where: str
    problem: str
    changed: datetime
    fingerprint: tuple[object, ...]


_SAID = Claim._fields.index("stored")
"""How many fields of a claim are what it says; what else there is does not tell one from another."""


Found = Claim | Unreadable | None
