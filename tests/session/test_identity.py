"""The names of sessions: no two sessions that can exist at a time have the same one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import Holder, Proof
from mcp_claims.session import identity
from mcp_claims.session.identity import (
    handle_session,
    named_session,
    person_session,
    process_session,
    session_for_process,
)
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.memory import MemoryStore
from tests.support.machines import FakeMachine, World


class Place(FakeMachine):
    """A machine that is called *host* just now, or a container with a PID *namespace* of its own."""

    def __init__(self, world: World, pid: int, host: str = "rig", namespace: str = "pid:[1]") -> None:
        super().__init__(world, pid)
        self._host, self._namespace = host, namespace

    def host(self) -> str:
        return self._host

    def proof(self, pid: int | None = None) -> Proof:
        return super().proof(pid)._replace(pid_namespace=self._namespace)


@pytest.mark.rule("I10")
def test_one_pid_in_two_pid_namespaces_with_one_host_name_makes_two_holders() -> None:
    """Two containers with one host name start the same command at the same tick, as after a boot."""
    store, world = MemoryStore(), World()
    first, second = (session_for_process(store, 7, Place(world, 7, namespace=f"pid:[{number}]")) for number in (1, 2))
    assert first.holder.name != second.holder.name
    assert first.try_claim("nightly:2026-11-28").claimed
    assert second.try_claim("nightly:2026-11-28").status is Status.HELD


Open = Callable[[MemoryStore, FakeMachine], Session]
OPEN: dict[str, Open] = {
    "named": lambda store, machine: named_session(store, "ci", machine),
    "a person's": person_session,
    "for a process": lambda store, machine: session_for_process(store, 7, machine),
    "of a handle": lambda store, machine: handle_session(store, machine, 7, b"16 secret bytes.", bound=False),
}
BY_ITS_OPENING = pytest.mark.parametrize("open_session", OPEN.values(), ids=OPEN)


@pytest.mark.rule("I10")
@BY_ITS_OPENING
def test_a_session_keeps_its_claims_when_its_machine_gets_another_name(open_session: Open) -> None:
    store, world = MemoryStore(), World()
    before, after = (open_session(store, Place(world, 7, host)) for host in ("laptop.local", "dhcp-17.lan"))
    assert before.try_claim("deploy").claimed
    assert after.inspect("deploy").held_by_you
    assert [each.state for each in after.list_claims(mine=True).claims] == [ClaimState.HELD]
    assert after.try_claim("deploy").status is Status.RENEWED
    # Nor does the one that knew the former name take the renewal for a loss.
    again = before.try_claim("deploy")
    assert (again.status, again.lost) == (Status.RENEWED, None)
    assert after.release("deploy").released


@pytest.mark.rule("I10")
@pytest.mark.parametrize("open_session", [OPEN["named"], OPEN["a person's"]])
def test_one_name_on_two_machines_makes_two_holders(open_session: Open) -> None:
    """Where machines share a store, and their configuration or users."""
    store, first, second = MemoryStore(), World(), World()
    second.boot = "boot-of-another-machine"
    here, there = open_session(store, Place(first, 7, "a")), open_session(store, Place(second, 7, "b"))
    assert here.try_claim("deploy").claimed
    assert there.try_claim("deploy").status is Status.HELD
    assert not there.release("deploy").released


@pytest.mark.rule("I10")
def test_one_name_in_two_containers_with_host_names_of_their_own_makes_two_holders() -> None:
    store, world = MemoryStore(), World()

    first, second = (
        named_session(store, "ci", Place(world, 7, f"container-{number}", f"pid:[{number}]")) for number in (1, 2)
    )
    assert first.try_claim("deploy").claimed
    assert second.try_claim("deploy").status is Status.HELD


@pytest.mark.rule("I10")
def test_where_the_boot_is_unknown_a_pid_on_two_machines_makes_two_holders() -> None:
    class Blind(Place):
        def proof(self, pid: int | None = None) -> Proof:
            return Proof()

        def provably_dead(self, holder: Holder) -> bool:
            return False

    for open_session in (OPEN["for a process"], OPEN["named"]):
        store, world = MemoryStore(), World()
        first, second = (open_session(store, Blind(world, 7, host)) for host in ("a", "b"))
        assert first.try_claim("deploy").claimed
        assert second.try_claim("deploy").status is Status.HELD


def test_a_claim_of_the_last_version_is_still_its_sessions() -> None:
    assert is_same_session("rig:session:ci", named_session(MemoryStore(), "ci", FakeMachine(World(), 7)).holder.name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a:7", "b:7"),  # Holders of the original are known by host and PID.
        ("a:7:00000000000a", "a:7:00000000000b"),
        ("a:7:00000000000a", "a:8:00000000000a"),
        ("a@:session:ci", "b@:session:ci"),
        ("a@1:session:ci", "b@2:session:ci"),
        ("a@1:session:ci", "a@1:session:other"),
        ("a@1:session:7", "a:7:session"),
    ],
)
def test_different_names(one: str, other: str) -> None:
    assert not is_same_session(one, other) and not is_same_session(other, one)


def test_everybody_who_acts_for_one_process_is_one_holder() -> None:
    store, world = MemoryStore(), World()
    first, second = (session_for_process(store, 7, FakeMachine(world, 7)) for _ in range(2))
    assert first.holder.name == second.holder.name
    assert first.try_claim("deploy").claimed
    assert second.try_claim("deploy").status is Status.RENEWED


@pytest.mark.rule("L10")
def test_a_process_a_name_a_person_and_who_acts_for_the_process_are_different_holders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "_user", lambda: "ci")
    store, machine = MemoryStore(), FakeMachine(World(), 7)
    sessions = [
        process_session(store, machine),
        named_session(store, "ci", machine),
        named_session(store, "person:ci", machine),
        person_session(store, machine),
        session_for_process(store, 7, machine),
    ]
    for one, other in itertools.combinations(sessions, 2):
        assert not is_same_session(one.holder.name, other.holder.name)


@pytest.mark.rule("L10")
def test_two_users_of_a_machine_are_two_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    store, machine = MemoryStore(), FakeMachine(World(), 7)
    monkeypatch.setattr(identity, "_user", lambda: "ada")
    assert person_session(store, machine).try_claim("deploy").claimed
    assert person_session(store, machine).try_claim("deploy").status is Status.RENEWED
    monkeypatch.setattr(identity, "_user", lambda: "ben")
    assert person_session(store, machine).try_claim("deploy").status is Status.HELD


@pytest.mark.rule("I10")
def test_a_container_that_gets_the_namespace_number_of_one_that_is_gone_is_another_place() -> None:
    """The kernel gives the number of a PID namespace again once the namespace is gone."""
    store, world = MemoryStore(), World()
    first = named_session(store, "ci", Place(world, 7, "box-a", "pid:[9]"))
    assert first.try_claim("deploy").claimed
    world.starts[1] = 90_000
    second = named_session(store, "ci", Place(world, 7, "box-b", "pid:[9]"))
    assert second.try_claim("deploy").status is Status.HELD


def test_a_session_dies_with_the_process_that_it_is_bound_to_and_shows_its_name() -> None:
    store, world = MemoryStore(), World()
    machine, other = FakeMachine(world, 7), FakeMachine(world, 8)
    nonce, another = b"16 secret bytes.", b"16 other bytes. "
    acting = session_for_process(store, 8, machine).holder
    assert (acting.pid, acting.proof) == (8, other.proof()) and acting.name.startswith("rig:8:for-")
    bound = handle_session(store, machine, 9, nonce, bound=True).holder
    free = handle_session(store, machine, 9, nonce, bound=False).holder
    assert (bound.pid, bound.proof, free.pid, free.proof) == (7, machine.proof(), 7, Proof())
    assert bound.name == free.name != handle_session(store, machine, 9, another, bound=True).holder.name
    assert re.fullmatch("rig:9:[0-9a-f]{12}", bound.name) and nonce.hex()[:6] not in bound.name
    assert named_session(store, "ci", machine).holder.proof == Proof()


@pytest.mark.parametrize("pid", [-1, 0, 1, 6, 2**31])
def test_nobody_can_act_for_a_process_that_does_not_run_or_for_the_first_one(pid: int) -> None:
    world = World()
    machine, ended = FakeMachine(world, 7), FakeMachine(world, 6)
    world.alive.discard((world.boot, ended.pid()))
    rule = "parent of every orphaned script" if pid == 1 else f"of this machine that is running, not {pid}\\."
    machine.provably_dead = lambda holder: holder.pid == ended.pid() and holder.name == "rig:6"  # type: ignore[method-assign]
    with pytest.raises(InvalidInputError, match=rule):
        session_for_process(MemoryStore(), pid, machine)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("c", True),
        ("c" * 64, True),
        ("nightly #1", True),
        ("", False),
        ("c" * 65, False),
        ("a\nb", False),
        ("c ", False),
    ],
)
def test_a_name_is_one_line_of_1_to_64_characters(name: str, valid: bool) -> None:
    machine = FakeMachine(World(), 7)
    if valid:
        assert named_session(MemoryStore(), name, machine).holder.pid == 7
    else:
        with pytest.raises(InvalidInputError, match=r"^session must be a name of 1 to 64 printable characters"):
            named_session(MemoryStore(), name, machine)
