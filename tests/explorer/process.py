"""A process on the simulated system: what it does, what it was granted, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from greenlet import greenlet

from mcp_claims.errors import ClaimsError, StoreBusyError
from mcp_claims.model.codec import RecordError, from_json
from mcp_claims.model.keys import PLACES
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import ALONE, SHARED, Claim, Holder, Mode, Outcome, Proof, ScopedKey, Ticket, Use
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.results import ClaimResult, Inspection, ReleaseResult, Status
from tests.explorer.simulated import Inode, Killed
from tests.support.machines import FakeMachine

if TYPE_CHECKING:
    from tests.explorer.schedules import Run

KEY = ScopedKey("default", "red")
ALL_FILES = ScopedKey(PLACES, "file:/")
TTL = 1.0  # minutes
RETENTION = 24 * 3_600.0  # s
RECORD = "/claims/default/red.json"
WAIT = 300.0  # s
POLL = 11.0  # s: longer than the longest time that anybody sleeps
MAX_ATTEMPTS = 12
OVERTAKEN = timedelta(seconds=1)


class ViolationError(AssertionError):
    """A property does not hold; the trace says how it came to that."""


Script = Callable[["Process"], None]


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
        proof = self.machine.proof() if run.scenario.proves_death else Proof()
        holder = Holder(name, self.machine.pid(), proof)
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
        self.seen_at = self.machine.now()
        """The tickets that were there when the present call began, and when that was."""
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

    def acts_on(self) -> list[Claim]:
        """Return what the process acts on: its grants that it has not begun to release, and that have time left.

        And what is kept for it, as it was told, so that nobody else may act.
        """
        grants = [*self.granted.values(), *([] if self.turn is None else [self.turn])]
        return [
            each
            for each in grants
            if self.alive
            and each.expires.ticks > self.run.world.ticks
            and (each.scoped.base, each.generation) not in self.run.revoked
        ]

    def try_claim(
        self,
        scoped: ScopedKey = KEY,
        *,
        ttl: float = TTL,
        note: str | None = None,
        redo: bool = False,
        also: tuple[ScopedKey, ...] = (),
        or_else: tuple[ScopedKey, ...] = (),
        use: Use = ALONE,
    ) -> ClaimResult | None:
        request = ClaimRequest.parse(scoped.key, scoped.namespace, ttl_minutes=ttl, note=note, redo=redo)
        request = request._replace(also=also, or_else=or_else, use=use)
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
        also: tuple[ScopedKey, ...] = (),
        or_else: tuple[ScopedKey, ...] = (),
        use: Use = ALONE,
    ) -> ClaimResult | None:
        """Wait as `acquire` does.  With *reserve* the first attempt claims the key, later ones reserve it."""
        request = ClaimRequest.parse(scoped.key, scoped.namespace, ttl_minutes=ttl)
        request = request._replace(also=also, or_else=or_else, use=use)
        attempt = self._try(request)
        if attempt is None or attempt.status is not Status.HELD:
            return attempt
        others, any_of_them = request.keys[1:], bool(or_else)
        self.wants |= {*request.keys}
        self.claims.queue.join(scoped, WAIT, others, any_of_them=any_of_them, use=use)
        self.listens = True
        for _ in range(attempts):
            began = self.run.news
            attempt = self._try(request, reserve=reserve)
            if attempt is None or attempt.status is not Status.HELD or attempt.blocked_by_own:
                break
            if cycle := self.claims.queue.find_cycle(scoped):
                self.run.refused_for_a_cycle(self, cycle)
                attempt = attempt._replace(cycle=cycle)
                break
            if not self.claims.queue.place(scoped).has_ticket:
                self.claims.queue.rejoin(scoped, WAIT, others, any_of_them=any_of_them, use=use)
            self.sleep(began)
        self.listens = False
        waits_on = attempt is not None and attempt.status in (Status.HELD, Status.YOUR_TURN)
        waits_on = waits_on and attempt is not None and not (attempt.cycle or attempt.blocked_by_own)
        self.claims.end_wait(scoped, keeps_place=keeps_place and waits_on)
        if not (keeps_place and waits_on):
            self.wants -= {*request.keys}
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
        self._begin_to_share(request)
        try:
            attempt = self.claims.try_request(request, reserve=reserve)
        except ClaimsError as error:
            self.run.refused(error)
            return None
        self._forget(scoped)
        if isinstance(attempt.found, Claim) and attempt.status is Status.YOUR_TURN:
            self.turn = attempt.found
        elif isinstance(attempt.found, Claim) and attempt.claimed:
            grants = [attempt.found, *(grant for grant, _ in attempt.grants)]
            if attempt.status is Status.ACQUIRED and request.also and request.use is not ALONE:
                self.run.granted_all(self, request, grants)
            for grant in grants:
                self.granted[grant.scoped] = grant
                self.wants -= {*request.keys} if request.or_else else {grant.scoped.base}
                self.run.granted(self, grant, redo=request.redo)
            for key in attempt.found.group:
                if key in self.granted:
                    self.granted[key] = self.granted[key]._replace(expires=attempt.found.expires)
            self.run.told(attempt.found, attempt.taken_over and attempt.taken_over.found)
            self.fs.act()
        return attempt

    def release(self, outcome: Outcome | None = None, scoped: ScopedKey = KEY) -> None:
        ours, self.turn = self._forget(scoped), None
        for key in () if ours is None else ours.group:
            self.granted.pop(key, None)
        released = self._do(lambda: self.claims.release(scoped.key, scoped.namespace, outcome=outcome))
        self.wants.discard(scoped)
        # Work on what several may have is never done.
        alone = ours is not None and ours.scoped.member is None
        if outcome is Outcome.DONE and isinstance(released, ReleaseResult) and released.released and alone:
            self.run.done_until = self.run.world.ticks + RETENTION

    def close(self) -> None:
        self.granted.clear()
        self.turn = None
        self._do(self.claims.close)
        self.wants.clear()

    def prune(self) -> None:
        self._do(self.claims.prune)

    def inspect(self) -> None:
        held, began = self.run.held(), self.run.world.ticks
        inspection = self._do(lambda: self.claims.inspect(KEY.key, KEY.namespace))
        is_free = isinstance(inspection, Inspection) and (inspection.found is None or inspection.marker is not None)
        if is_free and began == self.run.world.ticks and held & self.run.held():
            raise ViolationError(self.run.describe(f"P{self.number} found a key free that was held throughout"))
        if isinstance(inspection, Inspection):
            self.run.looked(inspection.found)

    def renew(self, scoped: ScopedKey = KEY) -> None:
        """Renew as keep-alive does, which never claims anew."""
        grant = next((each for key, each in self.granted.items() if key.base == scoped), None)
        if grant is None:
            return
        try:
            renewed = self.claims.renew(grant, timedelta(minutes=TTL))
        except StoreBusyError:
            return  # It does not wait for the lock: keep-alive comes again.
        self._forget(scoped)
        if isinstance(renewed, Claim):
            self.granted[renewed.scoped] = renewed
            self.run.granted(self, renewed, redo=False)
            self.fs.act()

    def revoke(self, scoped: ScopedKey = KEY) -> None:
        """Revoke the first claim that others have on a key; from now on its holder is not believed."""
        found = [each.found for each in self.claims.read(scoped.key, scoped.namespace).claims]
        others = (each for each in found if isinstance(each, Claim) and each.ended is None)
        revoked = next(
            (each for each in others if not is_same_session(each.holder.name, self.claims.holder.name)), None
        )
        if revoked is not None:
            self.run.revoked.add((scoped, revoked.generation))
            self._do(lambda: self.claims.revoke(revoked))

    def _begin_to_share(self, request: ClaimRequest) -> None:
        """Act on a key as one of several from the moment on at which this process asks to share it."""
        alone = self.granted.get(request.scoped)
        if alone is not None and request.use is SHARED:
            self.granted[request.scoped] = alone._replace(scoped=alone.scoped.place("begun"), mode=Mode.SHARED)

    def _forget(self, scoped: ScopedKey) -> Claim | None:
        """Act no more on a key, in whatever place; return what was granted."""
        ours = [key for key, each in self.granted.items() if scoped in (key, each.scoped.base)]
        return [self.granted.pop(key) for key in ours][-1] if ours else None

    def _look(self, scoped: ScopedKey = KEY) -> None:
        self.seen, self.seen_at = self.run.tickets(scoped.namespace), self.machine.now()
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
