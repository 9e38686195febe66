"""What sessions ask for in the runs of `tests/explorer/etcd_waits.py`, by the name of the mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from mcp_claims.model.keys import PLACES
from mcp_claims.model.records import SHARED, Mode, ScopedKey, Use
from mcp_claims.model.validation import ClaimRequest


def _keys(chance: Random, *counts: int) -> list[ScopedKey]:
    return [ScopedKey("default", key) for key in chance.sample("abc", chance.choice(counts))]


def _alone(_: Random) -> ClaimRequest:
    return ClaimRequest(ScopedKey("default", "a"))


def _slots(count: int, _: Random) -> ClaimRequest:
    return ClaimRequest(ScopedKey("default", "d"), use=Use(Mode.SLOT, count))


def _shared(chance: Random) -> ClaimRequest:
    return _sometimes_shared(ClaimRequest(ScopedKey("default", "e")), chance)


def _sometimes_shared(request: ClaimRequest, chance: Random) -> ClaimRequest:
    return request._replace(use=SHARED) if chance.random() < 0.5 else request


def _set(chance: Random) -> ClaimRequest:
    first, *also = _keys(chance, 1, 1, 2, 3)
    return ClaimRequest(first, also=tuple(also))


def _shared_set(chance: Random) -> ClaimRequest:
    return _sometimes_shared(_set(chance), chance)


def _any(chance: Random) -> ClaimRequest:
    first, *or_else = _keys(chance, 1, 2, 3)
    return ClaimRequest(first, or_else=tuple(or_else))


def _files(chance: Random) -> ClaimRequest:
    return ClaimRequest(ScopedKey(PLACES, "file:/w/" + chance.choice(("", "a", "b", "d/", "d/x"))))


def _shared_files(chance: Random) -> ClaimRequest:
    return _sometimes_shared(_files(chance), chance)


def _mix(chance: Random) -> ClaimRequest:
    (kind,) = chance.choices((_set, _any, _shared, partial(_slots, 2)), (5, 3, 2, 2))
    return kind(chance)


MODES: Mapping[str, Callable[[Random], ClaimRequest]] = {
    "alone": _alone,
    "two slots": partial(_slots, 2),
    "three slots": partial(_slots, 3),
    "shared": _shared,
    "sets": _set,
    "shared sets": _shared_set,
    "any": _any,
    "files": _files,
    "shared files": _shared_files,
    "mix": _mix,
}
"""What a session asks for next, by the name of the mode."""

HOLD_AND_WAIT = ("sets", "files", "mix")
"""Modes in which a session that holds a key may wait for another one, which makes cycles."""
