"""What the methods of `Claims` answer: facts, which the server puts into words."""

from __future__ import annotations

from enum import Enum

from mcp_claims.record import Claim, Found, Moment, Unreadable
from mcp_claims.rules import Standing
from mcp_claims.typed import NamedTuple


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
    why: Standing


class Attempt(NamedTuple):
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


class Look(NamedTuple):
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


class Release(NamedTuple):
    """What `release` did; `found` is the claim that went, its marker if one stays, or what is there instead of ours."""

    released: bool
    found: Found
    now: Moment
    lost: Claim | None = None
