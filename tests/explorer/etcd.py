"""The world of the explorer for etcd: a cluster in memory, processes on machines of their own, and a network that loses.

The store is the real one.  Below it stands a gateway that lets another process go on at each request, and to which the
schedule may do what a network does: lose the request, lose the answer, or deliver the request at any later time.  Processes
die, and time passes, in which leases end.  A schedule is a seed, so a violation can be played again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest import mock

from greenlet import greenlet

from mcp_claims.errors import ClaimsError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import keepalive
from mcp_claims.stores.etcd import store as etcd_store
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.gateway import GatewayError, NoAnswerError, RefusedError
from mcp_claims.stores.etcd.lease import TTL
from tests.explorer.process import ViolationError
from tests.support.machines import World
from tests.support.simulated_etcd import SimulatedEtcd

KEY = ScopedKey("default", "red")
TTL_MINUTES = 5.0
_CONFIG = EtcdConfig((("n", 2379),), "/p")
_STEPS, _PROCESSES = 80, 3
# How often a request is answered, lost, executed without an answer, or executed later.
_CALM, _OUTAGE = (30, 1, 2, 1), (1, 6, 2, 2)


class _Gateway:
    """The gateway of one process: its requests are what the schedule decides about."""

    def __init__(self, run: EtcdRun) -> None:
        self._run = run

    def call(self, path: str, body: Mapping[str, Any], _: float, **__: object) -> dict[str, Any]:
        return self._run.request(path, body)


@dataclass(eq=False)
class _Process:
    """A process on a machine of its own: it claims, holds and releases one key again and again, and renews its lease."""

    name: str
    world: World
    session: Session
    store: etcd_store.EtcdStore
    held: Claim | None = None
    dead: bool = False
    stopping: bool = False
    body: greenlet | None = None

    def believes(self) -> bool:
        """Return whether its session acts on the claim: it was granted, and the store's clock does not say that it is lost."""
        return not self.dead and self.held is not None and self.store.is_trusted(self.held)

    def script(self, chance: random.Random, granted: Callable[[Claim], None]) -> None:
        while not self.stopping:
            with suppress(ClaimsError):
                if self.held is None:
                    result = self.session.try_claim(KEY.key, ttl_minutes=TTL_MINUTES)
                    if result.claimed and isinstance(result.found, Claim):
                        self.held = result.found
                        granted(result.found)
                elif chance.random() < 0.5:
                    self.held = None
                    self.session.release(KEY.key)
                else:
                    result = self.session.try_claim(KEY.key, ttl_minutes=TTL_MINUTES)
                    self.held = result.found if result.claimed and isinstance(result.found, Claim) else None
                    if self.held is not None:
                        granted(self.held)
            self.maintain()
            let_others_go_on()

    def maintain(self) -> None:
        """Do what the thread of the store does: renew the lease, remove what has expired, undo unknown grants."""
        connection = self.store._connection()
        with suppress(GatewayError, ClaimsError):
            if (lease := connection.lease.current) is not None:
                connection.lease.renew(lease, deadline_in(60))
            connection.keepalive._do_one_of_each()


class EtcdRun:
    """One schedule, that of *seed*."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._seed = seed
        self._etcd = SimulatedEtcd()
        self._late: list[tuple[str, Mapping[str, Any]]] = []
        self._trace: list[str] = []
        self._generations: dict[int, str] = {}
        self._lossy, self._outage = True, 0
        self._current: _Process | None = None
        self._processes = [self._start(number) for number in range(_PROCESSES)]

    def _start(self, number: int) -> _Process:
        world = World()
        world.boot = f"boot-of-{number}"
        machine = world.process()
        store = etcd_store.EtcdStore(_CONFIG, machine)
        session = (
            named_session(store, f"n{number}", machine=machine) if number == 1 else process_session(store, machine)
        )
        return _Process(f"p{number}", world, session, store)

    def request(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Let others go on, then do with the request what the schedule wants."""
        name = "-" if self._current is None else self._current.name
        let_others_go_on()
        fate = ""
        if self._lossy:
            # An outage loses all that comes, or all answers; between outages single messages are lost.
            if self._outage:
                self._outage -= 1
                weights = _OUTAGE
            else:
                weights = _CALM
                self._outage = 0 if self._chance.random() > 0.03 else self._chance.randrange(1, 12)
            fate = self._chance.choices(("", "lost", "unanswered", "late"), weights)[0]
        self._trace.append(f"{name} {path} {fate}".rstrip())
        if fate in ("", "unanswered"):
            try:
                response = self._etcd.call(path, body)
            except RefusedError:
                if not fate:
                    raise
                response = {}
            if not fate:
                return response
        elif fate == "late":
            self._late.append((path, body))
        raise NoAnswerError({"n:2379": fate}, outcome_unknown=True)

    def play(self) -> None:
        """Play the schedule; raise `ViolationError`."""
        for process in self._processes:
            process.body = greenlet(lambda process=process: process.script(self._chance, self._note_grant(process)))
        try:
            for _ in range(_STEPS):
                self._step()
                self._check()
            self._finish()
        finally:
            for process in self._processes:
                self._kill(process)

    def _step(self) -> None:
        living = [process for process in self._processes if not process.dead]
        roll = self._chance.random()
        if roll < 0.06:
            self._pass_time(self._chance.choice((1.0, 5.0, 9.0, 20.0)))
        elif roll < 0.09 and self._late:
            self._deliver(self._late.pop(self._chance.randrange(len(self._late))))
        elif roll < 0.10 and len(living) > 1:
            victim = self._chance.choice(living)
            self._trace.append(f"{victim.name} dies")
            self._kill(victim)
        elif living:
            self._current = self._chance.choice(living)
            assert self._current.body is not None
            self._current.body.switch()
            self._current = None

    def _pass_time(self, seconds: float) -> None:
        self._trace.append(f"{seconds:g} s pass")
        self._etcd.pass_time(seconds)
        for process in self._processes:
            process.world.pass_time(seconds)

    def _deliver(self, request: tuple[str, Mapping[str, Any]]) -> None:
        self._trace.append(f"late {request[0]} arrives")
        with suppress(RefusedError):
            self._etcd.call(*request)

    def _kill(self, process: _Process) -> None:
        process.dead = True
        if process.body is not None:
            # Its code must not go on: what it would do on the way out, a process that was killed does not.
            self._lossy, before = True, self._lossy
            with mock.patch.object(self, "request", side_effect=NoAnswerError({}, outcome_unknown=False)):
                process.body.throw()
            self._lossy = before

    def _note_grant(self, process: _Process) -> Callable[[Claim], None]:
        def note(claim: Claim) -> None:
            self._trace.append(f"{process.name} holds it, generation {claim.generation}")
            if self._generations.setdefault(claim.generation, process.name) != process.name:
                self._fail(f"generation {claim.generation} was given twice")

        return note

    def _check(self) -> None:
        if len(believers := [process.name for process in self._processes if process.believes()]) > 1:
            self._fail(f"{' and '.join(believers)} hold the key")

    def _finish(self) -> None:
        """Mend the network: what nobody knows of is undone, and then the key can be claimed."""
        self._lossy = False
        for process in self._processes:
            if not process.dead:
                self._end_script(process)
                for _ in range(10):
                    process.maintain()
        for request in self._late:
            self._deliver(request)
        self._check()
        stored = self._etcd.keys.get(b"/p/claims/default/red")
        known = any(process.dead or process.session._held.granted() for process in self._processes)
        if stored is not None and not known:
            self._fail("a grant is stored of which nobody knows")
        # A named session holds it for as long as its claim lasts; the dead for as long as their leases do.
        for _ in range(3):
            self._pass_time(TTL_MINUTES * 60 + TTL)
        world = World()
        world.boot = "boot-of-the-last"
        world.ticks, world.wall = self._processes[0].world.ticks, self._processes[0].world.wall
        last = process_session(etcd_store.EtcdStore(_CONFIG, machine := world.process()), machine)
        if not (result := last.try_claim(KEY.key)).claimed:
            self._fail(f"the key cannot be claimed any more: {result}")

    def _end_script(self, process: _Process) -> None:
        """Let the process finish what it is doing; its session and its thread go on."""
        process.stopping = True
        while process.body is not None and not process.body.dead:
            process.body.switch()

    def _fail(self, problem: str) -> None:
        raise ViolationError("\n".join([f"{problem} (seed {self._seed})", *self._trace]))


def let_others_go_on() -> None:
    """Return to the schedule, until it lets this process go on."""
    if (parent := greenlet.getcurrent().parent) is not None:
        parent.switch()


@contextmanager
def simulated(run: list[EtcdRun]) -> Iterator[None]:
    """In this block, stores reach the simulated cluster of the last of *run*, and start no threads."""
    with (
        mock.patch.object(etcd_store, "Gateway", side_effect=lambda _: _Gateway(run[-1])),
        mock.patch.object(keepalive, "start_daemon_thread"),
    ):
        yield


def explore(schedules: int, first: int = 0) -> None:
    """Play *schedules*, from the seed *first* on; raise `ViolationError`."""
    current: list[EtcdRun] = []
    with simulated(current):
        for seed in range(first, first + schedules):
            current[:] = [EtcdRun(seed)]
            current[0].play()
