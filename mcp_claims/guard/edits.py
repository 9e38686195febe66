"""Files that a session is about to edit: who else is at them, and the claims that the guard makes for the session.

A claim of the guard is marked as such, and names the edit that is in progress.  It lasts two minutes from the last edit; what a
tool has claimed or taken over is never changed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

from mcp_claims.errors import ClaimsError, ContendedError
from mcp_claims.liveness import Machine
from mcp_claims.model import expiry
from mcp_claims.model.keys import PLACES, conflict, is_file_key
from mcp_claims.model.records import Claim, Holder, Maker, ScopedKey
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.host_session import HostSession, Whose, whose
from mcp_claims.session.results import ListedClaim, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import MAX_SWAPS

TTL = timedelta(seconds=120)
"""How long a claim of the guard lasts from the last edit."""

LOCK_TIMEOUT = 0.5
"""Seconds to wait for a lock: in all, an edit is delayed by at most a second."""

_LONGEST_CYCLE = 10


class AtFile(NamedTuple):
    """What is in force at a file: claims of the session, of others, and those of which that cannot be known."""

    ours: list[Claim]
    others: list[ListedClaim]
    unknown: list[ListedClaim]

    @property
    def has_tools(self) -> bool:
        """Whether the session has claimed the file itself, by a tool or a command."""
        return any(claim.maker != Maker.GUARD for claim in self.ours)


class Cycle(NamedTuple):
    """A cycle of sessions, each of which wants a file that the next one holds; *freed* are keys given up to break it."""

    wanted: str
    freed: tuple[str, ...]
    by_us: bool


class Edits:
    """The edits of one agent, for which *session* acts, in the host's session *us*."""

    def __init__(self, session: Session, us: HostSession, machine: Machine) -> None:
        self._session, self._us, self._machine = session, us, machine
        # Of each holder once: to look at its ancestors takes as long as to read a claim, and most claims belong to few.
        self._known: dict[tuple[Holder, str | None], Whose] = {}

    def whose(self, claim: Claim) -> Whose:
        """Return whose *claim* is."""
        if claim.holder.name == self._session.holder.name:
            return Whose.OURS
        known = claim.holder, claim.maker
        if known not in self._known:
            self._known[known] = whose(claim, self._us, self._machine)
        return self._known[known]

    def read(self, scoped: ScopedKey) -> AtFile:
        """Return what is in force at the file *scoped*."""
        at_file = AtFile([], [], [])
        for listed in self._session.read(scoped.key, scoped.namespace, overlapping=True).claims:
            if not listed.state.in_force:
                continue
            found = listed.found
            side = self.whose(found) if isinstance(found, Claim) else Whose.UNKNOWN
            if isinstance(found, Claim) and side is Whose.OURS:
                at_file.ours.append(found)
            else:
                (at_file.others if side is Whose.OTHERS else at_file.unknown).append(listed)
        return at_file

    def claim(self, keys: Iterable[ScopedKey], call: str) -> AtFile | None:
        """Claim *keys* for the edit *call*, all or none; return what is in the way of the first that was refused."""
        made: list[Claim] = []
        for scoped in keys:
            at_file = self._claim_one(ClaimRequest(scoped, TTL, editing=call), made)
            if at_file is not None:
                for claim in made:
                    self._session.free(claim, exactly=True, lock_timeout=LOCK_TIMEOUT)
                return at_file
        return None

    def _claim_one(self, request: ClaimRequest, made: list[Claim]) -> AtFile | None:
        """Claim one file, and add a new claim to *made*; return what is in the way if it is refused."""
        for _ in range(MAX_SWAPS):
            result = self._session.try_request(request, lock_timeout=LOCK_TIMEOUT)
            if result.claimed and isinstance(result.found, Claim):
                if result.status is Status.ACQUIRED:
                    made.append(result.found)
                return None
            at_file = self.read(request.scoped)
            if at_file.has_tools:
                return None  # A call of the session's own has claimed it meanwhile.
            if at_file.others or at_file.unknown:
                return at_file
            # What was in the way is gone, as are claims that are given back when others are denied.
        raise ContendedError(request.scoped.key, MAX_SWAPS)

    def finish(self, held: Iterable[Claim], call: str | None) -> None:
        """Note that the edit *call*, or where its host does not say which any, is over: two minutes begin anew."""
        expires = expiry.later(self._machine.now(), TTL)
        for claim in held:
            if self._is_own_of_guard(claim) and claim.editing is not None and call in (None, claim.editing):
                self._session.amend(claim, claim._replace(editing=None, expires=expires), lock_timeout=LOCK_TIMEOUT)

    def end(self, held: Iterable[Claim]) -> None:
        """End what the guard has claimed for this agent."""
        for claim in filter(self._is_own_of_guard, held):
            self._session.free(claim, lock_timeout=LOCK_TIMEOUT)

    def note_wanted(self, held: Iterable[Claim], wanted: str | None) -> None:
        """Note, in what this agent holds, the file of which it was just denied an edit; `None` removes the note.

        Raises nothing: a note that cannot be written costs the discovery of a cycle, and must not undo a decision.
        """
        for claim in held:
            if is_file_key(claim.scoped) and claim.holder.agent == self._us.agent and claim.wants != wanted:
                with suppress(ClaimsError):
                    self._session.amend(claim, claim._replace(wants=wanted))

    def break_cycle(self, held: Sequence[Claim], everybody: Sequence[Claim], blocking: Claim) -> Cycle | None:
        """Return the cycle that a denial because of *blocking* closes, if it does: the youngest session in it gives way.

        That is, it gives up what the guard has claimed for it, except for files of which an edit is in progress.
        *everybody* is what is in force, and *held* what this session has of it.
        """
        path = self._path(everybody, blocking)
        if path is None:
            return None
        *others, own = path
        youngest = max(path, key=_began)
        by_us = youngest is own
        candidates = held if by_us else [each for each in everybody if _is_of_agent(each, youngest.holder)]
        freed = []
        for claim in candidates:
            is_theirs = not by_us or self._is_own_of_guard(claim)
            if is_theirs and claim.maker == Maker.GUARD and claim.editing is None:
                # As it was read: an edit may have begun since.
                with suppress(ClaimsError):
                    if self._session.free(claim, exactly=True):
                        freed.append(claim.scoped.base.key)
        return Cycle(others[-1].wants or "", tuple(freed), by_us)

    def _path(self, everybody: Sequence[Claim], blocking: Claim) -> list[Claim] | None:
        """Return the claims from *blocking* to one of this session: the holder of each wants what the next one holds."""
        path = [blocking]
        while len(path) < _LONGEST_CYCLE and (wanted := path[-1].wants) is not None:
            holders = [each for each in everybody if conflict(each.scoped, ScopedKey(PLACES, wanted))]
            own = next((each for each in holders if self.whose(each) is Whose.OURS), None)
            if own is not None:
                return [*path, own]
            further = next((each for each in holders if each not in path), None)
            if further is None:
                break
            path.append(further)
        return None

    def _is_own_of_guard(self, claim: Claim) -> bool:
        return claim.maker == Maker.GUARD and claim.holder.agent == self._us.agent and self.whose(claim) is Whose.OURS


def _is_of_agent(claim: Claim, holder: Holder) -> bool:
    """Return whether *claim* is of the agent of *holder*, under any of its names."""
    ids = holder.host_session, holder.agent
    return claim.holder.name == holder.name or (
        holder.host_session is not None and (claim.holder.host_session, claim.holder.agent) == ids
    )


def _began(claim: Claim) -> tuple[int, float, float]:
    """Return a key that orders sessions by age: that of their process, else that of what they hold."""
    return claim.holder.proof.start or 0, claim.claimed.wall.timestamp(), claim.claimed.ticks
