"""`kill -9` before every system call, or every request to etcd, of what changes several records at once: all of it or nothing.

Groups of keys that one session holds together, and keys that several sessions hold.  MCP_CLAIMS_LONG=1 kills at every step.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim, Mode, ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.history import Limits
from tests.processes.children import Hooked
from tests.processes.kills import NEVER, Operation, killed_at
from tests.support.etcd import fresh_config

if sys.platform == "win32":
    pytest.skip("has no fork", allow_module_level=True)

MOST = 400  # more steps than any operation takes
EACH = 1 if "MCP_CLAIMS_LONG" in os.environ else 3  # of the steps, by day
GROUP = tuple(ScopedKey("ci", key) for key in ("build", "test"))
KEY = ScopedKey("ci", "red")


class Place:
    """Where the claims are; *before* is called before each step of a store that a child opens."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._config = None if directory else fresh_config()

    def open(self, before: Callable[[], None] | None = None) -> Store:
        if self._directory is not None:
            return (
                FileStore(self._directory)
                if before is None
                else FileStore(self._directory, fs=Hooked(lambda _: before()), history=Limits())
            )
        assert self._config is not None
        if before is not None:
            call = Gateway.call

            def counted(gateway: Gateway, path: str, *arguments: Any, **more: Any) -> dict[str, Any]:
                before()
                return call(gateway, path, *arguments, **more)

            Gateway.call = counted  # type: ignore[assignment, method-assign]
        return EtcdStore(self._config, local_machine())


@pytest.fixture(params=["files", pytest.param("etcd", marks=pytest.mark.nightly)])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    return (Place(tmp_path / str(number) if request.param == "files" else None) for number in count())


def in_child(place: Place, at: int, *operations: Operation, uncounted: int = 0) -> bool:
    """Do what `killed_at` does with the claims in *place*."""
    return killed_at(place.open, at, *operations, uncounted=uncounted)


def claim_group(session: Session) -> None:
    first, *others = (each.key for each in GROUP)
    assert session.try_claim(first, "ci", also=others, note="half done").claimed


def share_group(session: Session) -> None:
    first, *others = (each.key for each in GROUP)
    assert session.try_claim(first, "ci", also=others, shared=True).claimed


def renew_group(session: Session) -> None:
    assert session.try_claim(GROUP[1].key, "ci", ttl_minutes=600).status is Status.RENEWED


def renew_shared_group(session: Session) -> None:
    first, *others = (each.key for each in GROUP)
    assert session.try_claim(first, "ci", also=others, shared=True, ttl_minutes=600).status is Status.RENEWED


def release_group(session: Session) -> None:
    assert session.release(GROUP[1].key, "ci").released


def revoke_one(session: Session) -> None:
    found = session.read(GROUP[1].key, "ci").claims[0].found
    assert session.revoke(found, "it hangs")


def prune(session: Session) -> None:
    session.prune()


def share(session: Session) -> None:
    assert session.try_claim(KEY.key, "ci", shared=True).claimed


def alone(session: Session) -> None:
    assert session.try_claim(KEY.key, "ci").claimed


def slot(session: Session) -> None:
    assert session.try_claim(KEY.key, "ci", slots=2).claimed


def leave(session: Session) -> None:
    assert session.release(KEY.key, "ci").released


def inspect(session: Session) -> None:
    session.inspect(KEY.key, "ci")


def ends(place: Place, *others: str) -> list[float]:
    """Return when what is held of the group expires, that of the sessions *others* apart."""
    found = [
        each for each in place.open().scan() if isinstance(each, Claim) and not each.members and each.ended is None
    ]
    return [each.expires.ticks for each in found if each.holder.name not in others]


@dataclass(frozen=True)
class Death:
    """What the child has done, what it is about when it dies, and how many claims of its own on the group it may then leave."""

    done: tuple[Operation, ...]
    about: Operation
    left: tuple[int, ...] = (0, len(GROUP))
    dead: tuple[Operation, ...] = ()
    """What a child has done that was dead before."""


@pytest.mark.rule("C15", "S11", "E16")
@pytest.mark.parametrize(
    "death",
    [
        pytest.param(Death((), claim_group), id="grant"),
        pytest.param(Death((claim_group,), renew_group, (len(GROUP),)), id="renewal"),
        pytest.param(Death((claim_group,), release_group), id="release"),
        pytest.param(Death((claim_group,), revoke_one, (len(GROUP) - 1, len(GROUP))), id="revoke"),
        pytest.param(Death((), prune, (0,), (claim_group,)), id="prune"),
        pytest.param(Death((), claim_group, dead=(claim_group,)), id="takeover"),
        pytest.param(Death((), share_group), id="shared grant"),
        pytest.param(Death((share_group,), renew_shared_group, (len(GROUP),)), id="shared renewal"),
        pytest.param(Death((share_group,), release_group), id="shared release"),
        pytest.param(Death((), share_group, dead=(share_group,)), id="shared, after the dead"),
        pytest.param(Death((), prune, (0,), (share_group,)), id="shared prune"),
    ],
)
def test_a_kill_at_any_step_of_a_group_leaves_all_of_it_or_nothing(places: Iterator[Place], death: Death) -> None:
    for at, place in zip(range(1, MOST, EACH), places, strict=False):
        survivor = process_session(place.open())
        if death.dead:
            in_child(place, NEVER, *death.dead)
        dead = {each.holder.name for each in place.open().scan() if isinstance(each, Claim)}
        killed = in_child(place, at, *death.done, death.about, uncounted=len(death.done))
        # Whoever comes next completes what was committed, and drops the rest.
        assert survivor.try_claim("unrelated", "ci").claimed
        left = ends(place, survivor.holder.name, *dead)
        assert len(left) in death.left
        if death.about in (renew_group, renew_shared_group, claim_group, share_group):
            assert max(left, default=0) - min(left, default=0) < 1, "all as they were, or none"
        first, *others = (each.key for each in GROUP)
        # All is dead: each next session gets all of it at once, in either way.
        shared = bool(at % 2)
        for _ in range(2 if shared else 1):
            session = survivor if not shared or _ else process_session(place.open())
            result = session.try_claim(first, "ci", also=others, shared=shared)
            assert result.status is Status.ACQUIRED and len(result.grants) == len(GROUP)
            assert session.release(first, "ci").keys and ends(place, survivor.holder.name) == []
        survivor.release("unrelated", "ci")
        survivor.prune()
        assert not any(isinstance(each, Claim) and each.ended is None for each in place.open().scan())
        if not killed:
            assert at > 1
            return
    pytest.fail("the kill never came too late")


@pytest.mark.rule("M1", "M2", "M4", "M5")
@pytest.mark.parametrize(
    ("way", "dead", "done", "about", "beside"),
    [
        pytest.param(*case, beside, id=f"{name} {'beside another' if beside else 'by itself'}")
        for name, case in {
            "share": ("shared", (), (), share),
            "share no more": ("shared", (), (share,), leave),
            "share after the dead": ("shared", (share,), (), share),
            "sweep by inspect": ("shared", (share,), (), inspect),
            "sweep by prune": ("shared", (share,), (), prune),
            "shared to alone": ("alone", (), (share,), alone),
            "alone to shared": ("alone", (), (alone,), share),
            "take a slot": ("slots", (), (), slot),
            "leave a slot": ("slots", (), (slot,), leave),
            "take a slot of the dead": ("slots", (slot,), (), slot),
            "prune a slot": ("slots", (slot,), (), prune),
        }.items()
        # Nobody passes to having it alone beside another.
        for beside in ([False] if case[0] == "alone" else [False, True])
    ],
)
def test_a_kill_at_any_step_leaves_a_key_that_several_hold_to_the_living(
    places: Iterator[Place],
    way: str,
    dead: tuple[Operation, ...],
    done: tuple[Operation, ...],
    about: Operation,
    beside: bool,
) -> None:
    join = {"slots": 2} if way == "slots" else {"shared": True}
    for at, place in zip(range(1, MOST, EACH), places, strict=False):
        survivor, other, third = (process_session(place.open()) for _ in range(3))
        mine = survivor.try_claim(KEY.key, "ci", **join).found if beside else None
        if dead:
            in_child(place, NEVER, *dead)
        killed = in_child(place, at, *done, about, uncounted=len(done))
        if mine is not None:
            # It is still in, and nobody has it alone; there is one more place, and no other.
            assert other.try_claim(KEY.key, "ci").status is Status.HELD
            again = survivor.try_claim(KEY.key, "ci", **join)
            assert again.status is Status.RENEWED and again.lost is None
            assert isinstance(again.found, Claim) and isinstance(mine, Claim)
            assert (again.found.scoped, again.found.generation) == (mine.scoped, mine.generation)
        joined = other.try_claim(KEY.key, "ci", **join)
        assert joined.status is Status.ACQUIRED and joined.in_the_way == ()
        if mine is None:
            assert survivor.try_claim(KEY.key, "ci", **join).status is Status.ACQUIRED
        assert third.try_claim(KEY.key, "ci", **join).claimed is (way != "slots")
        held = in_force(place)
        assert len(held) == (2 if way == "slots" else 3)
        assert len({(each.scoped, each.generation) for each in held}) == len(held)
        assert {each.mode for each in held} == {Mode.SLOT if way == "slots" else Mode.SHARED}
        for session in (survivor, other, third):
            assert session.release(KEY.key, "ci").released is (session is not third or way != "slots")
        assert third.try_claim(KEY.key, "ci").status is Status.ACQUIRED
        assert third.release(KEY.key, "ci").released
        survivor.prune()
        assert list(place.open().scan()) == [], "nothing of the dead is left"
        if not killed:
            assert at > 1
            return
    pytest.fail("the kill never came too late")


def in_force(place: Place) -> list[Claim]:
    """Return the claims on the key that its head lists."""
    store = place.open()
    head = store.read(KEY)
    assert isinstance(head, Claim) and head.members
    members = store.read_all(head.places)
    stored = [each for each in store.scan() if isinstance(each, Claim) and not each.members]
    assert len(stored) == len(members), "nobody is in a place that is not listed"
    return [each for each in members if isinstance(each, Claim)]
