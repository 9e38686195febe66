"""Running a scenario under every schedule up to a bound, and under random ones beyond it.

A schedule is the list of decisions at each step: which process makes its next system call, which one dies there,
whether its time runs out, the clocks are stepped or a dead process's PID comes back.  The search is stateless: it runs
a prefix of decisions, lets the current process go on from there, and later comes back to each decision that it could
have made otherwise.  Leaving a process that could go on, a death, and any change of the world cost one of the bound.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from greenlet import greenlet

from mcp_claims.errors import ClaimsError, StoreBusyError
from mcp_claims.model.records import Claim, Found, Holder, Outcome, ScopedKey
from mcp_claims.session.results import ClaimResult, Inspection, ReleaseResult
from mcp_claims.session.session import Session
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.explorer.simulated import Disk, Killed, SimulatedFileSystem
from tests.support.machines import FakeMachine, World

KEY = ScopedKey("default", "red")
TTL = 1.0  # minutes
RETENTION = 24 * 3_600.0  # s

Action = tuple[str, int]
"""What happens next: `run`, `kill` or `time out` a process, or `expire`, `step` the wall clock, `recycle` a PID."""


class ViolationError(AssertionError):
    """A property does not hold; the trace says how it came to that."""


Script = Callable[["Process"], None]


@dataclass(frozen=True)
class Scenario:
    """What the processes do, and what happened before they start."""

    name: str
    scripts: tuple[Script, ...]
    before: Callable[[Run], None] = lambda _: None
    make_filesystem: type[SimulatedFileSystem] = SimulatedFileSystem
    make_store: Callable[[FileSystem], FileStore] = lambda fs: FileStore("/claims", fs=fs)
    make_claims: type[Session] = Session
    planted: bool = False


class Process:
    """A process that runs a script on the simulated system, and what it was granted."""

    def __init__(self, run: Run, number: int, script: Script | None) -> None:
        self.run, self.number = run, number
        self.fs = run.scenario.make_filesystem(run.disk, self._give_way)
        self.machine: FakeMachine = run.world.process()
        name = f"rig:{self.machine.pid()}:{number:012x}"
        holder = Holder(name, self.machine.pid(), self.machine.proof())
        self.claims = run.scenario.make_claims(run.scenario.make_store(self.fs), holder, self.machine)
        self.granted: Claim | None = None
        self.alive = True
        self.next_call = "start"
        self._thread = greenlet(lambda: script(self)) if script else None

    @property
    def runnable(self) -> bool:
        waiting = self.fs.waiting_for
        unblocked = waiting is None or waiting.locked_by is None
        return self.alive and self._thread is not None and not self._thread.dead and unblocked

    @property
    def blocked(self) -> bool:
        return self.alive and self._thread is not None and not self._thread.dead and not self.runnable

    @property
    def started(self) -> bool:
        return self._thread is not None and bool(self._thread)

    @property
    def thinks_it_holds(self) -> bool:
        """Return whether the process acts on the key: it has a grant, has not begun to release, and has time left."""
        return self.alive and self.granted is not None and self.granted.expires.ticks > self.run.world.ticks

    def try_claim(self, note: str | None = None) -> ClaimResult | None:
        try:
            attempt = self.claims.try_claim(KEY.key, KEY.namespace, ttl_minutes=TTL, note=note)
        except ClaimsError as error:
            self.run.refused(error)
            return None
        self.granted = attempt.found if attempt.claimed and isinstance(attempt.found, Claim) else None
        if self.granted is not None:
            self.run.granted(self, self.granted)
            self.run.told(self.granted, attempt.taken_over and attempt.taken_over.found)
            self.fs.act()
        return attempt

    def release(self, outcome: Outcome | None = None) -> None:
        ours, self.granted = self.granted, None
        released = self._do(lambda: self.claims.release(KEY.key, KEY.namespace, outcome=outcome))
        if outcome is Outcome.DONE and isinstance(released, ReleaseResult) and released.released and ours is not None:
            self.run.done_until = self.run.world.ticks + RETENTION

    def prune(self) -> None:
        self._do(self.claims.prune)

    def inspect(self) -> None:
        inspection = self._do(lambda: self.claims.inspect(KEY.key, KEY.namespace))
        if isinstance(inspection, Inspection):
            self.run.looked(inspection.found)

    def _do(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except ClaimsError as error:
            self.run.refused(error)
            return None

    def step(self) -> None:
        """Make the next system call and go on to the one after it."""
        assert self._thread is not None
        self._thread.switch()

    def kill(self) -> None:
        self.alive = False
        self.run.world.alive.discard((self.run.world.boot, self.machine.pid()))
        self.fs.die()
        if self.started and self._thread is not None:
            with suppress(Killed):
                self._thread.throw(Killed)

    def _give_way(self, call: str) -> None:
        if self._thread is not None and greenlet.getcurrent() is self._thread:
            self.next_call = call
            assert self._thread.parent is not None
            self._thread.parent.switch()


class Run:
    """One schedule of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.world = World()
        self.disk = Disk(lambda: self.world.wall.timestamp())
        self.generations: dict[int, str] = {}
        self.done_until = 0.0
        self.noted: Claim | None = None  # A dead claim with a note, whose holder acts no more.
        self.trace: list[str] = []
        self.spent: set[str] = set()
        self.processes: list[Process] = []
        scenario.before(self)
        self.processes += [Process(self, len(self.processes) + n, s) for n, s in enumerate(scenario.scripts)]

    def actions(self) -> list[Action]:
        """Return what can happen next, the running of processes first."""
        live = [process for process in self.processes if process.runnable]
        actions: list[Action] = [("run", process.number) for process in live]
        if "kill" not in self.spent:
            actions += [("kill", process.number) for process in live if process.started]
        if "time out" not in self.spent:
            actions += [("time out", process.number) for process in self.processes if process.blocked]
        if live:
            actions += [(event, 0) for event in ("expire", "step forward", "step back") if event not in self.spent]
            dead = [process for process in self.processes if not process.alive]
            actions += [("recycle", process.number) for process in dead[:1] if "recycle" not in self.spent]
        return actions

    def do(self, action: Action) -> None:
        """Let *action* happen and check what must hold ever after."""
        what, number = action
        process = next((process for process in self.processes if process.number == number), None)
        if what == "run":
            assert process is not None
            self.trace.append(f"P{number} {process.next_call}")
            process.step()
        else:
            self.spent.add(what)
            self.trace.append(f"* {what} {number or ''}".rstrip())
            self._happen(what, process)
        self.check()

    def _happen(self, what: str, process: Process | None) -> None:
        if what == "expire":
            self.world.pass_time(TTL * 60 + 1)
        elif what.startswith("step"):
            self.world.set_wall_clock(86_400.0 if what == "step forward" else -86_400.0)
        elif process is not None and what == "kill":
            process.kill()
        elif process is not None and what == "time out":
            process.fs.time_out()
        elif process is not None:
            # Somebody else gets the dead process's PID, with a start time of its own.
            self.world.recycle(process.machine.pid())

    def granted(self, process: Process, claim: Claim) -> None:
        """Note a grant; each new one has a generation of its own, higher than all before."""
        if self.world.ticks < self.done_until:
            raise ViolationError(self.describe("what was done was claimed again"))
        owner = self.generations.setdefault(claim.generation, process.claims.holder.name)
        if owner != process.claims.holder.name or claim.generation < max(self.generations):
            raise ViolationError(self.describe(f"generation {claim.generation} was given twice or went back"))

    def told(self, claim: Claim, before: Found) -> None:
        """Check that the first grant after the noted claim came with its note."""
        if self.noted is not None and claim.generation == self.noted.generation + 1:
            note = before.note if isinstance(before, Claim) else None
            if note != self.noted.note:
                raise ViolationError(self.describe("the next holder did not get the note"))

    def looked(self, found: Found) -> None:
        """Check that a look before the next grant found the noted claim, or its trace.

        A process may have been killed right after its grant, of which nobody knows.
        """
        seen = max(self.generations)
        if self.noted is not None and found is None and seen == self.noted.generation and "kill" not in self.spent:
            raise ViolationError(self.describe("a look found no trace of the noted claim"))

    def refused(self, error: ClaimsError) -> None:
        """Note that a call ended in an error, which only a time-out of a wait for the lock may cause here."""
        if not self.scenario.planted and not (isinstance(error, StoreBusyError) and "time out" in self.spent):
            raise ViolationError(self.describe(f"an error where nothing failed: {error}"))

    def check(self) -> None:
        apparent_holders = [process.number for process in self.processes if process.thinks_it_holds]
        if len(apparent_holders) > 1:
            raise ViolationError(
                self.describe(f"{' and '.join(f'P{number}' for number in apparent_holders)} both hold the key")
            )

    def finish(self) -> None:
        """Check that the key is claimable once everybody's time is up, whatever happened."""
        # Longer than anything unreadable can count as held, however the clock was stepped.
        self.world.pass_time(3 * 86_400)
        last = Process(self, 99, None)
        attempt = last.try_claim()
        if attempt is None or not attempt.claimed:
            raise ViolationError(self.describe("the key cannot be claimed any more"))

    def describe(self, what: str) -> str:
        return f"{self.scenario.name}: {what}\n  " + "\n  ".join(self.trace)


@dataclass
class Exploration:
    """What an exploration saw: how many different schedules, and the first violation, shrunk."""

    schedules: int
    violation: ViolationError | None = None


def play(scenario: Scenario, decisions: list[Action], chance: random.Random | None = None) -> list[list[Action]]:
    """Run one schedule: *decisions*, then the current process until it ends, or with *chance* anything.

    Returns the alternatives at each step, what was chosen first.  Raises `ViolationError`.
    """
    run = Run(scenario)
    alternatives: list[list[Action]] = []
    current = -1
    try:
        while actions := run.actions():
            position = len(alternatives)
            if position < len(decisions):
                action = decisions[position]
                if action not in actions:
                    break  # A shrunk schedule that does not fit.
            elif chance is not None:
                action = chance.choice(actions if chance.random() < 0.2 else actions[: len(run.processes)])
            elif not any(what == "run" for what, _ in actions):
                break  # All are waiting for a lock that nobody will free: only a time-out could go on.
            else:
                action = next((a for a in actions if a == ("run", current)), actions[0])
            alternatives.append([action, *(a for a in actions if a != action)])
            current = action[1] if action[0] == "run" else current
            run.do(action)
        run.finish()
    finally:
        for process in run.processes:
            process.kill()
    return alternatives


def explore(scenario: Scenario, *, bound: int, at_most: int, random_runs: int = 0, seed: int = 0) -> Exploration:
    """Run every schedule of *scenario* within *bound*, *at_most* that many, then *random_runs* random ones."""
    count = 0
    seen: set[tuple[Action, ...]] = set()
    for violation in _systematic(scenario, bound, at_most, seed):
        count += 1
        if violation is not None:
            return Exploration(count, violation)
    chance = random.Random(seed)
    for _ in range(random_runs):
        try:
            seen.add(tuple(step[0] for step in play(scenario, [], chance)))
        except ViolationError as found:
            return Exploration(count + len(seen), found)
    return Exploration(count + len(seen))


def _systematic(scenario: Scenario, bound: int, at_most: int, seed: int) -> Iterator[ViolationError | None]:
    """Run the schedules by cost: all of one level before any of the next, which is taken in random order.

    Each schedule comes up once: it is the continuation of a prefix that differs from all others in its last decision.
    """
    level: list[tuple[list[Action], int, Action | None]] = [([], 0, None)]
    played = 0
    for cost in range(bound + 1):
        further: list[tuple[list[Action], int, Action | None]] = []
        for chosen, length, other in level:
            if played == at_most:
                return
            played += 1
            decisions = chosen[:length] if other is None else [*chosen[:length], other]
            try:
                alternatives = play(scenario, decisions)
            except ViolationError as violation:
                yield _shrunk(scenario, decisions, violation)
                return
            yield None
            if cost < bound and len(further) < 10 * at_most:
                chosen_here = [step[0] for step in alternatives]
                further += [
                    (chosen_here, position, other)
                    for position in range(len(decisions), len(alternatives))
                    for other in alternatives[position][1:]
                ]
        if cost:
            random.Random(seed).shuffle(further)
        level = further


def _shrunk(scenario: Scenario, decisions: list[Action], violation: ViolationError) -> ViolationError:
    """Drop decisions as long as a violation remains; the trace of what is left is what a person has to read."""
    position = 0
    while position < len(decisions):
        shorter = decisions[:position] + decisions[position + 1 :]
        try:
            play(scenario, shorter)
            position += 1
        except ViolationError as smaller:
            decisions, violation = shorter, smaller
    return violation
