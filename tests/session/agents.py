"""Agents: sessions together with the last answers that their users got, which decide who thinks that it holds a key."""

from __future__ import annotations

from mcp_claims.model.records import Claim, Outcome, ScopedKey
from mcp_claims.model.validation import DEFAULT_NAMESPACE
from mcp_claims.session.results import ClaimResult, Inspection, ReleaseResult
from mcp_claims.session.session import Session
from tests.session.bench import KEY
from tests.support.machines import World


class Agent:
    """A user that acts on a key after a grant, until the expiry in that answer."""

    def __init__(self, world: World, session: Session) -> None:
        self.session = session
        self.name = session.holder.name
        self._world, self._boot = world, world.boot
        self._until: dict[ScopedKey, float] = {}

    @property
    def alive(self) -> bool:
        return (self._world.boot, self.session.holder.pid) in self._world.alive and self._boot == self._world.boot

    def thinks_it_holds(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Return whether this agent would act on the key now."""
        return self.alive and self._until.get(ScopedKey(namespace, key), 0.0) > self._world.ticks

    def try_claim(
        self,
        key: str = KEY,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        ttl_minutes: float = 30,
        redo: bool = False,
        note: str | None = None,
    ) -> ClaimResult:
        attempt = self.session.try_claim(key, namespace, ttl_minutes=ttl_minutes, redo=redo, note=note)
        self._record_grant(key, namespace, attempt.found if attempt.claimed else None)
        return attempt

    def inspect(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE) -> Inspection:
        inspection = self.session.inspect(key, namespace)
        self._record_grant(key, namespace, inspection.found if inspection.held_by_you else None)
        return inspection

    def release(
        self,
        key: str = KEY,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        outcome: Outcome | None = None,
        retention_hours: float = 24,
    ) -> ReleaseResult:
        # An agent that releases a key has stopped acting on it, whatever the answer.
        self._record_grant(key, namespace, None)
        return self.session.release(key, namespace, outcome=outcome, retention_hours=retention_hours)

    def stop(self, key: str = KEY, namespace: str = DEFAULT_NAMESPACE) -> None:
        """No longer act on the key, without a call."""
        self._record_grant(key, namespace, None)

    def end(self) -> int:
        self._until.clear()
        return self.session.close()

    def _record_grant(self, key: str, namespace: str, claim: object) -> None:
        if isinstance(claim, Claim):
            self._until[ScopedKey(namespace, key)] = claim.expires.ticks
        else:
            self._until.pop(ScopedKey(namespace, key), None)
