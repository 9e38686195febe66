"""Processes that share keys or have slots of them, beside others that want them alone, and faults of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mcp_claims.model import expiry
from mcp_claims.model.records import ALONE, SHARED, Claim, Mode, Moment, Outcome, ScopedKey, Use
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from mcp_claims.session.wait_queue import WaitQueue
from mcp_claims.stores.base import LOCK_TIMEOUT, Blocks, Change, GivesWay, Swaps
from mcp_claims.stores.files.store import FileStore
from tests.explorer.files import DIRECTORY, FILE, OTHER_FILE
from tests.explorer.process import KEY, TTL, Process, Script, ViolationError
from tests.explorer.schedules import Run, Scenario
from tests.explorer.waiting import Overtakes, with_queue

BLUE = ScopedKey(KEY.namespace, "blue")
SLOTS, MORE_SLOTS = Use(Mode.SLOT, 2), Use(Mode.SLOT, 3)
LONG = 600.0  # minutes: a claim that does not end by itself


def does(*steps: Script) -> Script:
    """Do one step after the other."""

    def script(process: Process) -> None:
        for step in steps:
            step(process)

    return script


def claims(use: Use, *keys: ScopedKey, ttl: float = TTL) -> Script:
    def script(process: Process) -> None:
        first, *others = keys or (KEY,)
        process.try_claim(first, ttl=ttl, also=tuple(others), use=use)

    return script


def chooses(*keys: ScopedKey) -> Script:
    def script(process: Process) -> None:
        process.try_claim(keys[0], or_else=keys[1:])

    return script


def releases(scoped: ScopedKey = KEY, outcome: Outcome | None = None) -> Script:
    return lambda process: process.release(outcome, scoped)


def releases_all(process: Process) -> None:
    for base in sorted({key.base for key in process.granted}) or [KEY]:
        process.release(scoped=base)


def works(use: Use, *keys: ScopedKey) -> Script:
    return does(claims(use, *keys), releases(keys[-1] if keys else KEY))


def waits(use: Use, *keys: ScopedKey) -> Script:
    """Wait as an agent does, which takes its turn by a second call."""

    def script(process: Process) -> None:
        first, *others = keys or (KEY,)
        attempt = process.wait(first, also=tuple(others), use=use)
        if attempt is not None and attempt.status is Status.YOUR_TURN:
            process.try_claim(first, also=tuple(others), use=use)
        process.release(scoped=first)

    return script


def waits_for_any(*keys: ScopedKey) -> Script:
    def script(process: Process) -> None:
        attempt = process.wait(keys[0], or_else=keys[1:])
        if attempt is not None and attempt.status is Status.YOUR_TURN:
            process.try_claim(keys[0], or_else=keys[1:])
        releases_all(process)

    return script


def has_room(process: Process) -> None:
    """Claim a slot where no others than this process and one more want the two that there are."""
    attempt = process.try_claim(use=SLOTS)
    if attempt is not None and not attempt.claimed:
        raise ViolationError(process.run.describe(f"P{process.number} was refused although a slot is free"))


def takes(use: Use) -> Script:
    """Wait as a command does, whose caller is there when the turn comes."""
    return does(lambda process: process.wait(use=use, reserve=False, keeps_place=False) and None, releases())


def forgets(use: Use) -> Script:
    """Wait, and never hear the answer."""
    return lambda process: process.wait(use=use) and None


def late(process: Process) -> None:
    process.let_others_go_first()


def time_passes(seconds: float) -> Script:
    return lambda process: process.run.world.pass_time(seconds)


def hands_over(use: Use, *keys: ScopedKey, outcome: Outcome | None = None) -> Script:
    """Hold the key until all others wait, and longer than a stranger may overtake them."""
    return does(claims(use, *keys), late, time_passes(2), releases(keys[0] if keys else KEY, outcome))


def stays(use: Use) -> Script:
    """Hold the key while the others come and go."""
    return does(claims(use, ttl=LONG), late, late, releases())


def renews(scoped: ScopedKey = KEY) -> Script:
    return lambda process: process.renew(scoped)


def revokes(scoped: ScopedKey = KEY) -> Script:
    return lambda process: process.revoke(scoped)


def prunes(process: Process) -> None:
    process.prune()


def inspects(process: Process) -> None:
    process.inspect()


def warm(run: Run, *keys: ScopedKey) -> None:
    """Let the namespaces exist, so that schedules are not spent on making directories."""
    first = Process(run, 0, None)
    for key in keys or (KEY,):
        first.try_claim(key)
        first.release(scoped=key)
    run.processes.append(first)


def expired_beside(other: Script) -> Callable[[Run], None]:
    """Let the time of one be up who shares the key, and now renews its claim, while the *other* acts first."""

    def before(run: Run) -> None:
        warm(run)
        run.processes += [Process(run, 1, other), late_one := Process(run, 2, renews())]
        late_one.try_claim(use=SHARED)
        run.world.pass_time(TTL * 60 + 1)

    return before


def warm_files(run: Run) -> None:
    """Do the same where files have their claims."""
    warm(run, FILE)


def left_behind(use: Use) -> Callable[[Run], None]:
    """Let one die who has the key, and the time of another one be up."""

    def before(run: Run) -> None:
        warm(run)
        late_one, dead = Process(run, 1, None), Process(run, 2, None)
        dead.try_claim(use=use, ttl=LONG, note="half done")
        late_one.try_claim(use=use)
        run.world.pass_time(TTL * 60 + 1)
        dead.kill()
        run.processes += [late_one, dead]

    return before


SHARES, HAS_SLOT, HAS_ALONE = works(SHARED), works(SLOTS), works(ALONE)
COMES_LATE = does(late, SHARES)
RETURNS = does(HAS_SLOT, HAS_SLOT)
UPGRADES = does(claims(SHARED), claims(ALONE), releases())
DOWNGRADES = does(claims(ALONE), claims(SHARED), releases())
EXPIRES_AND_RENEWS = does(claims(SHARED), time_passes(TTL * 60 + 1), renews())
STAYS_WITH_OTHERS = does(claims(SHARED), late, time_passes(2), late, releases())
SHARES_BOTH = does(claims(SHARED, KEY, BLUE), renews(BLUE), releases())

SEVERAL = [
    Scenario("three want two slots", (HAS_SLOT, HAS_SLOT, HAS_SLOT), warm),
    Scenario("three want two slots in an empty directory", (HAS_SLOT, HAS_SLOT, claims(SLOTS))),
    Scenario("two have room in two slots", (does(has_room, releases(), has_room), has_room), warm),
    Scenario("nobody can prove who in a slot is dead", (RETURNS, HAS_SLOT, HAS_SLOT), warm, proves_death=False),
    Scenario("slots are given back and taken again", (RETURNS, RETURNS, claims(SLOTS)), warm),
    Scenario("two want a slot, one all of it", (HAS_SLOT, claims(SLOTS), HAS_ALONE), warm),
    Scenario("slots of two numbers", (HAS_SLOT, works(MORE_SLOTS), claims(SLOTS)), warm),
    Scenario("slots of the dead are taken", (HAS_SLOT, HAS_SLOT, HAS_SLOT), left_behind(SLOTS)),
    Scenario("two wait for a slot", (hands_over(SLOTS), stays(SLOTS), waits(SLOTS), waits(SLOTS)), warm),
    Scenario("two slots become free at once", (hands_over(SLOTS), hands_over(SLOTS), waits(SLOTS), waits(SLOTS)), warm),
    Scenario("a stranger meets one who waits for a slot", (hands_over(SLOTS), HAS_SLOT, waits(SLOTS), RETURNS), warm),
    Scenario("a turn in a slot lapses", (hands_over(SLOTS), stays(SLOTS), forgets(SLOTS), waits(SLOTS)), warm),
    Scenario("commands wait for a slot", (hands_over(SLOTS), stays(SLOTS), takes(SLOTS), takes(SLOTS)), warm),
    Scenario("one waits for a slot, one for all", (hands_over(SLOTS), waits(ALONE), waits(SLOTS)), warm),
    Scenario("two share what one wants alone", (SHARES, claims(SHARED), HAS_ALONE), warm),
    Scenario("one shares and one wants a slot", (SHARES, HAS_SLOT, does(SHARES, HAS_SLOT)), warm),
    Scenario("some who shared are dead", (SHARES, HAS_ALONE, prunes), left_behind(SHARED)),
    Scenario("one waits while others share", (STAYS_WITH_OTHERS, waits(ALONE), COMES_LATE, COMES_LATE), warm),
    Scenario("two wait to share what one has alone", (hands_over(ALONE), waits(SHARED), waits(SHARED), SHARES), warm),
    Scenario("all wait, to share and alone", (hands_over(ALONE), waits(SHARED), waits(ALONE), waits(SHARED)), warm),
    Scenario("a turn to share lapses", (hands_over(ALONE), forgets(SHARED), waits(ALONE), COMES_LATE), warm),
    Scenario("one that shares takes all while one joins", (UPGRADES, SHARES), warm),
    Scenario("two that share take all", (UPGRADES, UPGRADES, HAS_ALONE), warm),
    Scenario("one takes all that is looked at", (UPGRADES, does(inspects, inspects), prunes), warm),
    Scenario("one begins to share what one wants alone", (DOWNGRADES, HAS_ALONE, SHARES), warm),
    Scenario("one gives up all and takes it back", (does(DOWNGRADES, UPGRADES), DOWNGRADES), warm),
    Scenario(
        "one begins to share while two wait",
        (does(claims(ALONE), late, time_passes(2), claims(SHARED), releases()), waits(SHARED), waits(ALONE)),
        warm,
    ),
    Scenario(
        "shared sets beside one alone",
        (works(SHARED, KEY, BLUE), works(SHARED, BLUE, KEY), works(ALONE, BLUE, KEY)),
        warm,
    ),
    Scenario("a shared set beside its keys", (SHARES_BOTH, HAS_ALONE, works(SHARED, BLUE)), warm),
    Scenario("a shared set is revoked and pruned", (SHARES_BOTH, does(revokes(), prunes), works(ALONE, BLUE)), warm),
    Scenario(
        "a shared set waits for one alone",
        (hands_over(ALONE, KEY, BLUE), waits(SHARED, KEY, BLUE), waits(ALONE, BLUE)),
        warm,
    ),
    Scenario(
        "a shared file in a directory",
        (works(SHARED, FILE), works(SHARED, DIRECTORY), works(ALONE, DIRECTORY)),
        warm_files,
    ),
    Scenario(
        "two shared files in a directory",
        (works(SHARED, FILE, OTHER_FILE), works(ALONE, DIRECTORY), works(SHARED, OTHER_FILE)),
        warm_files,
    ),
    Scenario(
        "a directory waits for shared files",
        (hands_over(SHARED, FILE), waits(ALONE, DIRECTORY), does(late, works(SHARED, OTHER_FILE))),
        warm_files,
    ),
    Scenario(
        "slots of a file in a directory", (works(SLOTS, FILE), works(SLOTS, FILE), works(SHARED, DIRECTORY)), warm_files
    ),
    Scenario(
        "a list beside a set",
        (does(chooses(KEY, BLUE), releases_all), works(ALONE, BLUE, KEY), does(chooses(BLUE, KEY), releases_all)),
        warm,
    ),
    Scenario(
        "a list beside a shared set", (does(chooses(KEY, BLUE), releases_all), works(SHARED, BLUE, KEY), HAS_SLOT), warm
    ),
    Scenario(
        "a list and a set wait", (hands_over(ALONE, KEY, BLUE), waits_for_any(KEY, BLUE), waits(ALONE, BLUE, KEY)), warm
    ),
    Scenario(
        "a list waits for what is shared",
        (hands_over(SHARED), works(SHARED, BLUE), waits_for_any(BLUE, KEY), COMES_LATE),
        warm,
    ),
    Scenario("one revokes and prunes while two share", (SHARES, SHARES, does(revokes(), inspects), prunes), warm),
    Scenario(
        "one revokes while slots are taken",
        (RETURNS, HAS_SLOT, does(revokes(), HAS_SLOT), inspects),
        left_behind(SLOTS),
    ),
    Scenario("one renews late while another sweeps", (prunes,), expired_beside(HAS_ALONE)),
    Scenario("one renews late while others join", (EXPIRES_AND_RENEWS, SHARES, SHARES), left_behind(SHARED)),
    Scenario(
        "outcomes of several",
        (
            does(claims(SLOTS), releases(outcome=Outcome.DONE)),
            does(claims(SLOTS), releases(outcome=Outcome.FAILED)),
            HAS_ALONE,
            HAS_SLOT,
        ),
        warm,
    ),
]


class _Changes(FileStore):
    """A file store that makes other changes than it is asked for."""

    def swap_all(
        self,
        changes: Sequence[Change],
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swaps:
        made = [each for each in map(self._planted, changes) if each is not None]
        return super().swap_all(made, lock_timeout=lock_timeout, gives_way=gives_way, blocks=blocks)

    def _planted(self, change: Change) -> Change | None:
        raise NotImplementedError

    def _without_compare(self, change: Change) -> Change:
        """Return *change*, whatever is stored."""
        found = self.read(change.scoped)
        return change._replace(old=found) if isinstance(found, Claim) or found is None else change


class CountsWithoutTheLock(_Changes):
    """The head is what it was before the lock, with one more or one less."""

    def _planted(self, change: Change) -> Change | None:
        is_head = any(each is not None and each.members for each in (change.old, change.new))
        return self._without_compare(change) if is_head else change


class ListsNoJoiner(_Changes):
    """Whoever comes to a key that others have does not change its head."""

    def _planted(self, change: Change) -> Change | None:
        old, new = change.old, change.new
        return None if old and new and old.members and len(new.members) > len(old.members) else change


class LastOneRemovesTheHead(_Changes):
    """The last one to leave does not see that another one has come."""

    def _planted(self, change: Change) -> Change | None:
        old, new = change.old, change.new
        leaves_none = old is not None and old.members and (new is None or new.ended is not None)
        return self._without_compare(change) if leaves_none else change


class SweepsTheLiving(_Changes):
    """What was found dead is removed, although it has been renewed since."""

    def _planted(self, change: Change) -> Change | None:
        is_swept = change.scoped.member is not None and change.new is None
        return self._without_compare(change) if is_swept else change


class LooksAtNoMembers(Session):
    """One that wants a key alone takes it from those who share it."""

    def _try_alone(self, request: ClaimRequest, head: Claim, lock_timeout: float, now: Moment) -> ClaimResult | None:
        new = expiry.granted(request, self.holder, now, self.maker)
        swap = self._store.swap(head.scoped, head, new, lock_timeout=lock_timeout)
        if not swap.won or not isinstance(swap.found, Claim):
            return None
        self._record(swap.found)
        return ClaimResult(Status.ACQUIRED, swap.found, now)


SEVERAL_FAULTS: dict[str, tuple[type[Session | FileStore | WaitQueue], str]] = {
    "slots are counted without the lock": (CountsWithoutTheLock, "two want a slot, one all of it"),
    "a joiner is not listed": (ListsNoJoiner, "two share what one wants alone"),
    "the last one removes the head": (LastOneRemovesTheHead, "two share what one wants alone"),
    "a sweep drops the living": (SweepsTheLiving, "one renews late while another sweeps"),
    "alone looks at no members": (LooksAtNoMembers, "two share what one wants alone"),
    "those who share overtake": (Overtakes, "one waits while others share"),
}
"""What is planted, and the scenario in which it has to be found."""


def planted(fault: str) -> Scenario:
    """Return the scenario with *fault*."""
    what, name = SEVERAL_FAULTS[fault]
    scenario = next(each for each in SEVERAL if each.name == name)
    scenario = replace(scenario, name=f"{fault}: {name}", planted=True)
    if issubclass(what, FileStore):
        return replace(scenario, make_store=lambda fs: what("/claims", fs=fs))
    return replace(scenario, make_claims=with_queue(what) if issubclass(what, WaitQueue) else what)
