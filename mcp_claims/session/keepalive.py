"""Keep-alive: renews the claims of a live session, so that its model or program need not."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mcp_claims.errors import ClaimsError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.stores.threads import start_daemon_thread

if TYPE_CHECKING:
    from mcp_claims.session.session import Session

DEFAULT_KEEP_ALIVE_LIMIT = timedelta(hours=8)
"""How long a claim is kept alive at most, counted from the last request to do so."""

_FRACTION = 3
"""A claim is renewed when a third of its TTL has passed, so that two renewals may fail before it expires."""

_RETRIES = 10
_LONGEST_PAUSE = 60.0  # s
_NEVER = float("inf")


class _Kept:
    """A claim that is kept alive: when it is due for renewal, and until when it is renewed at all."""

    def __init__(self, grant: Claim, ttl: timedelta, due: float, until: float) -> None:
        self.grant, self.ttl, self.due, self.until = grant, ttl, due, until
        #: The error of the last renewal, if that failed.
        self.problem: ClaimsError | None = None


class KeepAlive:
    """The claims of *session* that are kept alive.  Times are in seconds of any clock that counts suspend.

    `renew_due` may run in a thread of its own, beside the other methods.
    """

    def __init__(self, session: Session, limit: timedelta = DEFAULT_KEEP_ALIVE_LIMIT) -> None:
        self._session, self._limit = session, limit
        self._kept: dict[ScopedKey, _Kept] = {}

    def add(self, grant: Claim, ttl: timedelta, now: float) -> None:
        """Keep *grant* alive from *now* on, by renewals of *ttl* each."""
        due = now + _interval(ttl)
        self._kept[grant.scoped] = _Kept(grant, ttl, due, now + self._limit.total_seconds())

    def remove(self, scoped: ScopedKey) -> None:
        """Stop renewing the claim on *scoped*."""
        self._kept.pop(scoped, None)

    def get(self, scoped: ScopedKey) -> Claim | None:
        """Return the claim on *scoped* as of its last renewal; `None` if it is not kept alive, or was lost."""
        kept = self._kept.get(scoped)
        return None if kept is None else kept.grant

    def problem(self, scoped: ScopedKey) -> ClaimsError | None:
        """Return the error of the last renewal of the claim on *scoped*, if that failed."""
        kept = self._kept.get(scoped)
        return None if kept is None else kept.problem

    def renew_due(self, now: float) -> float:
        """Renew the claims that are due at *now*; return the seconds until the next is due, infinite if there is none."""
        for scoped, kept in list(self._kept.items()):
            if now > kept.until:
                self._drop(scoped, kept)
            elif now >= kept.due:
                self._renew(scoped, kept, now)
        return min((kept.due - now for kept in list(self._kept.values())), default=_NEVER)

    def verify(self, scoped: ScopedKey) -> None:
        """Stop keeping the claim on *scoped* if it is lost; a store that cannot answer is asked again later."""
        kept = self._kept.get(scoped)
        if kept is None:
            return
        with suppress(ClaimsError):
            # Not `inspect`, which would remove the claim if it has expired, while it can still be renewed.
            base = scoped.base
            stored = (each.found for each in self._session.read(base.key, base.namespace).claims)
            # In whichever way it is held by now: no two of its holders have the same generation.
            grant = (base, kept.grant.generation, None)
            if not any(
                isinstance(each, Claim) and (each.scoped.base, each.generation, each.ended) == grant for each in stored
            ):
                self._drop(scoped, kept)

    def _renew(self, scoped: ScopedKey, kept: _Kept, now: float) -> None:
        try:
            renewed = self._session.renew(kept.grant, kept.ttl)
        except ClaimsError as error:
            # The namespace is locked, or the disk is full: there is time for more attempts.
            kept.due = now + _interval(kept.ttl) / _RETRIES
            kept.problem = error
            return
        kept.problem = None
        if renewed is None:
            # Lost: the session's next call about the key reports it.
            self._drop(scoped, kept)
        else:
            kept.grant, kept.due = renewed, now + _interval(kept.ttl)

    def _drop(self, scoped: ScopedKey, kept: _Kept) -> None:
        # A parallel call may have claimed the key again while the store answered.
        if self._kept.get(scoped) is kept:
            self._kept.pop(scoped, None)


class KeepAliveThread:
    """Keeps one *grant* of *session* alive for a block, in a thread; for programs without an event loop.

    With *verify_every* (seconds) the thread also checks between renewals that nobody has revoked the claim.
    """

    def __init__(self, session: Session, grant: Claim, ttl: timedelta, *, verify_every: float = _NEVER) -> None:
        self._session, self._grant = session, grant
        self._longest_pause = min(verify_every, _LONGEST_PAUSE)
        self._verifies = verify_every < _NEVER
        self._keep_alive = KeepAlive(session, timedelta.max / 2)
        self._keep_alive.add(grant, ttl, self._now())
        self._ended = Event()

    @property
    def claim(self) -> Claim | None:
        """The claim as of its last renewal; `None` once it was found lost."""
        return self._keep_alive.get(self._grant.scoped)

    @property
    def problem(self) -> ClaimsError | None:
        """The error of the last renewal, if that failed."""
        return self._keep_alive.problem(self._grant.scoped)

    def __enter__(self) -> Self:
        start_daemon_thread(self._run, "mcp-claims keep-alive")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _run(self) -> None:
        pause = 0.0
        while self.claim is not None and not self._ended.wait(pause):
            # `wait` does not count the time that the machine is suspended, the clock of the renewals does.
            pause = min(self._longest_pause, self._keep_alive.renew_due(self._now()))
            if self._verifies:
                self._keep_alive.verify(self._grant.scoped)

    def _now(self) -> float:
        return self._session.now().ticks


def _interval(ttl: timedelta) -> float:
    return ttl.total_seconds() / _FRACTION
