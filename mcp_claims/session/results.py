"""What the methods of `Claims` answer: facts, which the server puts into words."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from mcp_claims.errors import StoreBusyError, StoreUnavailableError
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Found, Moment, Unreadable


class Status(Enum):
    """The answer to `try_claim`."""

    ACQUIRED = "acquired"
    RENEWED = "renewed"
    HELD = "held"
    DONE = "done"


class TakenOver(NamedTuple):
    """What a new claim replaced, and why it could: a dead claim, the marker of work that ended, or what was unreadable and
    nobody's.
    """

    what: Claim | Unreadable
    why: ClaimState


class ClaimResult(NamedTuple):
    """What `try_claim` did.

    `found` is the claim in force now: ours if `claimed`, else somebody else's, the marker of work that is done, or the
    unreadable thing that counts as held.  `lost` is an earlier claim of ours on this key that ended without our release.
    """

    status: Status
    found: Claim | Unreadable
    now: Moment
    taken_over: TakenOver | None = None
    lost: Claim | None = None

    @property
    def claimed(self) -> bool:
        return self.status in (Status.ACQUIRED, Status.RENEWED)


class Inspection(NamedTuple):
    """What `is_claimed_by_other` saw; `found` is `None` where there is nothing, and may be a marker, which holds nothing.

    `in_force` tells, if a generation was asked about, whether that grant still holds the key.
    """

    found: Found
    held_by_you: bool
    now: Moment
    lost: Claim | None = None
    in_force: bool | None = None

    @property
    def claimed_by_other(self) -> bool:
        return self.found is not None and not self.held_by_you and self.marker is None

    @property
    def marker(self) -> Claim | None:
        """The marker of work that has ended, if that is what was found."""
        return self.found if isinstance(self.found, Claim) and self.found.ended is not None else None


class ReleaseResult(NamedTuple):
    """What `release` did; `found` is the claim that went, its marker if one stays, or what is there instead of ours."""

    released: bool
    found: Found
    now: Moment
    lost: Claim | None = None


class ListedClaim(NamedTuple):
    """One thing that is stored, and how it stands."""

    found: Claim | Unreadable
    state: ClaimState


class ClaimPage(NamedTuple):
    """A page of what is stored, in the order of the store; `after` is where the next one begins, if there is one."""

    page: tuple[ListedClaim, ...]
    now: Moment
    after: str | None


class PruneResult(NamedTuple):
    """What `prune` removed and what it kept: live claims, markers of work that ended, and what cannot be read.

    `failed` are dead claims that the system would not let us remove.
    """

    expired: int
    orphaned: int
    unreadable: int
    live: int
    kept_unreadable: tuple[Unreadable, ...]
    failed: tuple[StoreUnavailableError | StoreBusyError, ...]
    markers: int = 0
