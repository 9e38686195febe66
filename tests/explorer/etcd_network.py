"""Processes that wait on etcd, and what is between them and the cluster in memory: a network with a virtual clock.

With faults it loses requests and answers, and delivers requests late; processes are killed and stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any
from unittest import mock

from greenlet import GreenletExit

from mcp_claims.model.records import Claim, Holder
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.session import Session
from mcp_claims.stores.etcd import store as etcd_store
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.gateway import NoAnswerError, RefusedError
from mcp_claims.stores.etcd.watch import KeyRange, Subscriber
from tests.support.machines import World
from tests.support.simulated_etcd import SimulatedEtcd
from tests.support.virtual_clock import Hub, HubMachine

_CONFIG = EtcdConfig((("n", 2379),), "/p")
_MOMENT = 1e-3  # s
_LATENCY, _NOTICE = (0.0005, 0.004), (0.0005, 0.003)  # s, of each half of a request, and of a notice
_NO_ANSWER, _LATE = (0.5, 2.0), (0.1, 20.0)  # s until a process knows of a loss, and until a late request arrives
_OUTAGE = (1.0, 12.0)  # s
# Seconds after a lost message, and after an outage, in which nothing is lost: else no bound would hold.
_CALM, _CALM_AFTER_OUTAGE = 5.0, 10.0
# How often a request is answered, lost, executed without an answer, or executed later.
_WEIGHTS, _WEIGHTS_IN_OUTAGE = (60, 1, 2, 1), (1, 6, 2, 2)


@dataclass(eq=False)
class Process:
    """A process with one session; it shares its machine with others."""

    name: str
    machine: HubMachine
    world: World
    store: etcd_store.EtcdStore
    session: Session
    dead: bool = False
    stopped_until: float = 0.0
    outage_until: float = 0.0
    calm_until: float = 0.0
    wait: ClaimRequest | None = None
    wait_ends: float = 0.0
    """What it waits for just now, and when that wait has to be over."""
    idle: float = 0.0
    """For how long it could have been served."""
    granted: list[Claim] = field(default_factory=list)

    def kill(self) -> None:
        """Let it not go on, and ask for nothing on its way out."""
        self.dead, self.wait, self.granted = True, None, []
        self.world.alive.discard((self.world.boot, self.machine.pid()))

    def sleep(self, hub: Hub, seconds: float) -> None:
        """Sleep, and longer while it is stopped."""
        hub.sleep(seconds)
        while hub.now < self.stopped_until:
            hub.sleep(self.stopped_until - hub.now + _MOMENT)
        self.end_if_dead()

    def end_if_dead(self) -> None:
        """End the present body if the process was killed."""
        if self.dead:
            raise GreenletExit


class _Link:
    """What one process sees of the cluster: its gateway, and its watcher."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.process: Process | None = None
        self.subscribers: list[Subscriber] = []

    def call(self, path: str, body: Mapping[str, Any], deadline: float, **_: object) -> dict[str, Any]:
        assert self.process is not None
        return self._network.request(self.process, path, body, deadline)

    @contextmanager
    def watching(self, subscriber: Subscriber) -> Iterator[bool]:
        self.subscribers.append(subscriber)
        try:
            yield True
        finally:
            self.subscribers.remove(subscriber)

    @contextmanager
    def subscribe(self, keys: KeyRange, notify: Callable[[], None]) -> Iterator[bool]:
        with self.watching(Subscriber(keys, notify, self._network.etcd.revision + 1)):
            yield True

    def move(self, subscriber: Subscriber, keys: KeyRange, revision: int) -> bool:
        subscriber.keys, subscriber.revision = keys, revision
        if any(keys.start <= key < keys.end and at >= revision for key, at in self._network.changed_at.items()):
            self._network.notify(subscriber)
        return True

    def note(self, key: bytes, revision: int) -> None:
        for each in self.subscribers:
            if each.keys is not None and each.keys.start <= key < each.keys.end and revision >= (each.revision or 0):
                self._network.notify(each)


class Network:
    """A cluster, and the way of each process to it; with *faults* messages are lost."""

    def __init__(self, hub: Hub, chance: Random, *, faults: bool) -> None:
        self._hub, self._chance, self._faults = hub, chance, faults
        self.etcd = SimulatedEtcd(changed=self._note_change)
        self.changed_at: dict[bytes, int] = {}
        self._links: list[_Link] = []

    def open_store(self, machine: HubMachine) -> etcd_store.EtcdStore:
        """Return a store whose requests nothing delays."""
        return _open_store(_Direct(self.etcd), machine)

    def start_process(self, number: int, world: World) -> Process:
        """Return a process on the machine *world*, with a session."""
        machine, link = HubMachine(world, 100 + number, self._hub), _Link(self)
        store = _open_store(link, machine)
        holder = Holder(f"rig:{machine.pid()}:{number:012x}", machine.pid(), machine.proof())
        link.process = Process(f"p{number}", machine, world, store, Session(store, holder, machine))
        self._links.append(link)
        return link.process

    def pass_second(self) -> None:
        """Let leases end, every second."""
        self.etcd.pass_time(self._hub.now - self.etcd.now)
        self._hub.at(self._hub.now + 1, self.pass_second)

    def request(self, process: Process, path: str, body: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        """Do with the request of *process* what the run wants."""
        process.end_if_dead()
        if self._hub.now >= deadline:
            raise NoAnswerError({}, outcome_unknown=False)
        process.sleep(self._hub, self._chance.uniform(*_LATENCY))
        fate = self._fate(process) if self._faults and path != "/lease/keepalive" else ""
        response: dict[str, Any] = {}
        if fate in ("", "unanswered"):
            try:
                response = self.etcd.call(path, body)
            except RefusedError:
                if not fate:
                    raise
        elif fate == "late":
            self._hub.at(self._hub.now + self._chance.uniform(*_LATE), partial(self._deliver, path, body))
        process.sleep(self._hub, self._chance.uniform(*_NO_ANSWER) if fate else self._chance.uniform(*_LATENCY))
        if fate:
            raise NoAnswerError({"n:2379": fate}, outcome_unknown=True)
        return response

    def _fate(self, process: Process) -> str:
        now = self._hub.now
        if now < process.outage_until:
            return self._chance.choices(("", "lost", "unanswered", "late"), _WEIGHTS_IN_OUTAGE)[0]
        if now < process.calm_until:
            return ""
        if self._chance.random() < 0.004:
            process.outage_until = now + self._chance.uniform(*_OUTAGE)
            process.calm_until = process.outage_until + _CALM_AFTER_OUTAGE
        if fate := self._chance.choices(("", "lost", "unanswered", "late"), _WEIGHTS)[0]:
            process.calm_until = max(process.calm_until, now + _CALM)
        return fate

    def _deliver(self, path: str, body: Mapping[str, Any]) -> None:
        with suppress(RefusedError):
            self.etcd.call(path, body)

    def _note_change(self, key: bytes) -> None:
        self.changed_at[key] = self.etcd.revision
        for link in self._links:
            link.note(key, self.etcd.revision)

    def notify(self, subscriber: Subscriber) -> None:
        """Notify *subscriber* soon."""
        self._hub.at(self._hub.now + self._chance.uniform(*_NOTICE), subscriber.notify)


class _Direct:
    """A gateway with nothing between it and the cluster."""

    def __init__(self, etcd: SimulatedEtcd) -> None:
        self._etcd = etcd

    def call(self, path: str, body: Mapping[str, Any], _: float) -> dict[str, Any]:
        return self._etcd.call(path, body)


def _open_store(link: object, machine: HubMachine) -> etcd_store.EtcdStore:
    store = etcd_store.EtcdStore(_CONFIG, machine)
    with (
        mock.patch.object(etcd_store, "Gateway", return_value=link),
        mock.patch.object(etcd_store, "Watcher", return_value=link),
    ):
        store._connection()
    return store
