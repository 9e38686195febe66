"""Scenarios with tickets, reservations and cycles of those who wait, and the faults that are planted in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mcp_claims.liveness import Machine
from mcp_claims.model.expiry import ClaimState, has_passed
from mcp_claims.model.records import Claim, Found, Holder, Mode, Moment, Outcome, ScopedKey, Ticket
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.session.wait_queue import WaitQueue
from mcp_claims.stores.base import Store, TicketChange
from mcp_claims.stores.files.store import FileStore
from tests.explorer.process import KEY, Process, Script, ViolationError
from tests.explorer.schedules import Run, Scenario

LONG = 600.0  # minutes: no claim of a cycle ends by itself


def hands_over(outcome: Outcome | None = None) -> Script:
    """Hold the key until all others wait, and longer than a stranger may overtake them."""

    def script(process: Process) -> None:
        process.try_claim()
        process.let_others_go_first()
        process.run.world.pass_time(2)
        process.release(outcome)

    return script


def waits(process: Process) -> None:
    attempt = process.wait()
    if attempt is not None and attempt.status is Status.YOUR_TURN:
        process.try_claim()
    process.release()


def forgets(process: Process) -> None:
    """Wait, and never hear the answer."""
    process.wait()


def returns(process: Process) -> None:
    """Wait, let the turn lapse, and wait again."""
    process.wait()
    process.let_others_go_first()
    process.turn = None
    waits(process)


def declines(process: Process) -> None:
    process.wait()
    process.release()


def leaves(process: Process) -> None:
    """Wait as a command does that is interrupted: it keeps no place."""
    process.wait(keeps_place=False, attempts=1)
    process.release()


def takes(process: Process) -> None:
    """Wait as a command does, whose caller is there when the turn comes."""
    process.wait(reserve=False, keeps_place=False)
    process.release()


def dies(process: Process) -> None:
    process.wait()
    process.kill()


def ends(process: Process) -> None:
    process.wait()
    process.close()


def comes_late(process: Process) -> None:
    process.let_others_go_first()
    process.try_claim()
    process.release()


def comes_when_free(process: Process) -> None:
    process.sleep(process.run.news)
    process.try_claim()
    process.release()


def does_again(process: Process) -> None:
    process.let_others_go_first()
    process.run.done_until = 0.0  # From now on the work may be claimed by others too, should this process die.
    process.try_claim(redo=True)
    process.release(Outcome.DONE)


def looks_and_prunes(process: Process) -> None:
    process.let_others_go_first()
    process.inspect()
    process.prune()


def in_ring(number: int, size: int, *, of: int | None = None, namespaces: bool = False) -> Script:
    """Hold a key and wait for the next one, of *size* keys in all, the first of them after the last."""

    def key(place: int) -> ScopedKey:
        return ScopedKey(f"ring-{place}" if namespaces else KEY.namespace, f"key-{place}")

    own, following = key(number), key((number + 1) % (of or size))

    def script(process: Process) -> None:
        process.try_claim(own, ttl=LONG)
        process.let_others_go_first()
        attempt = process.wait(following, ttl=LONG)
        if attempt is not None and attempt.status is Status.YOUR_TURN:
            process.try_claim(following, ttl=LONG)
        elif attempt is not None and attempt.status is Status.HELD and not attempt.cycle:
            raise ViolationError(process.run.describe(f"P{process.number} waits for ever"))
        process.release(scoped=following)
        process.release(scoped=own)

    return script


def warm(run: Run) -> None:
    """Let the namespace exist, so that schedules are not spent on making directories."""
    first = Process(run, 0, None)
    first.try_claim()
    first.release()
    run.processes.append(first)


WAITING = [
    Scenario("two wait", (hands_over(), waits, waits), warm),
    Scenario("three wait", (hands_over(), waits, waits, waits), warm),
    Scenario("a stranger meets two who wait", (hands_over(), waits, comes_late, waits), warm),
    Scenario("an answer is lost", (hands_over(), forgets, waits, comes_late), warm),
    Scenario("two answers are lost", (hands_over(), forgets, forgets, comes_late), warm),
    Scenario("one declines", (hands_over(), declines, waits), warm),
    Scenario("one leaves while a stranger comes", (hands_over(), comes_when_free, leaves), warm),
    Scenario("one dies when its turn has come", (hands_over(), dies, comes_late), warm),
    Scenario("one ends while another waits", (hands_over(), ends, waits, comes_late), warm),
    Scenario("one lets its turn lapse and returns", (hands_over(), returns, waits, comes_late), warm),
    Scenario("commands wait", (hands_over(), takes, takes, comes_late), warm),
    Scenario("a command waits behind a lost answer", (hands_over(), forgets, takes), warm),
    Scenario("the work is done while two wait", (hands_over(Outcome.DONE), waits, takes, does_again), warm),
    Scenario("the work failed while two wait", (hands_over(Outcome.FAILED), forgets, waits, looks_and_prunes), warm),
    Scenario("a lapsed turn is looked at and pruned", (hands_over(), forgets, looks_and_prunes, comes_late), warm),
    Scenario("nobody waited before", (hands_over(), waits, comes_late)),
    Scenario("two wait for each other", (in_ring(0, 2), in_ring(1, 2))),
    Scenario("three wait for each other", (in_ring(0, 3), in_ring(1, 3), in_ring(2, 3))),
    Scenario("three wait in three namespaces", tuple(in_ring(each, 3, namespaces=True) for each in range(3))),
    Scenario("three wait in a row that ends", (in_ring(0, 4), in_ring(1, 4), in_ring(2, 4))),
    Scenario("one waits for a cycle of two", (in_ring(0, 2), in_ring(1, 2), in_ring(2, 3, of=2 + 1))),
]


class Overtakes(WaitQueue):
    """Nobody looks at the tickets of others."""

    def _first_before(self, *_: object) -> None:
        return None


class LooksForNoCycle(WaitQueue):
    def find_cycle(self, scoped: ScopedKey, found: tuple[Ticket, ...] | None = None) -> tuple[Claim, ...]:
        return ()


class GivesWayToAnybody(WaitQueue):
    """Each wait in a cycle is refused, not one of them."""

    def find_cycle(self, scoped: ScopedKey, found: tuple[Ticket, ...] | None = None) -> tuple[Claim, ...]:
        held = self._store.read(scoped)
        return (held, held) if isinstance(held, Claim) else ()


class DoesNotLookAgain(WaitQueue):
    """Does not see that a waiter has left before the key was reserved for it."""

    def wake(self, ticket: Ticket) -> bool:
        super().wake(ticket)
        return True

    def has_left(self, ticket: Ticket, found: tuple[Ticket, ...]) -> bool:
        return False


def with_queue(queue: type[WaitQueue]) -> type[Session]:
    class Planted(Session):
        def __init__(self, store: Store, holder: Holder, machine: Machine) -> None:
            super().__init__(store, holder, machine)
            self.queue = queue(store, machine, lambda: self.holder)

    return Planted


class KeepsLapsedReservations(Session):
    def _state_of(self, found: Found, now: Moment) -> ClaimState:
        return _reserved(found, super()._state_of(found, now))


class KeepsReservationsOfTheDead(Session):
    def _state_of(self, found: Found, now: Moment) -> ClaimState:
        state = super()._state_of(found, now)
        lapsed = isinstance(found, Claim) and has_passed(found.expires, now)
        return state if lapsed else _reserved(found, state)


def _reserved(found: Found, state: ClaimState) -> ClaimState:
    return ClaimState.RESERVED if isinstance(found, Claim) and found.mode is Mode.RESERVED else state


class HoldsWhatIsReserved(Session):
    """A reservation counts as a claim of the session that it is for."""

    def _holds(self, found: Found, scoped: ScopedKey) -> bool:
        return super()._holds(found._replace(mode=Mode.ALONE) if isinstance(found, Claim) else found, scoped)


class StaysAfterADecline(Session):
    """Declines without giving up the place, so the key is reserved for it again."""

    def _decline(self, scoped: ScopedKey, found: Found, lock_timeout: float) -> bool:
        if not isinstance(found, Claim) or not self._is_for_us(found, scoped, self._machine.now()):
            return False
        return self._store.swap(found.scoped, found, found.replaced, lock_timeout=lock_timeout).won


class NotesNoLapse(FileStore):
    """Who lets a turn lapse keeps the place."""

    def change_tickets(
        self, target: ScopedKey | str, change: TicketChange, *, lock_timeout: float = 5.0
    ) -> tuple[Ticket, ...]:
        def but_lapses(found: tuple[Ticket, ...]) -> tuple[Ticket, ...]:
            after = change(found)
            return found if any(ticket.lapsed for ticket in after) else after

        return super().change_tickets(target, but_lapses, lock_timeout=lock_timeout)


class NumbersAnew(FileStore):
    """Each change puts the tickets into the order of their holders."""

    def change_tickets(
        self, target: ScopedKey | str, change: TicketChange, *, lock_timeout: float = 5.0
    ) -> tuple[Ticket, ...]:
        return super().change_tickets(
            target,
            lambda found: tuple(ticket._replace(number=0) for ticket in reversed(change(found))),
            lock_timeout=lock_timeout,
        )


def planted(fault: str) -> Iterator[Scenario]:
    """Yield the scenarios with *fault*."""
    what = WAITING_FAULTS[fault]
    for each in WAITING:
        scenario = replace(each, name=f"{fault}: {each.name}", planted=True)
        if issubclass(what, FileStore):
            yield replace(scenario, make_store=lambda fs: what("/claims", fs=fs))
        else:
            yield replace(scenario, make_claims=with_queue(what) if issubclass(what, WaitQueue) else what)


WAITING_FAULTS: dict[str, type[WaitQueue | Session | FileStore]] = {
    "waiters overtake": Overtakes,
    "no cycle is found": LooksForNoCycle,
    "every wait is a cycle": GivesWayToAnybody,
    "reserved for one that has left": DoesNotLookAgain,
    "lapsed reservation is kept": KeepsLapsedReservations,
    "reservation of the dead is kept": KeepsReservationsOfTheDead,
    "reservation counts as held": HoldsWhatIsReserved,
    "decline keeps the place": StaysAfterADecline,
    "lapse is not noted": NotesNoLapse,
    "tickets change their order": NumbersAnew,
}
