"""The world of the explorer for waits on etcd: sessions that claim, wait and release for minutes of a virtual clock.

Sessions, store and `acquire` are the real ones, above a cluster in memory.  Sessions forget a turn, or decline it.  With
faults the network loses requests and answers and delivers requests late, and processes are killed and stopped.  A run is a
mode and a seed, so a violation can be played again.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from random import Random
from types import SimpleNamespace
from unittest import mock

from mcp_claims.errors import ClaimsError
from mcp_claims.model import expiry, tickets
from mcp_claims.model.keys import conflict
from mcp_claims.model.records import Claim, Ticket, Unreadable
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session import acquire as acquiring
from mcp_claims.session import session as sessions
from mcp_claims.session.acquire import acquire
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.stores import base
from mcp_claims.stores.etcd import keepalive
from mcp_claims.stores.etcd.gateway import GatewayError
from mcp_claims.stores.etcd.lease import TTL
from tests.explorer.etcd_modes import HOLD_AND_WAIT, MODES
from tests.explorer.etcd_network import Network, Process
from tests.explorer.process import ViolationError
from tests.support.machines import World
from tests.support.virtual_clock import Hub, HubMachine, HubWakeup

IDLE, IDLE_OF_A_CHOICE, IDLE_WITH_FAULTS = 1.0, 11.0, 15.0
"""Seconds after which a waiter that could be served has to be served.

A notice comes within 3 ms, and an attempt takes a few requests of up to 8 ms.  Whoever waits for any of a list or for a slot
does not watch all that can make it the next, and tries every 10 s (E14).  Where messages are lost, so does everybody who is
the next, and the attempt can fail, which costs 4 s: up to 2 s without an answer, and a pause of 2 s.  Nothing is lost in the
5 s after that.  While a process is stopped or reaches nobody, its waits do not count.
"""
LATE, LATE_WITH_FAULTS = 1.0, 13.0
"""Seconds after its time limit in which a wait has to end.

Where messages are lost, the last attempt takes 4.5 s at most, and to take a place and to give it up 4 s each.
"""

_SECONDS = 100.0  # for which sessions begin to wait
_ENOUGH = 300.0  # s in which all waits, stops, reservations and leases of the dead end
_SESSIONS, _MACHINES = 8, 4
# On average, in s: a wait of 50 s ends without the key where others hold it for long.
_AWAY, _HELD = 3, (3, 3, 3, 30)
_STEP = 0.5  # s between two looks at who could be served
_SETTLED = 3.0  # s after which a process that was stopped is expected to have noticed what it has missed


class WaitRun:
    """One run of *mode*, that of *seed*."""

    def __init__(self, mode: str, seed: int, *, faults: bool) -> None:
        self._what = f"mode {mode!r}, seed {seed}, {'with' if faults else 'without'} faults"
        self._ask, self._holds_and_waits, self._faults = MODES[mode], mode in HOLD_AND_WAIT, faults
        self._chance = Random(seed)
        self._hub = Hub()
        self._network = Network(self._hub, self._chance, faults=faults)
        self._worlds = [World() for _ in range(_MACHINES + 1)]
        for number, world in enumerate(self._worlds):
            world.boot = f"boot-{number}"
        self._processes: list[Process] = []
        # It sees the cluster as it is, from a machine of its own, so that it takes nobody for dead.
        self._observer = HubMachine(self._worlds[-1], 1, self._hub)
        self._view = self._network.open_store(self._observer)
        self._revision = 0
        self._stored: list[Claim | Unreadable] = []
        self._tickets: tuple[Ticket, ...] = ()
        self._trace: list[str] = []
        self.worst_idle = self.worst_late = 0.0
        """How long a waiter that could be served was not, and how late a wait ended."""

    def play(self) -> None:
        """Play the run; raise `ViolationError`."""
        clock = SimpleNamespace(monotonic=lambda: self._hub.now, sleep=self._hub.sleep)
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(keepalive, "start_daemon_thread"))
            for module in (acquiring, base, sessions):
                stack.enter_context(mock.patch.object(module, "time", clock))
            stack.callback(self._end)
            for _ in range(_SESSIONS):
                self._start()
            self._hub.at(1, self._network.pass_second)
            self._hub.at(_STEP, self._look)
            if self._faults:
                self._hub.at(15, self._disturb)
            try:
                self._hub.run(_SECONDS + _ENOUGH)
                self._check_end()
            except ViolationError:
                raise
            except Exception as error:
                raise ViolationError("\n".join([f"{error!r} ({self._what})", *self._trace])) from error

    def _end(self) -> None:
        for process in self._processes:
            process.dead = True
        self._hub.end()

    def _start(self) -> None:
        process = self._network.start_process(len(self._processes), self._worlds[len(self._processes) % _MACHINES])
        self._processes.append(process)
        self._hub.start(partial(self._keep_alive, process), self._hub.now + self._chance.uniform(0, 1))
        self._hub.start(partial(self._live, process), self._hub.now + self._chance.uniform(0, 5))

    # What processes do.

    def _keep_alive(self, process: Process) -> None:
        """Do what the thread of the store does: renew the lease, remove what has expired, undo unknown grants."""
        connection, renewed = process.store._connection(), self._hub.now
        while True:
            process.sleep(self._hub, 0.5)
            with suppress(GatewayError, ClaimsError):
                lease = connection.lease.current
                if lease is not None and self._hub.now - renewed >= TTL / 3:
                    connection.lease.renew(lease, base.deadline_in(5))
                    renewed = self._hub.now
                connection.keepalive._do_one_of_each()

    def _live(self, process: Process) -> None:
        while self._hub.now < _SECONDS:
            process.sleep(self._hub, self._chance.expovariate(1 / _AWAY))
            try:
                self._use_keys(process)
            except ClaimsError as error:
                self._note(process, type(error).__name__)
            while not self._release(process):
                process.sleep(self._hub, 1)

    def _use_keys(self, process: Process) -> None:
        """Wait for keys, take a turn or not, and hold what was granted for a while."""
        chance = self._chance
        request = process.session.resolved(self._ask(chance)._replace(wait_seconds=chance.choice((50.0, 50.0, 120.0))))
        result = self._wait(process, request, reserve=chance.random() < 0.5)
        if result.status is Status.YOUR_TURN:
            roll = chance.random()
            if roll < 0.1:
                self._note(process, "forgets its turn")
                process.sleep(self._hub, 70)
            elif roll < 0.2:
                self._note(process, "declines its turn")
                process.session.release(request.scoped.key, request.scoped.namespace)
            if roll < 0.2:
                return
            process.sleep(self._hub, chance.uniform(0, 6))
            result = process.session.try_request(request)
            self._note(process, f"takes its turn: {_shown(result)}")
            if not result.claimed and not self._faults:
                self._fail(f"{process.name} has lost its turn")
        if not result.claimed:
            return
        self._note_grants(process)
        if self._faults and chance.random() < 0.05:
            self._kill(process)
        if self._faults and chance.random() < 0.05:
            self._stop(process)
        process.sleep(self._hub, chance.expovariate(1 / chance.choice(_HELD)))
        if self._holds_and_waits and chance.random() < 0.3 and not request.also:
            further = process.session.resolved(self._ask(chance)._replace(wait_seconds=50.0))
            if self._wait(process, further, reserve=False).claimed:
                self._note_grants(process)
                process.sleep(self._hub, chance.uniform(0, 3))

    def _wait(self, process: Process, request: ClaimRequest, *, reserve: bool) -> ClaimResult:
        """Wait, and wait again in the place that was kept, as an agent does."""
        while True:
            keys = (" or " if request.or_else else " and ").join(each.key for each in request.keys)
            self._note(process, f"waits for {keys} ({request.use.mode.value})")
            process.wait, process.wait_ends, process.idle = request, self._hub.now + request.wait_seconds, 0.0
            try:
                result = acquire(process.session, request, wakeup=HubWakeup(self._hub), reserve=reserve)
            finally:
                process.wait = None
            self._note(process, _shown(result))
            if result.status is not Status.HELD or not result.keeps_place or self._chance.random() < 0.3:
                return result
            process.sleep(self._hub, self._chance.uniform(0.1, 8))

    def _note_grants(self, process: Process) -> None:
        process.granted = [
            claim for key in process.session._held.granted() if (claim := process.session._held.get(key))
        ]
        self._check_holders()

    def _release(self, process: Process) -> bool:
        """Release all that *process* holds; return false if the cluster did not answer."""
        process.granted = []
        held = process.session._held.granted()
        if held:
            self._note(process, "releases")
        try:
            for scoped in dict.fromkeys(key.base for key in held):
                process.session.release(scoped.key, scoped.namespace)
        except ClaimsError:
            return False
        return True

    # Deaths and pauses.

    def _disturb(self) -> None:
        if self._hub.now < _SECONDS:
            self._hub.at(self._hub.now + self._chance.expovariate(1 / 25), self._disturb)
            running = [each for each in self._processes if not each.dead and each.stopped_until < self._hub.now]
            if not running:
                return
            process = self._chance.choice(running)
            if len(running) > 3 and self._chance.random() < 0.4:
                self._kill(process)
                self._start()
            else:
                self._stop(process)

    def _kill(self, process: Process) -> None:
        self._note(process, "dies")
        process.kill()

    def _stop(self, process: Process) -> None:
        seconds = self._chance.choice((3, 20, 45, 70))
        self._note(process, f"is stopped for {seconds} s")
        process.stopped_until = self._hub.now + seconds

    # What must not be.

    def _look(self) -> None:
        """Look for a wait that does not end, and for a key that lies idle beside a waiter who could be served."""
        self._hub.at(self._hub.now + _STEP, self._look)
        if not any(each.wait for each in self._processes):
            return
        self._read()
        claims = self._claims()
        for process in self._processes:
            if process.wait is None:
                continue
            if self._hub.now < max(process.stopped_until, process.outage_until) + _SETTLED:
                process.idle = 0.0
                continue
            late = self._hub.now - max(process.wait_ends, process.stopped_until, process.outage_until)
            self.worst_late = max(self.worst_late, late)
            if late > (LATE_WITH_FAULTS if self._faults else LATE):
                self._fail(f"{process.name} waits {late:.1f} s longer than it was to wait")
            process.idle = process.idle + _STEP if self._could_be_served(process, claims) else 0.0
            self.worst_idle = max(self.worst_idle, process.idle)
            if process.idle > self._bound(process.wait):
                self._fail(f"{process.name} could have been served for {process.idle:g} s")

    def _bound(self, request: ClaimRequest) -> float:
        if self._faults:
            return IDLE_WITH_FAULTS
        return IDLE_OF_A_CHOICE if request.or_else or request.use.slots else IDLE

    def _check_end(self) -> None:
        """See that nobody waits any more, and that no claim is left of which nobody knows."""
        for process in self._processes:
            if process.wait is not None:
                self._fail(f"{process.name} waits for ever")
        self._read()
        for claim in self._claims():
            self._fail(f"{claim.holder.name} has released all, but a claim on {claim.scoped.key!r} is stored")

    def _read(self) -> None:
        """Read the cluster, if it has changed."""
        if self._revision != self._network.etcd.revision:
            self._revision = self._network.etcd.revision
            self._stored, self._tickets = list(self._view.scan()), self._view.tickets(None)

    def _claims(self) -> list[Claim]:
        """Return the claims and reservations that are in force."""
        now = self._observer.now()
        return [
            found
            for found in self._stored
            if isinstance(found, Claim)
            and not found.members
            and expiry.state_of(found, now, self._observer.provably_dead).in_force
        ]

    def _could_be_served(self, process: Process, claims: list[Claim]) -> bool:
        """Return whether nobody holds what *process* waits for, and nobody goes before it."""
        assert process.wait is not None
        request, holder = process.wait, process.session.holder
        first, *others = request.keys
        ahead = tickets.ahead_of(self._tickets, first, holder, self._observer.now(), others, request.use)
        rivals = [each for each in claims if each.holder.name != holder.name and not each.use.goes_with(request.use)]
        if request.use.slots:
            served = {each.holder.name for each in rivals if each.scoped.base == first}
            whole = any(each.scoped == first and each.slots is None for each in rivals)
            return not whole and len(served | {each.holder.name for each in ahead}) < request.use.slots
        free = [
            not any(conflict(key, each.scoped) for each in rivals) and not tickets.wanting(ahead, key)
            for key in request.keys
        ]
        return any(free) if request.or_else else all(free)

    def _check_holders(self) -> None:
        held = [(each, claim) for each in self._processes for claim in each.granted if each.store.is_trusted(claim)]
        for index, (one, claim) in enumerate(held):
            for other, another in held[:index]:
                if one is other or not conflict(claim.scoped, another.scoped) or claim.use.goes_with(another.use):
                    continue
                # Two slots of one key are two places.
                if claim.scoped == another.scoped or claim.use != another.use or not claim.slots:
                    self._fail(f"{one.name} and {other.name} hold {claim.scoped.key!r}")

    def _note(self, process: Process, what: str) -> None:
        self._trace.append(f"{self._hub.now:8.3f} {process.name} {what}")

    def _fail(self, problem: str) -> None:
        raise ViolationError("\n".join([f"{problem} ({self._what})", *self._trace, f"{self._hub.now:8.3f} {problem}"]))


def _shown(result: ClaimResult) -> str:
    found = result.found
    generation = f", generation {found.generation}" if isinstance(found, Claim) else ""
    return f"{result.status.value}{' for a cycle' if result.cycle else ''} {found.scoped.key if isinstance(found, Claim) else ''}{generation}"


def explore(mode: str, runs: int, first: int = 0) -> None:
    """Play *runs* of *mode* without and with faults, from the seed *first* on; raise `ViolationError`."""
    for seed in range(first, first + runs):
        for faults in (False, True):
            WaitRun(mode, seed, faults=faults).play()
