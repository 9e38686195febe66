"""A clock that passes when nobody works: bodies sleep on it, machines read it, and waits end by it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from math import floor

from greenlet import getcurrent, greenlet

from mcp_claims.model.records import Moment
from mcp_claims.session.acquire import Wakeup
from tests.support.machines import FakeMachine, World

_START = datetime(2026, 11, 30, tzinfo=UTC)
_SHORTEST = 1e-3  # s; a wait for what is left of a second after a rounding error would end before the clock moves


class Hub:
    """The virtual clock, and what is to happen when; a body is a greenlet."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._main = getcurrent()
        self._bodies: list[greenlet] = []

    def at(self, when: float, do: Callable[[], object]) -> None:
        """Call *do* at the time *when*."""
        heapq.heappush(self._due, (when, next(self._numbers), do))

    def start(self, body: Callable[[], object], when: float) -> None:
        """Let *body* begin at the time *when*."""
        self._bodies.append(greenlet(body, self._main))
        self.at(when, self._bodies[-1].switch)

    def sleep(self, seconds: float) -> None:
        """Let the present body go on after *seconds*."""
        self.at(self.now + seconds, getcurrent().switch)
        self._main.switch()

    def pause(self) -> None:
        """Let the present body go on when somebody switches to it."""
        self._main.switch()

    def run(self, until: float) -> None:
        """Let the time pass to *until*."""
        while self._due and self._due[0][0] <= until:
            self.now, _, do = heapq.heappop(self._due)
            do()

    def end(self) -> None:
        """End all bodies, which must not wait on their way out."""
        for body in self._bodies:
            body.throw()


class HubMachine(FakeMachine):
    """A process on a host; its clock is that of the hub."""

    def __init__(self, world: World, pid: int, hub: Hub) -> None:
        super().__init__(world, pid)
        self._hub, self._boot = hub, world.boot

    def now(self) -> Moment:
        # In whole milliseconds, as every machine: a claim that differs from its record counts as lost.
        wall = _START + timedelta(milliseconds=floor(1_000 * self._hub.now))
        return Moment(wall, 1_000.0 + self._hub.now, self._boot)


class HubWakeup(Wakeup):
    """Wakes a body that waits."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._is_set, self._waits = hub, False, 0
        self._waiting: greenlet | None = None
        self.stopped = False

    def set(self) -> None:
        self._is_set = True
        if self._waiting is not None:
            body, self._waiting = self._waiting, None
            self._hub.at(self._hub.now, body.switch)

    def wait(self, seconds: float, *_: object) -> bool:
        if not self._is_set:
            self._waits += 1
            self._waiting = getcurrent()
            self._hub.at(self._hub.now + max(seconds, _SHORTEST), partial(self._time_out, self._waits))
            self._hub.pause()
        woken, self._is_set = self._is_set, False
        return woken

    def close(self) -> None:
        self._waiting = None

    def _time_out(self, wait: int) -> None:
        if wait == self._waits and self._waiting is not None:
            body, self._waiting = self._waiting, None
            body.switch()
