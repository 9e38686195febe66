"""One schedule of a scenario: who makes the next step, what happens to the world, and what must hold ever after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

from mcp_claims.errors import ClaimsError, StoreBusyError
from mcp_claims.model.codec import RecordError, tickets_from_json
from mcp_claims.model.expiry import has_passed, remaining
from mcp_claims.model.keys import conflict
from mcp_claims.model.records import Claim, Found, Mode, Moment, Outcome, ScopedKey, Ticket
from mcp_claims.model.tickets import is_waiting
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.explorer.process import (
    ALL_FILES,
    KEY,
    OVERTAKEN,
    POLL,
    RECORD,
    TTL,
    Process,
    Script,
    ViolationError,
    record_in,
)
from tests.explorer.simulated import Disk, SimulatedFileSystem
from tests.support.machines import World

Action = tuple[str, int]
"""What happens next: `run`, `kill` or `time out` a process, or `expire`, `step` the wall clock, `recycle` a PID, `poll`."""


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
            apparent = [
                f"P{process.number}"
                for process in self.processes
                if any(process.thinks_it_holds(key) for key in process.keys if conflict(key, scoped))
            ]
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
        for scoped in (KEY, ALL_FILES):
            attempt = last.try_claim(scoped)
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
