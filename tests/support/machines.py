"""Machines whose clocks and processes the test commands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mcp_claims.liveness import Program
from mcp_claims.model.records import Holder, Moment, Proof
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store


class World:
    """One computer in a test: a boot, two clocks, and processes that live and die on command."""

    def __init__(self) -> None:
        self.boot = "boot-1"
        self.wall = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
        self.ticks = 1_000.0
        self.alive: set[tuple[str, int]] = set()
        self.starts: dict[int, int] = {1: 0}
        self._last_pid = 100

    def pass_time(self, seconds: float) -> None:
        """Let time go by on both clocks, asleep or awake."""
        self.wall += timedelta(seconds=seconds)
        self.ticks += seconds

    def set_wall_clock(self, seconds: float) -> None:
        """Step the wall clock by *seconds*; no time passes."""
        self.wall += timedelta(seconds=seconds)

    def reboot(self) -> None:
        """Start a new boot: every process is gone and the ticks begin anew."""
        self.boot = f"boot-{int(self.boot.removeprefix('boot-')) + 1}"
        self.ticks = 10.0
        self.alive.clear()

    def process(self) -> FakeMachine:
        """Start a process and return the machine as it sees it."""
        self._last_pid += 1
        return FakeMachine(self, self._last_pid)

    def session(self, store: Store) -> Session:
        """Start a process and open a session in it."""
        machine = self.process()
        name = f"rig:{machine.pid()}:{machine.pid():012x}"
        return Session(store, Holder(name, machine.pid(), machine.proof()), machine)

    def recycle(self, pid: int) -> None:
        """Start another process that happens to get *pid*, with a start time of its own."""
        self.starts[pid] += 1_000_000
        self.alive.add((self.boot, pid))

    def kill(self, session: Session) -> None:
        """Kill the process that *session* lives in."""
        self.alive.discard((self.boot, session.holder.pid))


class FakeMachine:
    """A `Machine` on a `World`."""

    def __init__(self, world: World, pid: int) -> None:
        self._world, self._pid = world, pid
        world.alive.add((world.boot, pid))
        world.starts[pid] = pid

    def now(self) -> Moment:
        return Moment(self._world.wall, self._world.ticks, self._world.boot)

    def host(self) -> str:
        return "rig"

    def pid(self) -> int:
        return self._pid

    def proof(self, pid: int | None = None) -> Proof:
        of = self._pid if pid is None else pid
        return Proof(self._world.boot, "pid:[1]", "time:[1]", self._world.starts.get(of))

    def programs_above(self, pid: int) -> list[Program]:
        return []

    def peers(self, fd: int) -> list[Holder]:
        return []

    def watch_exit(self, holder: Holder) -> None:
        return None

    def provably_dead(self, holder: Holder) -> bool:
        if holder.proof.boot != self._world.boot:
            return False
        recycled = self._world.starts.get(holder.pid) != holder.proof.start
        return recycled or (self._world.boot, holder.pid) not in self._world.alive
