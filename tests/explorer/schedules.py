"""One schedule of a scenario: who makes the next step, what happens to the world, and what must hold ever after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, zip_longest

from mcp_claims.errors import ClaimsError, InvalidInputError, StoreBusyError
from mcp_claims.model.codec import RecordError, tickets_from_json
from mcp_claims.model.expiry import has_passed, remaining
from mcp_claims.model.keys import conflict
from mcp_claims.model.records import Claim, Found, Mode, Moment, Outcome, ScopedKey, Ticket
from mcp_claims.model.tickets import is_waiting, wants
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.files.filenames import record_path
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
    proves_death: bool = True
    """Whether others can prove that a killed process is dead; otherwise its claims last until they expire."""


class Run:
    """One schedule of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.world = World()
        self.disk = Disk(lambda: self.world.wall.timestamp())
        self.generations: dict[ScopedKey, dict[int, str]] = {}
        self.several: set[ScopedKey] = set()
        """The keys that were ever granted to one of several."""
        self.revoked: set[tuple[ScopedKey, int]] = set()
        """The grants that somebody has begun to revoke, which their holders may not know yet."""
        self.done_until = 0.0
        self.noted: Claim | None = None  # A dead claim with a note, whose holder acts no more.
        self.trace: list[str] = []
        self.spent: set[str] = set()
        self.processes: list[Process] = []
        self._events = 0
        self._seen: list[Claim] = []
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
            before, records = self._seen or self.holders(), self.disk.records
            process.step()
            if self.disk.records != records:
                self._seen = self.holders()
                self._check_order(process, before, self._seen)
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

    def holders(self) -> list[Claim]:
        """Return what is stored for the key: of one that several hold, what is in the place of each."""
        found = self.record()
        if found is None or not found.members:
            return [] if found is None else [found]
        places = (record_in(self.disk.find(record_path("/claims", place)[1])) for place in found.places)
        return [each for each in places if each is not None]

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
        key = claim.scoped.base
        self.several |= {key} if claim.scoped.member else set()
        generations = self.generations.setdefault(key, {})
        owner = generations.setdefault(claim.generation, process.claims.holder.name)
        # Of several holders, the first may renew its claim after others have come.
        went_back = claim.generation < max(generations) and key not in self.several
        if owner != process.claims.holder.name or went_back:
            raise ViolationError(self.describe(f"generation {claim.generation} was given twice or went back"))

    def granted_all(self, process: Process, request: ClaimRequest, grants: list[Claim]) -> None:
        """Check that a group was granted as a whole, each key of it in the way that was asked for."""
        if {grant.scoped.base for grant in grants} != {*request.keys} or {each.use for each in grants} != {request.use}:
            raise ViolationError(self.describe(f"P{process.number} was granted a part of what it asked for"))

    def told(self, claim: Claim, before: Found) -> None:
        """Check that the first grant after the noted claim came with its note."""
        if self.noted is not None and claim.generation == self.noted.generation + 1:
            note = before.note if isinstance(before, Claim) else None
            if note != self.noted.note:
                raise ViolationError(self.describe("the next holder did not get the note"))

    def held(self) -> set[int]:
        """Return the generations of the key that a process acts on."""
        return {each.generation for one in self.processes for each in one.acts_on() if each.scoped.base == KEY}

    def looked(self, found: Found) -> None:
        """Check that a look before the next grant found the noted claim, or its trace.

        A process may have been killed right after its grant, of which nobody knows.
        """
        seen = max(self.generations.get(KEY, [0]))
        if self.noted is not None and found is None and seen == self.noted.generation and "kill" not in self.spent:
            raise ViolationError(self.describe("a look found no trace of the noted claim"))

    def _check_order(self, writer: Process, before: list[Claim], after: list[Claim]) -> None:
        """Check that the key went to the first of those who waited when the call of *writer* began, and still wait."""
        if any(each.ended is not None and each.ended.outcome is Outcome.DONE for each in before):
            return  # Others no longer wait for work that is done.
        known = {(each.holder.name, each.generation) for each in before}
        for new in after:
            # What a process that was killed has begun another one completes, which has seen other tickets.
            completes = new.scoped.member is not None and "kill" in self.spent
            if new.ended is None and (new.holder.name, new.generation) not in known and not completes:
                self._check_turn(writer, new, {each.holder.name for each in after if each.ended is None})

    def _check_turn(self, writer: Process, new: Claim, served: set[str]) -> None:
        """Check that *new* came before nobody whom it keeps from the key; *served* are all who have it."""
        name = new.holder.name
        if new.mode is Mode.RESERVED and (name, KEY) not in writer.others_want and "time out" not in self.spent:
            wanted = {each.claims.holder.name for each in self.processes if KEY in each.wants}
            if name not in wanted:
                raise ViolationError(self.describe(f"P{writer.number} reserved the key for one that does not wait"))
        place = next((each for each in writer.seen if each.holder.name == name), None)
        numbers = {ticket.number for ticket in self.tickets()}
        for ticket in writer.seen:
            # As the call may have read the clock before time went on.
            waited = -remaining(ticket.taken, writer.seen_at)
            goes_first = waited > OVERTAKEN if place is None else ticket.number < place.number
            waits = ticket.number in numbers and ticket.holder.name not in served and not ticket.use.goes_with(new.use)
            if waits and goes_first:
                raise ViolationError(self.describe(f"P{writer.number} passed over ticket {ticket.number}"))

    def refused_for_a_cycle(self, process: Process, cycle: tuple[Claim, ...]) -> None:
        """Check that each of *cycle* is held, and that its holder waits for the next one, or behind a wait for it, the last apart."""
        for claim, following in zip_longest(cycle, cycle[1:]):
            found = record_in(self.disk.find(record_path("/claims", claim.scoped)[1]))
            waits = following is None or self._waits_for(claim.holder.name, following.scoped.base)
            if found != claim or not waits or (following is None and claim.holder.name != process.claims.holder.name):
                raise ViolationError(self.describe(f"P{process.number} was refused for a cycle that is none"))

    def _waits_for(self, name: str, scoped: ScopedKey) -> bool:
        found = self.tickets(scoped.namespace)
        direct = [ticket for ticket in found if wants(ticket, scoped)]
        behind = [ticket for ticket in found if any(wants(ticket, *before.keys) for before in direct)]
        return any(ticket.holder.name == name for ticket in [*direct, *behind])

    def refused(self, error: ClaimsError) -> None:
        """Note that a call ended in an error, which only a time-out of a wait for the lock may cause here."""
        # Who asks for another number of slots than is in use is told so.
        expected = isinstance(error, InvalidInputError) and error.field == "slots"
        expected = expected or (isinstance(error, StoreBusyError) and "time out" in self.spent)
        if not self.scenario.planted and not expected:
            raise ViolationError(self.describe(f"an error where nothing failed: {error}"))

    def check(self) -> None:
        """Check that of those who act on a key none excludes another."""
        apparent = [(process, grant) for process in self.processes for grant in process.acts_on()]
        for (one, grant), (other, beside) in combinations(apparent, 2):
            if one is other:
                if grant.slots is not None and grant.scoped.base == beside.scoped.base:
                    raise ViolationError(self.describe(f"P{one.number} has two slots of the key"))
            elif _exclude(grant, beside):
                raise ViolationError(self.describe(f"P{one.number} and P{other.number} both hold the key"))

    def finish(self) -> None:
        """Check that the key is claimable once everybody's time is up, whatever happened, and soon if nobody is there."""
        found, now = self.disk.find(RECORD), self.processes[0].machine.now() if self.processes else None
        claim, waiting = self.record(), self.tickets()
        for each in self.holders():
            self._expect_no_reservation_for_those_who_left(each, waiting)
        if claim is not None or found is None:
            held = claim is not None and now is not None and self._blocks(claim, now)
            # What a process had committed that died is not in its place yet; it lasts where nobody can prove the death.
            held = held or ("kill" in self.spent and not self.scenario.proves_death)
            self._expect_soon(len({ticket.holder.name for ticket in waiting}) + held)
        # Longer than anything unreadable can count as held, however the clock was stepped.
        self.world.pass_time(3 * 86_400)
        last = Process(self, 99, None)
        for scoped in dict.fromkeys((KEY, *sorted(self.several), ALL_FILES)):
            attempt = last.try_claim(scoped)
            if attempt is None or not attempt.claimed:
                raise ViolationError(self.describe("the key cannot be claimed any more"))

    def _expect_no_reservation_for_those_who_left(self, claim: Claim, waiting: tuple[Ticket, ...]) -> None:
        # After a crash or a time-out of one who reserves or leaves, it stays until it lapses.
        if claim.mode is not Mode.RESERVED or self.spent & {"kill", "time out", "expire"}:
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


def _exclude(one: Claim, other: Claim) -> bool:
    """Return whether two sessions may not hold *one* and *other* at a time."""
    if not conflict(one.scoped, other.scoped) or one.use.goes_with(other.use):
        return False
    if one.scoped.base != other.scoped.base or None in (one.slots, other.slots):
        return True
    free = range(one.slots or 0)
    return one.slots != other.slots or one.slot == other.slot or not {one.slot, other.slot} <= {*free}
