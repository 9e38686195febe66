"""What changes for one session of a host, from one reading to the next, as lines for its model: a turn, a loss, a release."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from mcp_claims.model import expiry, tickets
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import conflict
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Claim, Holder, Maker, Mode, Moment, Outcome, ScopedKey, Ticket
from mcp_claims.render.phrases import ClaimDescription, named, quoted
from mcp_claims.session.results import ListedClaim

ANSWERED = timedelta(seconds=5)
"""How long a turn is not mentioned: the call that waits for it answers so itself, and the next one takes it."""

WANTED = timedelta(hours=1)
"""How long a key is of interest after the session has last waited for it."""


class View(NamedTuple):
    """All that is stored at one moment."""

    now: Moment
    claims: Sequence[ListedClaim]
    tickets: Sequence[Ticket]

    def in_the_way(self) -> list[Claim]:
        """Return the claims that are held, and the reservations."""
        return [each.found for each in self.claims if each.state.in_force and isinstance(each.found, Claim)]


class Changes:
    """Compares each view with the one before; *is_ours* says which claims belong to the session."""

    def __init__(self, is_ours: Callable[[Claim], bool], provably_dead: Callable[[Holder], bool]) -> None:
        self._is_ours, self._provably_dead = is_ours, provably_dead
        # By place, since several sub-agents may share a key.
        self._held: dict[ScopedKey, Claim] = {}
        self._turns: list[Claim] = []
        self._told: set[tuple[ScopedKey, Moment]] = set()
        self._wanted: dict[tuple[ScopedKey, ...], _Wanted] = {}

    def lines(self, view: View) -> list[str]:
        """Return a line for each thing that is new in *view*."""
        in_the_way = view.in_the_way()
        ours = [claim for claim in in_the_way if self._is_ours(claim)]
        before, self._held = self._held, {each.scoped: each for each in ours if each.mode is not Mode.RESERVED}
        self._turns = [claim for claim in ours if claim.mode is Mode.RESERVED]
        return [
            *self._losses(before, view),
            *self._new_turns(view.now),
            *self._releases(view, in_the_way, [claim.scoped for claim in ours]),
        ]

    def next_change(self, now: Moment) -> float | None:
        """Return the seconds after which something changes for the session although nobody writes anything."""
        times = [expiry.expires_in(claim, now) for claim in self._held.values()]
        times += [ANSWERED + expiry.remaining(claim.claimed, now) for claim in self._untold()]
        times += [wanted.due(now) for wanted in self._wanted.values()]
        return min((max(0.0, each.total_seconds()) for each in times if each is not None), default=None)

    def _losses(self, before: dict[ScopedKey, Claim], view: View) -> Iterator[str]:
        there = {each.found.scoped: each.found for each in view.claims if isinstance(each.found, Claim)}
        for scoped, claim in before.items():
            # A guard claims a file anew for each edit, and lets the claim expire between two of them.
            if scoped not in self._held and claim.maker != Maker.GUARD:
                found = there.get(scoped)
                if (why := self._loss(claim, found, view.now)) is not None:
                    held = found is not None and found in view.in_the_way()
                    present = f" It is {ClaimDescription(found, view.now).held()}" if found is not None and held else ""
                    yield f"lost: {named(scoped)}: {why}. Stop what you do under it.{present}"

    def _loss(self, claim: Claim, found: Claim | None, now: Moment) -> str | None:
        """Return how *claim* was lost, of which *found* is left; `None` if it was released, or may have been.

        Where somebody has the key just after a release, or after a revocation, nothing tells the two apart.
        """
        marker = found if found is None or found.ended is not None else found.replaced
        if marker is not None and marker.ended is not None and marker.claimed == claim.claimed:
            if marker.ended.by_holder:
                return None
            if marker.ended.outcome is Outcome.REVOKED:
                return f"your claim was revoked by {quoted(marker.holder.name)}"
        taken = found is not None and not is_same_session(found.holder.name, claim.holder.name)
        if expiry.has_passed(claim.expires, found.claimed if found is not None and taken else now):
            return "your claim has expired"
        return "the process that held it for you has ended" if self._provably_dead(claim.holder) else None

    def _new_turns(self, now: Moment) -> Iterator[str]:
        self._told &= {_turn(claim) for claim in self._turns}
        for claim in self._untold():
            if -expiry.remaining(claim.claimed, now) >= ANSWERED:
                self._told.add(_turn(claim))
                until = ClaimDescription(claim, now).until()
                yield f"your turn: {named(claim.scoped)} is kept for you {until}. Call try_claim again to take it."

    def _untold(self) -> list[Claim]:
        return [claim for claim in self._turns if _turn(claim) not in self._told]

    def _releases(self, view: View, in_the_way: Sequence[Claim], ours: Sequence[ScopedKey]) -> Iterator[str]:
        for ticket in view.tickets:
            if tickets.is_waiting(ticket, view.now) and self._is_ours(_claim_of(ticket)):
                wanted = self._wanted.setdefault(ticket.keys, _Wanted(ticket, view.now))
                wanted.ticket, wanted.last = ticket, view.now
        for keys, wanted in list(self._wanted.items()):
            free = [key for key in keys if _is_free(key, wanted.ticket, in_the_way)]
            if not free or not (wanted.ticket.any or len(free) == len(keys)):
                wanted.free_since, wanted.told = None, False
            elif wanted.free_since is None:
                wanted.free_since = view.now
            if -expiry.remaining(wanted.last, view.now) > WANTED or any(
                conflict(key, own) for key in keys for own in ours
            ):
                del self._wanted[keys]
            elif (due := wanted.due(view.now)) is not None and due <= timedelta(0):
                wanted.told = True
                yield _released(free[0], view)
            elif wanted.told and wanted.last != view.now:
                del self._wanted[keys]


@dataclass
class _Wanted:
    """Keys that the session has waited for, `last` at that moment, with `ticket`, and since when they are free."""

    ticket: Ticket
    last: Moment
    free_since: Moment | None = None
    told: bool = False

    def due(self, now: Moment) -> timedelta | None:
        """Return in how long the session has to be told that they are free; `None` if they are not, or if it knows."""
        if self.free_since is None or self.told:
            return None
        # Not every store keeps a free key for a session whose call has ended; a call that still waits takes the key itself.
        return ANSWERED + expiry.remaining(self.free_since, now) if self.last == now else timedelta(0)


def _released(scoped: ScopedKey, view: View) -> str:
    for each in view.claims:
        if isinstance(each.found, Claim) and each.found.scoped == scoped and each.found.ended is not None:
            ended = f" It {ClaimDescription(each.found, view.now).ended()}"
            if each.state is ClaimState.DONE:
                return f"released: {named(scoped)}.{ended} Do not repeat it."
            return f"released: {named(scoped)} is free.{ended} Claim it before you act."
    return f"released: {named(scoped)} is free. Claim it before you act."


def _is_free(scoped: ScopedKey, ticket: Ticket, in_the_way: Sequence[Claim]) -> bool:
    """Return whether nobody has *scoped* in a way that keeps the session of *ticket* from it."""
    others = [claim for claim in in_the_way if conflict(claim.scoped, scoped) and not claim.use.goes_with(ticket.use)]
    slots = ticket.use.slots
    return not others or (slots is not None and len(others) < slots and all(each.use.slots == slots for each in others))


def _claim_of(ticket: Ticket) -> Claim:
    """Return *ticket* as a claim of its session."""
    return Claim(ticket.keys[0], ticket.holder, ticket.taken, ticket.until)


def _turn(claim: Claim) -> tuple[ScopedKey, Moment]:
    return claim.scoped, claim.claimed
