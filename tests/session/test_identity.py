"""The names of sessions: no two sessions that can exist at a time have the same one."""

from __future__ import annotations

import pytest

from mcp_claims.model.records import Proof
from mcp_claims.session.identity import named_session, process_session, session_for_process
from mcp_claims.session.results import Status
from mcp_claims.stores.memory import MemoryStore
from tests.support.machines import FakeMachine, World


class InNamespace(FakeMachine):
    """A machine in the PID namespace *namespace*, such as a container."""

    def __init__(self, world: World, pid: int, namespace: str) -> None:
        super().__init__(world, pid)
        self._namespace = namespace

    def proof(self, pid: int | None = None) -> Proof:
        return super().proof(pid)._replace(pid_namespace=self._namespace)


@pytest.mark.rule("I10")
def test_one_pid_in_two_pid_namespaces_with_one_host_name_makes_two_holders() -> None:
    """Two containers with one host name start the same command at the same tick, as after a boot."""
    store, world = MemoryStore(), World()
    first, second = (session_for_process(store, 7, InNamespace(world, 7, f"pid:[{number}]")) for number in (1, 2))
    assert first.holder.name != second.holder.name
    assert first.try_claim("nightly:2026-11-28").claimed
    assert second.try_claim("nightly:2026-11-28").status is Status.HELD


def test_everybody_who_acts_for_one_process_is_one_holder() -> None:
    store, world = MemoryStore(), World()
    first, second = (session_for_process(store, 7, FakeMachine(world, 7)) for _ in range(2))
    assert first.holder.name == second.holder.name
    assert first.try_claim("deploy").claimed
    assert second.try_claim("deploy").status is Status.RENEWED


def test_a_process_a_name_and_who_acts_for_the_process_are_three_holders() -> None:
    store, machine = MemoryStore(), FakeMachine(World(), 7)
    sessions = [
        process_session(store, machine),
        named_session(store, "ci", machine),
        session_for_process(store, 7, machine),
    ]
    assert len({session.holder.name for session in sessions}) == 3
