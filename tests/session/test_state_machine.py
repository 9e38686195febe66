"""Any order of events, checked step by step against a small model that knows no locks, files or races."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Found, Holder, Outcome, ScopedKey, Unreadable
from mcp_claims.session.results import PruneResult, Status
from mcp_claims.session.session import Session
from tests.session.agents import Agent
from tests.session.bench import DAY, Bench, EtcdBench, FileBench, MemoryBench

HOUR = 3_600.0
BLOCKING = ("held", "unreadable", "done")

whos = st.integers(0, 5)
places = st.sampled_from([ScopedKey("default", "red"), ScopedKey("default", "Red"), ScopedKey("other", "red")])
ttls = st.sampled_from([1 / 60, 1, 30, 60, 1_440])
seconds = st.sampled_from([0.25, 1.0, 1.0, 59.0, 60.0, 60.0, 1_800.0, HOUR, DAY / 2, DAY + 1])
rubbish = st.sampled_from([b"", b"{", b"null", b"[1]", b'{"holder": 1}', b"\xff\0", b"x" * 70_000])


@dataclass
class Entry:
    """A claim, as the model has it."""

    owner: Agent
    boot: str
    generation: int
    until_ticks: float
    until_wall: datetime
    outcome: Outcome | None = None
    note: bool = False


@dataclass
class Rubbish:
    """What cannot be read, since when."""

    since: datetime


class AnyOrder(RuleBasedStateMachine):
    """Sessions of several processes on one computer do as they please; the model foretells each answer."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.sessions = 0
        self.agents: list[Agent] = []
        self.killed: set[int] = set()
        self.stored: dict[ScopedKey, Entry | Rubbish] = {}
        self.granted: dict[tuple[str, ScopedKey], int] = {}
        self.highest: dict[ScopedKey, int] = {}

    @initialize()
    def begin(self) -> None:
        for _ in range(2):
            self.start_a_process()

    # What sessions do.

    @precondition(lambda self: self.agents)
    @rule(who=whos, at=places, minutes=ttls, redo=st.booleans(), note=st.booleans())
    def try_claim(self, who: int, at: ScopedKey, minutes: float, redo: bool, note: bool) -> None:
        agent, before, state = self.asker(who), self.stored.get(at), self.state(at)
        attempt = agent.try_claim(
            at.key, at.namespace, ttl_minutes=minutes, redo=redo, note="half done" if note else None
        )
        until_ticks = self.bench.world.ticks + round(minutes * 60)
        until_wall = self.bench.world.wall + timedelta(seconds=round(minutes * 60))
        if isinstance(before, Entry) and before.owner is agent and before.outcome is None:
            assert (attempt.status, attempt.lost, attempt.taken_over) == (Status.RENEWED, None, None)
            before.note |= note
            before.until_ticks = max(until_ticks, before.until_ticks)
            # By the clock of today, also where the longer time is kept.
            left = timedelta(seconds=before.until_ticks - self.bench.world.ticks)
            before.until_wall = self.bench.world.wall + left
            self.agrees(attempt.found, before)
        elif state in ("held", "unreadable"):
            assert (attempt.status, attempt.taken_over) == (Status.HELD, None)
            self.agrees(attempt.found, before)
            self.tells_of_loss(attempt.lost, agent, at)
        elif state == "done" and not redo:
            assert (attempt.status, attempt.claimed, attempt.taken_over) == (Status.DONE, False, None)
            self.agrees(attempt.found, before)
            self.tells_of_loss(attempt.lost, agent, at)
        else:
            assert attempt.status is Status.ACQUIRED
            if attempt.taken_over is None:
                assert state == "free"
            else:
                assert attempt.taken_over.state is ClaimState("expired" if state == "old and unreadable" else state)
                self.agrees(attempt.taken_over.found, before)
            self.tells_of_loss(attempt.lost, agent, at)
            assert isinstance(attempt.found, Claim)
            generation = attempt.found.generation
            assert generation > self.highest.get(at, 0), "a generation never comes twice and never goes back"
            entry = Entry(agent, self.bench.world.boot, generation, until_ticks, until_wall, note=note)
            self.stored[at], self.highest[at], self.granted[agent.name, at] = entry, generation, generation
            self.agrees(attempt.found, entry)

    @rule(at=places, minutes=ttls)
    def everybody_tries(self, at: ScopedKey, minutes: float) -> None:
        for who in range(len(self.agents)):
            self.try_claim(who, at, minutes, redo=False, note=False)

    @precondition(lambda self: self.agents)
    @rule(who=whos, at=places)
    def inspect(self, who: int, at: ScopedKey) -> None:
        agent, state = self.asker(who), self.state(at)
        inspection = agent.inspect(at.key, at.namespace)
        before = self.meet(at)
        mine = isinstance(before, Entry) and before.owner is agent and before.outcome is None
        assert (inspection.held_by_you, inspection.claimed_by_other) == (
            mine,
            state in ("held", "unreadable") and not mine,
        )
        assert (inspection.marker is not None) == (isinstance(before, Entry) and before.outcome is not None)
        self.agrees(inspection.found, before)
        if mine:
            assert inspection.lost is None
        else:
            self.tells_of_loss(inspection.lost, agent, at)

    @precondition(lambda self: self.agents)
    @rule(
        who=whos,
        at=places,
        outcome=st.none() | st.sampled_from([Outcome.DONE, Outcome.FAILED, Outcome.ABANDONED]),
        hours=st.sampled_from([1 / 60, 1, 24, 720]),
    )
    def release(self, who: int, at: ScopedKey, outcome: Outcome | None, hours: float) -> None:
        agent, before = self.asker(who), self.stored.get(at)
        release = agent.release(at.key, at.namespace, outcome=outcome, retention_hours=hours)
        if isinstance(before, Entry) and before.owner is agent and before.outcome is None:
            assert (release.released, release.lost) == (True, None)
            del self.granted[agent.name, at]
            if outcome is None:
                del self.stored[at]
            else:
                world, kept = self.bench.world, round(hours * 3600)
                until = world.ticks + kept, world.wall + timedelta(seconds=kept)
                before = self.stored[at] = Entry(agent, world.boot, before.generation, *until, outcome, before.note)
            self.agrees(release.found, before)
        else:
            self.agrees(release.found, before)
            assert not release.released
            self.tells_of_loss(release.lost, agent, at)

    @precondition(lambda self: self.agents)
    @rule(who=whos, namespace=st.sampled_from([None, "default", "other"]))
    def prune(self, who: int, namespace: str | None) -> None:
        there = {at: self.state(at) for at in self.stored if namespace in (None, at.namespace)}
        markers = {at for at in there if isinstance(entry := self.stored[at], Entry) and entry.outcome is not None}
        pruned = self.asker(who).session.prune(namespace)
        count = [state for at, state in there.items() if at not in markers].count
        after = {at: self.meet(at) for at in there}
        kept, left = pruned.kept_unreadable, sum(after[at] is not None for at in markers)
        assert pruned == PruneResult(
            count("expired"), count("orphaned"), count("old and unreadable"), count("held"), kept, (), left
        )
        assert {thing.where for thing in kept} == {
            self.bench.place(at.key, at.namespace) for at in there if there[at] == "unreadable"
        }

    @precondition(lambda self: self.agents)
    @rule(who=whos)
    def end(self, who: int) -> None:
        agent = self.asker(who)
        own = [
            at
            for at, entry in self.stored.items()
            if isinstance(entry, Entry) and entry.owner is agent and entry.outcome is None
        ]
        assert agent.end() == len(own)
        for at in own:
            del self.stored[at]
        self.agents.remove(agent)

    # What happens to them.

    @precondition(lambda self: len(self.agents) < 6)
    @rule()
    def start_a_process(self) -> None:
        """Start a process with two sessions, which exclude each other like any two."""
        machine = self.bench.world.process()
        for _ in range(2):
            self.sessions += 1
            name = f"rig:{machine.pid()}:{self.sessions:012x}"
            session = Session(self.bench.store, Holder(name, machine.pid(), machine.proof()), machine)
            self.agents.append(Agent(self.bench.world, session))

    @precondition(lambda self: self.agents)
    @rule(who=whos)
    def kill(self, who: int) -> None:
        victim = self.asker(who).session
        self.bench.world.kill(victim)
        self.killed.add(victim.holder.pid)
        self.agents = [agent for agent in self.agents if agent.session.holder.pid != victim.holder.pid]

    @rule()
    def reboot(self) -> None:
        self.bench.world.reboot()
        self.agents.clear()

    @rule(span=seconds)
    def tick(self, span: float) -> None:
        self.bench.world.pass_time(span)

    # The age of what cannot be read is known by the wall clock alone, so a step of a day makes a live holder's
    # damaged record expired.  That takes two faults at once and is a limit that the design has, not a surprise.
    @precondition(lambda self: not any(isinstance(entry, Rubbish) for entry in self.stored.values()))
    @rule(step=st.sampled_from([-365 * DAY, -DAY, -HOUR, HOUR, DAY, 365 * DAY]))
    def set_the_wall_clock(self, step: float) -> None:
        self.bench.world.set_wall_clock(step)

    @precondition(lambda self: self.stored)
    @rule(which=st.integers(0, 3), content=rubbish)
    def damage(self, which: int, content: bytes) -> None:
        at = sorted(self.stored)[which % len(self.stored)]
        self.bench.damage(at.key, at.namespace, content)
        self.stored[at] = Rubbish(self.bench.world.wall)

    # What has to hold after each step.

    @invariant()
    def at_most_one_thinks_it_holds(self) -> None:
        for at in self.highest:
            apparent_holders = [agent for agent in self.agents if agent.thinks_it_holds(at.key, at.namespace)]
            assert len(apparent_holders) <= 1, (
                f"{[agent.name for agent in apparent_holders]} all think that they hold {at}"
            )
            entry = self.stored.get(at)
            assert all(isinstance(entry, Rubbish) or (entry and entry.owner is agent) for agent in apparent_holders)
            assert not (apparent_holders and isinstance(entry, Entry) and entry.outcome), "nobody acts on what is over"

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        for at in self.highest:
            self.agrees(self.bench.store.read(at), self.stored.get(at))
        assert len(list(self.bench.store.scan())) == len(self.stored)

    def asker(self, who: int) -> Agent:
        return self.agents[who % len(self.agents)]

    def state(self, at: ScopedKey) -> str:
        world, entry = self.bench.world, self.stored.get(at)
        if entry is None:
            return "free"
        if isinstance(entry, Rubbish):
            return "old and unreadable" if self.is_past_any_ttl(entry) else "unreadable"
        if self.has_expired(entry):
            return "expired"
        if entry.outcome is not None:
            return entry.outcome.value
        if entry.boot != world.boot:
            return "held"
        return "orphaned" if entry.owner.session.holder.pid in self.killed else "held"

    def meet(self, at: ScopedKey) -> Entry | Rubbish | None:
        """Store, and return, what stays at *at* when somebody looks at it."""
        entry, state, world = self.stored.get(at), self.state(at), self.bench.world
        if isinstance(entry, Entry) and entry.outcome is not None:
            entry = None if self.has_expired(entry) else entry
        elif isinstance(entry, Entry) and entry.note and state not in BLOCKING:
            ticks, until_wall = (world.ticks if entry.boot == world.boot else 0.0), world.wall + timedelta(seconds=DAY)
            entry = Entry(entry.owner, entry.boot, entry.generation, ticks + DAY, until_wall, Outcome(state), note=True)
        elif state not in BLOCKING:
            entry = None
        self.stored.pop(at, None)
        if entry is not None:
            self.stored[at] = entry
        return entry

    def has_expired(self, entry: Entry) -> bool:
        world = self.bench.world
        return world.wall >= entry.until_wall if entry.boot != world.boot else world.ticks >= entry.until_ticks

    def is_past_any_ttl(self, rubbish: Rubbish) -> bool:
        return self.bench.world.wall > rubbish.since + timedelta(days=1)

    def agrees(self, found: Found, entry: Entry | Rubbish | None) -> None:
        if isinstance(entry, Entry):
            assert isinstance(found, Claim)
            assert (found.holder.name, found.generation) == (entry.owner.name, entry.generation)
            assert (found.ended.outcome if found.ended else None) is entry.outcome
            assert found.expires.wall == entry.until_wall
            # A renewal that extends nothing changes the record by less than a microsecond.
            assert found.expires.ticks == pytest.approx(entry.until_ticks, abs=1e-6, rel=0)
        elif isinstance(entry, Rubbish):
            assert isinstance(found, Unreadable)
        else:
            assert found is None

    def tells_of_loss(self, lost: Claim | None, agent: Agent, at: ScopedKey) -> None:
        """Check that *agent*, who does not hold the key, learns of the loss if it had a grant, and only once."""
        assert (lost.generation if lost else None) == self.granted.pop((agent.name, at), None)


class AnyOrderInMemory(AnyOrder):
    def __init__(self) -> None:
        super().__init__()
        self.bench = MemoryBench()


class AnyOrderInFiles(AnyOrder):
    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self.bench = FileBench(Path(self._directory.name) / "claims")

    def teardown(self) -> None:
        self._directory.cleanup()


class AnyOrderOnEtcd(AnyOrder):
    """Where the machine that a claim was made on is not ours, in this boot, etcd alone ends it."""

    bench: EtcdBench

    def __init__(self) -> None:
        super().__init__()
        self.bench = EtcdBench()

    @precondition(lambda self: self.stored)
    @rule(which=st.integers(0, 3))
    def its_lease_ends(self, which: int) -> None:
        at = sorted(self.stored)[which % len(self.stored)]
        self.bench.end_lease(at.key, at.namespace)
        del self.stored[at]
        for agent in self.agents:
            # Its holder knows by its own clock that it could no longer renew (E2).
            agent.stop(at.key, at.namespace)

    def has_expired(self, entry: Entry) -> bool:
        return entry.boot == self.bench.world.boot and super().has_expired(entry)

    def is_past_any_ttl(self, rubbish: Rubbish) -> bool:
        del rubbish
        return False


EXAMPLES = int(os.environ.get("MCP_CLAIMS_EXAMPLES", "100"))
"""How many orders of events are tried; `.ci/nightly` asks for more than a change has the time for."""

# The same examples in every run, since nobody trusts a test that fails now and then.
_SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestInMemory = AnyOrderInMemory.TestCase
TestInFiles = AnyOrderInFiles.TestCase
TestInMemory.settings = TestInFiles.settings = _SETTINGS
TestOnEtcd = AnyOrderOnEtcd.TestCase
TestOnEtcd.settings = settings(
    _SETTINGS, max_examples=EXAMPLES // 3, stateful_step_count=40, phases=[Phase.generate]
)  # Shrinking would take minutes.
