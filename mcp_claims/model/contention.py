"""What a history says in numbers: who was kept from doing what another did, how long keys were held and waited for.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from mcp_claims.model.history import Event, Kind
from mcp_claims.model.records import ScopedKey


@dataclass
class KeyUse:
    """How often one key was granted, taken over from the dead and refused; `held` and `waited` are in seconds.

    `kept_from` has each session that was refused, with the generation of the grant that it was refused for.
    """

    scoped: ScopedKey
    grants: int = 0
    takeovers: int = 0
    refusals: int = 0
    kept_from: set[tuple[str, int]] = field(default_factory=set)
    held: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    @property
    def duplicates_prevented(self) -> int:
        """How often a session was kept from what another one did: once for each grant, however often it asked."""
        return len(self.kept_from)


def uses(events: Iterable[Event]) -> list[KeyUse]:
    """Return what *events*, in the order of their times, say of each key; the most contended first."""
    found: dict[ScopedKey, KeyUse] = {}
    asking: dict[tuple[str, ScopedKey], Event] = {}
    for event in events:
        if not event.key:
            continue
        use = found.setdefault(event.scoped, KeyUse(event.scoped))
        whose = (event.holder, event.scoped)
        if event.kind is Kind.GRANTED:
            use.grants += 1
            use.takeovers += event.found in ("expired", "orphaned")
            if (first := asking.pop(whose, None)) is not None:
                use.waited.append(max(0.0, (event.at - first.at).total_seconds()))
        elif event.kind is Kind.REFUSED:
            use.refusals += event.times or 1
            use.kept_from.add((event.holder, event.generation))
            asking.setdefault(whose, event)
        elif event.kind.ends and event.duration_seconds is not None and not event.turn:
            use.held.append(event.duration_seconds)
    return sorted(found.values(), key=lambda use: (-use.duplicates_prevented, -use.refusals, -use.grants, use.scoped))


def median_of(seconds: list[float]) -> float | None:
    """Return the median of *seconds*, `None` of none."""
    return median(seconds) if seconds else None
