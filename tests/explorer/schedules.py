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
from datetime import timedelta
from itertools import zip_longest

from greenlet import greenlet

from mcp_claims.errors import ClaimsError, StoreBusyError
from mcp_claims.model.codec import RecordError, from_json, tickets_from_json
from mcp_claims.model.expiry import has_passed, remaining
from mcp_claims.model.records import Claim, Found, Holder, Mode, Moment, Outcome, ScopedKey, Ticket
from mcp_claims.model.tickets import is_waiting
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.results import ClaimResult, Inspection, ReleaseResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.explorer.simulated import Disk, Inode, Killed, SimulatedFileSystem
from tests.support.machines import FakeMachine, World

KEY = ScopedKey("default", "red")
TTL = 1.0  # minutes
RETENTION = 24 * 3_600.0  # s
RECORD = "/claims/default/red.json"
WAIT = 300.0  # s
POLL = 11.0  # s: longer than the longest time that anybody sleeps
MAX_ATTEMPTS = 12
OVERTAKEN = timedelta(seconds=1)

Action = tuple[str, int]
"""What happens next: `run`, `kill` or `time out` a process, or `expire`, `step` the wall clock, `recycle` a PID, `poll`."""


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


def record_in(inode: Inode | None) -> Claim | None:
    """Return the claim in *inode*, if there is one."""
    try:
        return None if inode is None else from_json(inode.data)
    except RecordError:
        return None


class Process:
    """A process that runs a script on the simulated system, and what it was granted."""

    def __init__(self, run: Run, number: int, script: Script | None) -> None:
        self.run, self.number = run, number
        self.fs = run.scenario.make_filesystem(run.disk, self._give_way)
        self.machine: FakeMachine = run.world.process()
        name = f"rig:{self.machine.pid()}:{number:012x}"
        holder = Holder(name, self.machine.pid(), self.machine.proof())
        store = run.scenario.make_store(self.fs)
        vars(store)["wake"] = run.listens
        self.claims = run.scenario.make_claims(store, holder, self.machine)
        self.listens = False
        self.wants: set[ScopedKey] = set()
        """The keys that it waits for, also between two calls."""
        self.others_want: set[tuple[str, ScopedKey]] = set()
        """What all wanted when the present call began."""
        self.granted: dict[ScopedKey, Claim] = {}
        self.turn: Claim | None = None
        self.seen: tuple[Ticket, ...] = ()
        """The tickets that were there when the present call began."""
        self.alive = True
        self.next_call = "start"
        self._paused_at: int | None = None
        self._lets_others_go_first = False
        self._thread = greenlet(lambda: script(self)) if script else None

    @property
    def runnable(self) -> bool:
        waiting = self.fs.waiting_for
        unblocked = waiting is None or waiting.locked_by is None
        others = self.run.processes if self._lets_others_go_first else ()
        goes_first = not any(other.runnable for other in others if not other._lets_others_go_first)
        return self._can_go_on and unblocked and self._paused_at != self.run.news and goes_first

    @property
    def blocked(self) -> bool:
        return self._can_go_on and self.fs.waiting_for is not None and not self.runnable

    @property
    def paused(self) -> bool:
        return self._can_go_on and self._paused_at == self.run.news

    @property
    def _can_go_on(self) -> bool:
        return self.alive and self._thread is not None and not self._thread.dead

    @property
    def started(self) -> bool:
        return self._thread is not None and bool(self._thread)

    def thinks_it_holds(self, scoped: ScopedKey) -> bool:
        """Return whether the process acts on a key: it has a grant, has not begun to release, and has time left.

        Or whether the key is kept for it, as it was told, so that nobody else may act.
        """
        grants = [self.granted.get(scoped), self.turn if self.turn is not None and self.turn.scoped == scoped else None]
        return self.alive and any(grant is not None and grant.expires.ticks > self.run.world.ticks for grant in grants)

    def try_claim(
        self, scoped: ScopedKey = KEY, *, ttl: float = TTL, note: str | None = None, redo: bool = False
    ) -> ClaimResult | None:
        request = ClaimRequest.parse(scoped.key, scoped.namespace, ttl_minutes=ttl, note=note, redo=redo)
        turn, self.turn = self.turn, None
        attempt = self._try(request)
        refused = attempt is not None and attempt.status is not Status.ACQUIRED
        if turn is not None and turn.expires.ticks > self.run.world.ticks and refused:
            raise ViolationError(self.run.describe(f"P{self.number} could not take what was kept for it"))
        return attempt

    def let_others_go_first(self) -> None:
        """Go on when all others that do not do this too have ended or sleep."""
        self._lets_others_go_first = True
        self._give_way("let others go first")
        self._lets_others_go_first = False

    def wait(
        self,
        scoped: ScopedKey = KEY,
        *,
        ttl: float = TTL,
        reserve: bool = True,
        keeps_place: bool = True,
        attempts: int = MAX_ATTEMPTS,
    ) -> ClaimResult | None:
        """Wait as `acquire` does.  With *reserve* the first attempt claims the key, later ones reserve it."""
        request = ClaimRequest.parse(scoped.key, scoped.namespace, ttl_minutes=ttl)
        attempt = self._try(request)
        if attempt is None or attempt.status is not Status.HELD:
            return attempt
        self.wants.add(scoped)
        self.claims.queue.join(scoped, WAIT)
        self.listens = True
        for _ in range(attempts):
            began = self.run.news
            attempt = self._try(request, reserve=reserve)
            if attempt is None or attempt.status is not Status.HELD:
                break
            if cycle := self.claims.queue.find_cycle(scoped):
                self.run.refused_for_a_cycle(self, cycle)
                attempt = attempt._replace(cycle=cycle)
                break
            if not self.claims.queue.place(scoped)[0]:
                self.claims.queue.rejoin(scoped, WAIT)
            self.sleep(began)
        self.listens = False
        waits_on = attempt is not None and attempt.status in (Status.HELD, Status.YOUR_TURN) and not attempt.cycle
        self.claims.end_wait(scoped, keeps_place=keeps_place and waits_on)
        if not (keeps_place and waits_on):
            self.wants.discard(scoped)
            self.turn = None
        return attempt

    def sleep(self, since: int) -> None:
        """Sleep until there has been news for those who wait *since* then."""
        self._paused_at = since
        self._give_way("sleep")
        self._paused_at = None

    def _try(self, request: ClaimRequest, *, reserve: bool = False) -> ClaimResult | None:
        scoped = request.scoped
        self._look(scoped)
        try:
            attempt = self.claims.try_request(request, reserve=reserve)
        except ClaimsError as error:
            self.run.refused(error)
            return None
        self.granted.pop(scoped, None)
        if isinstance(attempt.found, Claim) and attempt.status is Status.YOUR_TURN:
            self.turn = attempt.found
        elif isinstance(attempt.found, Claim) and attempt.claimed:
            self.granted[scoped] = attempt.found
            self.wants.discard(scoped)
            self.run.granted(self, attempt.found, redo=request.redo)
            self.run.told(attempt.found, attempt.taken_over and attempt.taken_over.found)
            self.fs.act()
        return attempt

    def release(self, outcome: Outcome | None = None, scoped: ScopedKey = KEY) -> None:
        ours, self.turn = self.granted.pop(scoped, None), None
        released = self._do(lambda: self.claims.release(scoped.key, scoped.namespace, outcome=outcome))
        self.wants.discard(scoped)
        if outcome is Outcome.DONE and isinstance(released, ReleaseResult) and released.released and ours is not None:
            self.run.done_until = self.run.world.ticks + RETENTION

    def close(self) -> None:
        self.granted.clear()
        self.turn = None
        self._do(self.claims.close)
        self.wants.clear()

    def prune(self) -> None:
        self._do(self.claims.prune)

    def inspect(self) -> None:
        inspection = self._do(lambda: self.claims.inspect(KEY.key, KEY.namespace))
        if isinstance(inspection, Inspection):
            self.run.looked(inspection.found)

    def _look(self, scoped: ScopedKey = KEY) -> None:
        self.seen = self.run.tickets(scoped.namespace)
        self.others_want = {(each.claims.holder.name, key) for each in self.run.processes for key in each.wants}

    def _do(self, call: Callable[[], object]) -> object:
        self._look()
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
        self.generations: dict[ScopedKey, dict[int, str]] = {}
        self.done_until = 0.0
        self.noted: Claim | None = None  # A dead claim with a note, whose holder acts no more.
        self.trace: list[str] = []
        self.spent: set[str] = set()
        self.processes: list[Process] = []
        self._events = 0
        scenario.before(self)
        self.processes += [Process(self, len(self.processes) + n, s) for n, s in enumerate(scenario.scripts)]

    @property
    def news(self) -> int:
        """What changes whenever somebody who waits is woken."""
        return self.disk.records + self._events

    def actions(self) -> list[Action]:
        """Return what can happen next, the running of processes first."""
        live = [process for process in self.processes if process.runnable]
        actions: list[Action] = [("run", process.number) for process in live]
        if "kill" not in self.spent:
            started = [process for process in self.processes if process.runnable or process.paused]
            actions += [("kill", process.number) for process in started if process.started]
        if "time out" not in self.spent:
            actions += [("time out", process.number) for process in self.processes if process.blocked]
        if live:
            actions += [(event, 0) for event in ("expire", "step forward", "step back") if event not in self.spent]
            dead = [process for process in self.processes if not process.alive]
            actions += [("recycle", process.number) for process in dead[:1] if "recycle" not in self.spent]
        elif any(process.paused for process in self.processes):
            actions.insert(0, ("poll", 0))
        return actions

    def do(self, action: Action) -> None:
        """Let *action* happen and check what must hold ever after."""
        what, number = action
        process = next((process for process in self.processes if process.number == number), None)
        if what == "run":
            assert process is not None
            self.trace.append(f"P{number} {process.next_call}")
            before = self.disk.find(RECORD)
            process.step()
            if self.disk.find(RECORD) is not before:
                self._check_order(process, record_in(before), self.record())
        else:
            self.spent.add(what)
            self.trace.append(f"* {what} {number or ''}".rstrip())
            self._happen(what, process)
            self._events += 1
        self.check()

    def _happen(self, what: str, process: Process | None) -> None:
        if what == "expire":
            self.world.pass_time(TTL * 60 + 1)
        elif what == "poll":
            self.world.pass_time(POLL)
        elif what.startswith("step"):
            self.world.set_wall_clock(86_400.0 if what == "step forward" else -86_400.0)
        elif process is not None and what == "kill":
            process.kill()
        elif process is not None and what == "time out":
            process.fs.time_out()
        elif process is not None:
            # Somebody else gets the dead process's PID, with a start time of its own.
            self.world.recycle(process.machine.pid())

    def record(self) -> Claim | None:
        """Return what is stored for the key, if that can be read."""
        return record_in(self.disk.find(RECORD))

    def tickets(self, namespace: str = KEY.namespace) -> tuple[Ticket, ...]:
        """Return the tickets that count now, of those who live."""
        inode = self.disk.find(f"/claims/{namespace}/.tickets")
        try:
            found = () if inode is None else tickets_from_json(inode.data)
        except RecordError:
            return ()
        looker = self.processes[0].machine if self.processes else self.world.process()
        now = looker.now()
        return tuple(each for each in found if is_waiting(each, now) and not looker.provably_dead(each.holder))

    def listens(self, ticket: Ticket) -> bool:
        """Return whether the session of *ticket* can be woken; any news wakes it."""
        return any(
            each.alive and each.listens and each.claims.holder.name == ticket.holder.name for each in self.processes
        )

    def granted(self, process: Process, claim: Claim, *, redo: bool) -> None:
        """Note a grant; each new one has a generation of its own, higher than all before."""
        if claim.mode is Mode.RESERVED:
            raise ViolationError(self.describe(f"P{process.number} was granted what is only kept for it"))
        if self.world.ticks < self.done_until and not redo:
            raise ViolationError(self.describe("what was done was claimed again"))
        generations = self.generations.setdefault(claim.scoped, {})
        owner = generations.setdefault(claim.generation, process.claims.holder.name)
        if owner != process.claims.holder.name or claim.generation < max(generations):
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
        seen = max(self.generations.get(KEY, [0]))
        if self.noted is not None and found is None and seen == self.noted.generation and "kill" not in self.spent:
            raise ViolationError(self.describe("a look found no trace of the noted claim"))

    def _check_order(self, writer: Process, before: Claim | None, after: Claim | None) -> None:
        """Check that the key went to the first of those who waited when the call of *writer* began, and still wait."""
        if after is None or after.ended is not None or (before is not None and before.generation >= after.generation):
            return
        if before is not None and before.ended is not None and before.ended.outcome is Outcome.DONE:
            return  # Others no longer wait for work that is done.
        name, now = after.holder.name, writer.machine.now()
        if after.mode is Mode.RESERVED and (name, KEY) not in writer.others_want and "time out" not in self.spent:
            wanted = {each.claims.holder.name for each in self.processes if KEY in each.wants}
            if name not in wanted:
                raise ViolationError(self.describe(f"P{writer.number} reserved the key for one that does not wait"))
        place = next((each for each in writer.seen if each.holder.name == name), None)
        numbers = {ticket.number for ticket in self.tickets()}
        for ticket in writer.seen:
            waited = -remaining(ticket.taken, now)
            goes_first = waited > OVERTAKEN if place is None else ticket.number < place.number
            if ticket.holder.name != name and ticket.number in numbers and goes_first:
                raise ViolationError(self.describe(f"P{writer.number} passed over ticket {ticket.number}"))

    def refused_for_a_cycle(self, process: Process, cycle: tuple[Claim, ...]) -> None:
        """Check that each of *cycle* is held, and that its holder waits for the next one, the last apart."""
        for claim, following in zip_longest(cycle, cycle[1:]):
            found = record_in(self.disk.find(f"/claims/{claim.scoped.namespace}/{claim.scoped.key}.json"))
            waits = following is None or any(
                ticket.holder.name == claim.holder.name and following.scoped in ticket.keys
                for ticket in self.tickets(following.scoped.namespace)
            )
            if found != claim or not waits or (following is None and claim.holder.name != process.claims.holder.name):
                raise ViolationError(self.describe(f"P{process.number} was refused for a cycle that is none"))

    def refused(self, error: ClaimsError) -> None:
        """Note that a call ended in an error, which only a time-out of a wait for the lock may cause here."""
        if not self.scenario.planted and not (isinstance(error, StoreBusyError) and "time out" in self.spent):
            raise ViolationError(self.describe(f"an error where nothing failed: {error}"))

    def check(self) -> None:
        for scoped in {*(key for process in self.processes for key in process.granted), KEY}:
            apparent = [f"P{process.number}" for process in self.processes if process.thinks_it_holds(scoped)]
            if len(apparent) > 1:
                raise ViolationError(self.describe(f"{' and '.join(apparent)} both hold the key"))

    def finish(self) -> None:
        """Check that the key is claimable once everybody's time is up, whatever happened, and soon if nobody is there."""
        found, now = self.disk.find(RECORD), self.processes[0].machine.now() if self.processes else None
        claim, waiting = self.record(), self.tickets()
        self._expect_no_reservation_for_those_who_left(claim, waiting)
        if claim is not None or found is None:
            held = claim is not None and now is not None and self._blocks(claim, now)
            self._expect_soon(len({ticket.holder.name for ticket in waiting}) + held)
        # Longer than anything unreadable can count as held, however the clock was stepped.
        self.world.pass_time(3 * 86_400)
        last = Process(self, 99, None)
        attempt = last.try_claim()
        if attempt is None or not attempt.claimed:
            raise ViolationError(self.describe("the key cannot be claimed any more"))

    def _expect_no_reservation_for_those_who_left(self, claim: Claim | None, waiting: tuple[Ticket, ...]) -> None:
        # After a crash or a time-out of one who reserves or leaves, it stays until it lapses.
        if claim is None or claim.mode is not Mode.RESERVED or self.spent & {"kill", "time out", "expire"}:
            return
        if has_passed(claim.expires, self.processes[0].machine.now()):
            return
        told = {process.claims.holder.name for process in self.processes if process.turn is not None}
        if claim.holder.name not in told | {ticket.holder.name for ticket in waiting}:
            raise ViolationError(self.describe("the key is kept for one that does not wait any more"))

    def _blocks(self, claim: Claim, now: Moment) -> bool:
        dead = self.processes[0].machine.provably_dead(claim.holder)
        return not has_passed(claim.expires, now) and (claim.ended is not None or not dead)

    def _expect_soon(self, in_the_way: int) -> None:
        """Check that a stranger has the key once each of those *in_the_way* has had its minute."""
        stranger = Process(self, 98, None)
        for _ in range(in_the_way + 1):
            attempt = stranger.try_claim()
            if attempt is None or attempt.status is not Status.HELD:
                stranger.release()
                return
            self.world.pass_time(TTL * 60 + 1)
        raise ViolationError(self.describe("the key is kept for nobody"))

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
            elif actions[0][0] not in ("run", "poll"):
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
