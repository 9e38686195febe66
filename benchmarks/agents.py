"""Ten thousand agents on one cluster of etcd for an hour, simulated: the real sessions and the real store, on a virtual clock.

Below the store stands etcd in memory.  Each request takes the time that etcd's CPU takes for one of its kind, as measured with
the real one, after those that came before it; a watch brings its event when that change was made.  So it shows what so many
agents ask of a cluster, and which part of that ends first, not what a network and a disk do.
"""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import floor
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest import mock

from benchmarks.measure import Effort, Figure, p99
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session import acquire as acquiring
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import keepalive
from mcp_claims.stores.etcd import store as etcd_store
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.gateway import NoAnswerError
from mcp_claims.stores.etcd.lease import TTL
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.etcd.watch import KeyRange, Subscriber
from tests.support.machines import World
from tests.support.simulated_etcd import SimulatedEtcd
from tests.support.virtual_clock import Hub, HubMachine, HubWakeup

_AGENTS, _HOSTS = 10_000, 500
_SECONDS, _SECONDS_OF_MANY_PROCESSES = 3_600.0, 600.0
_STARTED = (
    60.0  # s, which do not count: the processes start within ten, faster than a fleet would, and requests queue up
)
_CONFIG = EtcdConfig((("n", 2379),), "/p")

# Seconds of etcd's CPU for a request through its gateway: 3.4.23, one node, two processors with a load of 10.
_COSTS = {"/kv/txn": 1.6e-3, "/kv/put": 1.0e-3, "/kv/range": 0.63e-3, "/lease/keepalive": 0.61e-3}
_LEASE_COST = 0.86e-3  # a grant, or a revocation
_ROUND_TRIP = 0.5e-3  # s

# What agents do.  An event reaches four of them at a time, one of which works on it; each is reached every six minutes.
_EVENT_AGENTS, _EVENT_INTERVAL, _WORK = 4, 360.0, 120.0  # s
# In between each needs one of 100 shared resources every 20 minutes, and waits for it.
_RESOURCES, _RESOURCE_INTERVAL, _USE, _WAIT = 100, 1_200.0, 8.0, 300.0  # s


def measure(effort: Effort) -> Iterator[Figure]:
    """Let the agents of a host share a server, and then have a process each, as over stdio."""
    for of_its_own in (False, True):
        fleet = Fleet(effort.of(_AGENTS, least=20), effort.of(_HOSTS, least=2), of_its_own=of_its_own)
        # That of a thousand renewals a second takes as long for ten minutes as the other one for an hour, and is as steady.
        fleet.run(_SECONDS_OF_MANY_PROCESSES if of_its_own else _SECONDS)
        yield from fleet.figures()


class _Cluster:
    """etcd on the clock of the hub: a queue before its CPU, and watches."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.etcd = SimulatedEtcd(changed=self._note)
        self.is_away = False
        self.begin_count()
        self._free_at = 0.0
        self._watching: dict[bytes, list[Subscriber]] = {}
        self._changed_at: dict[bytes, int] = {}

    def begin_count(self) -> None:
        """Count what is asked from now on."""
        self.asked: Counter[str] = Counter()
        self.busy: dict[str, float] = {}
        self.took: list[float] = []
        self.proposals = self.events = 0

    def call(self, path: str, body: Mapping[str, Any], _: float, **__: object) -> dict[str, Any]:
        """Answer after the time that this takes, behind what came before."""
        if self.is_away:
            raise NoAnswerError({}, outcome_unknown=False)
        began, cost = self._hub.now, _COSTS.get(path, _LEASE_COST)
        self.asked[path] += 1
        self.busy[path] = self.busy.get(path, 0.0) + cost
        self.proposals += path not in ("/kv/range", "/lease/keepalive") and not _only_reads(body)
        self._free_at = max(self._free_at, began) + cost
        # In the order in which they come; what it says, and its events, come when the CPU is done with it.
        answer = self.etcd.call(path, body)
        self._hub.sleep(self._free_at - began + _ROUND_TRIP)
        self.took.append(self._hub.now - began)
        return answer

    def pass_second(self) -> None:
        """Let leases end, every second."""
        self.etcd.pass_time(self._hub.now - self.etcd.now)
        self._hub.at(self._hub.now + 1, self.pass_second)

    @contextmanager
    def watching(self, subscriber: Subscriber) -> Iterator[None]:
        """Notify *subscriber* in this block, as `Watcher` does."""
        try:
            yield
        finally:
            self._forget(subscriber)

    def move(self, subscriber: Subscriber, keys: KeyRange, revision: int) -> bool:
        """Let *subscriber* watch *keys* from *revision* on."""
        self._forget(subscriber)
        subscriber.keys, subscriber.revision = keys, revision
        self._watching.setdefault(keys.start, []).append(subscriber)
        if self._changed_at.get(keys.start, 0) >= revision:
            self._notify(subscriber)
        return True

    def _forget(self, subscriber: Subscriber) -> None:
        if subscriber.keys is not None and subscriber in (watching := self._watching.get(subscriber.keys.start, [])):
            watching.remove(subscriber)

    def _note(self, key: bytes) -> None:
        self._changed_at[key] = self.etcd.revision
        for subscriber in self._watching.get(key, ()):
            self._notify(subscriber)

    def _notify(self, subscriber: Subscriber) -> None:
        self.events += 1
        self._hub.at(max(self._free_at, self._hub.now) + _ROUND_TRIP / 2, subscriber.notify)


def _only_reads(body: Mapping[str, Any]) -> bool:
    operations = [*body.get("success", ()), *body.get("failure", ())]
    return "compare" not in body and all("request_range" in each for each in operations)


class Fleet:
    """*agents* sessions on *hosts*, each in a process *of_its_own*, or all of a host in one."""

    def __init__(self, agents: int, hosts: int, *, of_its_own: bool) -> None:
        self._agents, self._hosts, self._of_its_own = agents, hosts, of_its_own
        self.hub = Hub()
        self.cluster = _Cluster(self.hub)
        self._chance = random.Random(1)
        self.calls: Counter[str] = Counter()
        self.handed_over: list[float] = []
        self._released_at: dict[str, float] = {}
        self._held: dict[str, str] = {}
        self._seconds = 0.0

    def run(self, seconds: float) -> None:
        """Let them begin, and then work for so long."""
        self._seconds = seconds
        clock = SimpleNamespace(monotonic=lambda: self.hub.now, sleep=self.hub.sleep)
        with (
            mock.patch.object(etcd_store, "Gateway", return_value=self.cluster),
            mock.patch.object(etcd_store, "Watcher", return_value=self.cluster),
            mock.patch.object(keepalive, "start_daemon_thread"),
            mock.patch.object(acquiring, "time", clock),
        ):
            each = self._agents // self._hosts
            for host in range(self._hosts):
                world = World()
                world.boot = f"boot-{host}"
                for number in range(each if self._of_its_own else 1):
                    machine = HubMachine(world, 100 + number, self.hub)
                    store = EtcdStore(_CONFIG, machine)
                    first = host * each + number
                    agents = range(first, first + (1 if self._of_its_own else each))
                    self.hub.start(partial(self._live, store, machine, agents), self._chance.uniform(0, TTL / 3))
            self.hub.at(1, self.cluster.pass_second)
            gc.disable()  # It would look at all of the ten thousand stores again and again.
            try:
                self.hub.run(_STARTED)
                self.cluster.begin_count()
                self.calls.clear()
                self.hub.run(_STARTED + seconds)
            finally:
                self.cluster.is_away = True
                self.hub.end()
                gc.enable()

    def _live(self, store: EtcdStore, machine: HubMachine, agents: Sequence[int]) -> None:
        """Be a process with *agents*: get a lease, before any of them could wait for another one's, and renew it."""
        connection = store._connection()
        lease = connection.lease.get_or_grant(deadline_in(60))
        for agent in agents:
            begins = self.hub.now + self._chance.uniform(0, _EVENT_INTERVAL / 2)
            self.hub.start(partial(self._work, process_session(store, machine), agent), begins)
        while True:
            self.hub.sleep(TTL / 3)
            assert connection.lease.renew(lease, deadline_in(60)), "a living process has lost its lease"
            connection.keepalive._do_one_of_each()

    def _work(self, session: Session, agent: int) -> None:
        """Come to each event of the agent's group with the others, and use a shared resource now and then."""
        groups, resources = max(1, self._agents // _EVENT_AGENTS), max(1, _RESOURCES * self._agents // _AGENTS)
        group = agent % groups
        needs_at = self.hub.now + self._chance.uniform(0, _RESOURCE_INTERVAL)
        while True:
            event = floor(self.hub.now / _EVENT_INTERVAL - group / groups) + 1
            # All of a group see it within a second.
            seen_at = (event + group / groups) * _EVENT_INTERVAL + self._chance.uniform(0, 1)
            if needs_at < seen_at:
                self.hub.sleep(max(0.0, needs_at - self.hub.now))
                self._use(session, f"resource {self._chance.randrange(resources)}")
                needs_at = self.hub.now + self._chance.expovariate(1 / _RESOURCE_INTERVAL)
            self.hub.sleep(max(0.0, seen_at - self.hub.now))
            key = f"event {event} of {group}"
            if session.try_claim(key, ttl_minutes=10).claimed:
                self._note_grant(session, key)
                self.hub.sleep(self._chance.expovariate(1 / _WORK))
                self._note_release(key)
                session.release(key, outcome="done", retention_hours=0.25)

    def _use(self, session: Session, key: str) -> None:
        request = ClaimRequest.parse(key, "default", ttl_minutes=10, wait_seconds=_WAIT)
        began = self.hub.now
        result = acquire(session, request, wakeup=HubWakeup(self.hub))
        if not result.claimed:
            self.calls["gave up"] += 1
            return
        self._note_grant(session, key)
        if self._released_at.get(key, -1.0) > began:
            self.handed_over.append(self.hub.now - self._released_at[key])
        self.hub.sleep(self._chance.expovariate(1 / _USE))
        self._note_release(key)
        session.release(key)

    def _note_grant(self, session: Session, key: str) -> None:
        self.calls["granted"] += 1
        assert self._held.setdefault(key, session.holder.name) == session.holder.name, f"two have {key}"

    def _note_release(self, key: str) -> None:
        self._held.pop(key)
        self._released_at[key] = self.hub.now

    def figures(self) -> Iterator[Figure]:
        """Return what they asked of the cluster."""
        cluster, seconds = self.cluster, self._seconds
        who = f"{self._agents:,} agents on {self._hosts:,} machines"
        who += ", a process each" if self._of_its_own else ", a server each machine"

        def figure(what: str, unit: str, value: float) -> Figure:
            return Figure("agents", f"{who}: {what}", unit, value)

        yield figure("renewals of leases", "/s", cluster.asked["/lease/keepalive"] / seconds)
        yield figure("proposals", "/s", cluster.proposals / seconds)
        yield figure("reads", "/s", cluster.asked["/kv/range"] / seconds)
        yield figure("watch events", "/s", cluster.events / seconds)
        yield figure("grants", "/s", self.calls["granted"] / seconds)
        yield figure("waits that ended without a grant", "", self.calls["gave up"])
        if self.handed_over:
            yield figure("hand-over", "ms", median(self.handed_over) * 1e3)
            yield figure("hand-over, p99", "ms", p99(self.handed_over) * 1e3)
            yield figure("longest hand-over", "ms", max(self.handed_over) * 1e3)
        yield figure("request, p99", "ms", p99(cluster.took) * 1e3)
        busy = sum(cluster.busy.values()) / seconds
        yield figure("CPU of etcd", "%", busy * 100)
        path, most = max(cluster.busy.items(), key=lambda each: each[1])
        yield figure(f"of that for {path}", "%", most / seconds * 100)
        yield figure("such agents that would take all of one processor", "", self._agents / busy)
