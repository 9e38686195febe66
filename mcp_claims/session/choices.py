"""One of several keys: the first, in order, that is free and not done.  So a list of work is shared out, each piece once."""

from __future__ import annotations

from mcp_claims.model.records import Found, Moment, ScopedKey, is_head
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.operations import Operations
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.stores.base import LOCK_TIMEOUT


class Choices(Operations):
    """The operations of one session, and requests for one of several keys."""

    def try_request(
        self, request: ClaimRequest, *, lock_timeout: float = LOCK_TIMEOUT, reserve: bool = False
    ) -> ClaimResult:
        """Do what `try_claim` does, for a checked request; with *reserve*, reserve the key instead of taking it.

        If the key is free and another session waits for it before this one, it is reserved for that session.
        """
        result = self._try_request(request, lock_timeout, reserve=reserve)
        history = self._store.history
        if history is not None and result.status in (Status.HELD, Status.DONE) and not result.blocked_by_own:
            history.refused(request.keys, self.holder, result.found)
        return result

    def _try_request(self, request: ClaimRequest, lock_timeout: float, *, reserve: bool) -> ClaimResult:
        if not request.or_else:
            return super().try_request(request, lock_timeout=lock_timeout, reserve=reserve)
        self._check_usable()
        now = self._machine.now()
        known = {key: self._found(key, found, lock_timeout) for key, found in self._read_all(request.keys).items()}
        # A session that has one of them gets no other: it releases that one first.
        own = [key for key, found in known.items() if self._holds(found, key)]
        own = own or [key for key, found in known.items() if self._is_turn(found, key, now)]
        waits = self.queue.waits_for(request.scoped)
        free = [key for key, found in known.items() if key in own or self._is_open(found, request, now)]
        refused: list[ClaimResult] = []
        for key in own or free:
            result = super().try_request(
                request._replace(scoped=key, or_else=()), lock_timeout=lock_timeout, reserve=reserve
            )
            if result.claimed or result.status is Status.YOUR_TURN:
                if result.claimed and waits:
                    self._end_choice(request, key, lock_timeout)
                return result._replace(left=sum(each != key for each in free))
            refused.append(result)
        for key, found in known.items():
            if found is not None and key not in own and key not in free:
                status = Status.DONE if self._is_done(found, now) else Status.HELD
                refused.append(ClaimResult(status, found, now))
        return next((each for each in refused if each.status is Status.HELD), refused[0])._replace(left=0)

    def _found(self, scoped: ScopedKey, found: Found, lock_timeout: float) -> Found:
        """Return what is stored for *scoped*, which was *found*: without its head, if none of those who held it lives."""
        while is_head(found):
            live = self._holders(found, self._machine.now(), lock_timeout)
            if live is not None:
                return live[0]
            found = self._store.read(scoped)
        return found

    def _is_open(self, found: Found, request: ClaimRequest, now: Moment) -> bool:
        """Return whether *found* leaves its key free to take, as far as that can be known without trying."""
        state = self._state_of(found, now)
        return not state.in_force and (request.redo or not self._is_done(found, now))

    def _end_choice(self, request: ClaimRequest, granted: ScopedKey, lock_timeout: float) -> None:
        """End the wait for any of the keys, of which one was *granted*: another one may be reserved for this session, too."""
        self.queue.end(request.scoped, lock_timeout, everywhere=True)
        self._decline_all([key for key in request.keys if key != granted], lock_timeout)
