"""What the operations of a session return: facts, which `render` turns into answers."""

from enum import Enum
from typing import NamedTuple

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import PLACES
from mcp_claims.model.records import Claim, Found, Mode, Moment, Outcome, ScopedKey, Unreadable


class Status(Enum):
    """How a call of `try_claim` went."""

    ACQUIRED = "acquired"
    RENEWED = "renewed"
    HELD = "held"
    DONE = "done"
    #: It is reserved for this session, which waited for it: its next call takes it.
    YOUR_TURN = "your_turn"


class TakenOver(NamedTuple):
    """What a new claim replaced (a dead claim, a marker or an unreadable record), and the state that allowed it."""

    found: Claim | Unreadable
    state: ClaimState


class ClaimResult(NamedTuple):
    """What `try_claim` did.

    `found` is the claim in force now: this session's if `claimed`, else another session's, the marker of work that is
    done, or an unreadable record, which counts as held.  `lost` is an earlier grant of this session on the key that
    ended without a release.  With a `cycle` the session may not wait: the holder of each claim in it waits for the next,
    and the holder of the last is this session.  If it `keeps_place`, it goes on in its place when it waits again within
    `tickets.KEPT_PLACE`.

    Of several keys that were asked for together, `in_the_way` has all claims in the way, `grants` what was granted or
    reserved, with what each replaced, and `missing` those of the group that this session no longer holds; `regrouped` are
    those that it held before, each with its group until then.  Of several keys
    of which one was asked for, `left` counts those that are free and not done, beside the one of the result.

    With `blocked_by_own` the claim in the way is this session's, which holds the key in another way: to wait would never end.
    """

    status: Status
    found: Claim | Unreadable
    now: Moment
    taken_over: TakenOver | None = None
    lost: Claim | None = None
    cycle: tuple[Claim, ...] = ()
    keeps_place: bool = False
    in_the_way: tuple[Claim | Unreadable, ...] = ()
    grants: tuple[tuple[Claim, TakenOver | None], ...] = ()
    missing: tuple[ScopedKey, ...] = ()
    regrouped: tuple[tuple[Claim, tuple[ScopedKey, ...]], ...] = ()
    left: int | None = None
    blocked_by_own: bool = False

    @property
    def claimed(self) -> bool:
        """Whether this session holds the key."""
        return self.status in (Status.ACQUIRED, Status.RENEWED)


class Inspection(NamedTuple):
    """What `inspect` read; `found` is `None` where nothing is stored, and may be a marker, which holds nothing.

    `in_force` is whether the grant of the given generation still holds the key, `None` if no generation was given.
    With `your_turn` the key is reserved for this session.  Of a key that several hold, `beside` has all others who do, and
    `is_full` says whether none of its slots is free.
    """

    found: Found
    held_by_you: bool
    now: Moment
    lost: Claim | None = None
    in_force: bool | None = None
    your_turn: bool = False
    beside: tuple[Claim | Unreadable, ...] = ()
    is_full: bool = False

    @property
    def is_open(self) -> bool:
        """Whether others hold the key in a way in which this session may have it, too."""
        return bool(self.beside) and not (self.held_by_you or self.your_turn or self.is_full)

    @property
    def free_to_have_alone(self) -> bool:
        """Whether nobody else holds the key, in whatever way."""
        return not (self.claimed_by_other or self.is_open)

    @property
    def claimed_by_other(self) -> bool:
        """Whether another live session holds the key, so that a `try_claim` of the same kind would be refused."""
        if self.is_open:
            return False
        return self.found is not None and not self.held_by_you and not self.your_turn and self.marker is None

    @property
    def marker(self) -> Claim | None:
        """The marker of ended work, `None` if anything else was found."""
        return self.found if isinstance(self.found, Claim) and self.found.ended is not None else None

    @property
    def done(self) -> bool:
        """Whether the work is done, so that a `try_claim` would be refused; a file or a branch never is."""
        marker = self.marker
        if marker is None or marker.ended is None or marker.scoped.namespace == PLACES or marker.mode is not Mode.ALONE:
            return False
        return marker.ended.outcome is Outcome.DONE


class ReleaseResult(NamedTuple):
    """What `release` did; `found` is the released claim, the marker that replaced it, or what is stored instead.

    If it was `declined`, the session held nothing: the key was reserved for it.  `keys` are all that were released.
    """

    released: bool
    found: Found
    now: Moment
    lost: Claim | None = None
    declined: bool = False
    keys: tuple[ScopedKey, ...] = ()


class ListedClaim(NamedTuple):
    """A stored claim, marker or unreadable record, and its state."""

    found: Claim | Unreadable
    state: ClaimState


class ClaimPage(NamedTuple):
    """A page of stored claims in the order of the store; pass `after` for the next page, `None` if this is the last."""

    claims: tuple[ListedClaim, ...]
    now: Moment
    after: str | None


class PruneResult(NamedTuple):
    """What `prune` removed and what it kept: live claims, markers of ended work, and unreadable records.

    `failed` holds an error for each dead claim that the store would not remove.
    """

    expired: int
    orphaned: int
    unreadable: int
    live: int
    kept_unreadable: tuple[Unreadable, ...]
    failed: tuple[StoreUnavailableError | StoreBusyError, ...]
    markers: int = 0
