"""Keeping claims alive: renewing them for a session that is there, so that its model need not."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_claims.errors import ClaimsError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.session import Session

DEFAULT_LONGEST_KEEPING = 8 * 60 * 60.0
"""Seconds for which a claim is kept alive at most, from when that was last asked for."""

_SHARE = 3
"""A claim is renewed when a third of its TTL has passed, so that two renewals may fail before it runs out."""

_NEVER = float("inf")


@dataclass(slots=True)
class _Kept:
    granted: Claim
    ttl_minutes: float
    due: float
    until: float


class KeepAlive:
    """What is kept alive for one session.  `renew` may run in a thread of its own, beside the other methods."""

    def __init__(self, claims: Session, longest: float = DEFAULT_LONGEST_KEEPING) -> None:
        self._claims, self._longest = claims, longest
        self._kept: dict[ScopedKey, _Kept] = {}

    def keep(self, granted: Claim, ttl_minutes: float, now: float) -> None:
        """Keep *granted* alive from *now* on, by renewals of *ttl_minutes* each, as long as may be."""
        due = now + ttl_minutes * 60 / _SHARE
        self._kept[granted.scoped] = _Kept(granted, ttl_minutes, due, now + self._longest)

    def stop(self, scoped: ScopedKey) -> None:
        """Let the claim on *scoped* run out."""
        self._kept.pop(scoped, None)

    def renew(self, now: float) -> float:
        """Renew what is due at *now*; return the seconds until something is due again, infinite if nothing is kept."""
        for scoped, kept in list(self._kept.items()):
            if now > kept.until:
                self._forget(scoped, kept)
            elif now >= kept.due:
                self._renew(scoped, kept, now)
        return min((kept.due - now for kept in list(self._kept.values())), default=_NEVER)

    def _renew(self, scoped: ScopedKey, kept: _Kept, now: float) -> None:
        try:
            renewed = self._claims.renew(kept.granted, kept.ttl_minutes)
        except ClaimsError:
            # Somebody is changing the namespace, or the disk is full: there is time for more tries.
            kept.due = now + kept.ttl_minutes * 60 / _SHARE / 10
            return
        if renewed is None:
            # Lost: the session is told so when it next asks about the key.
            self._forget(scoped, kept)
        else:
            kept.due = now + kept.ttl_minutes * 60 / _SHARE

    def _forget(self, scoped: ScopedKey, kept: _Kept) -> None:
        # It may have been claimed anew, or stopped, while the store was asked.
        if self._kept.get(scoped) is kept:
            self._kept.pop(scoped, None)
