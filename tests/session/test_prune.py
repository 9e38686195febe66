"""`prune` removes what is dead, keeps what lives, and counts both."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcp_claims.errors import InvalidInputError, StoreBusyError, StoreUnavailableError
from mcp_claims.model.records import Claim, Unreadable
from mcp_claims.session.results import PruneResult
from mcp_claims.stores.base import Store
from tests.session.bench import DAY, HALF_AN_HOUR, KEY, Bench, granted
from tests.session.faulty import Busy, Failing, Overtaken
from tests.support.interrupting import DelegatingStore, Interrupting


def expired(bench: Bench, key: str, namespace: str = "default") -> Claim:
    claim = granted(bench.session(), key, namespace, ttl_minutes=1)
    bench.world.pass_time(60)
    return claim


def orphaned(bench: Bench, key: str, namespace: str = "default") -> Claim:
    holder = bench.session()
    claim = granted(holder, key, namespace)
    bench.world.kill(holder)
    return claim


def damaged(bench: Bench, key: str, namespace: str = "default") -> Unreadable:
    bench.damage(key, namespace)
    found = next(found for found in bench.store.scan(namespace) if isinstance(found, Unreadable))
    assert found.where == bench.place(key, namespace)
    return found


def keys(store: Store) -> list[str]:
    return [found.scoped.key for found in store.scan() if isinstance(found, Claim)]


def test_pruning_nothing_counts_nothing_and_creates_nothing(bench: Bench) -> None:
    before = bench.contents()
    assert bench.session().prune() == PruneResult(0, 0, 0, 0, (), ())
    assert bench.contents() == before


def test_prune_counts_what_it_removed_by_cause_and_what_lives(bench: Bench) -> None:
    bench.damage("ancient")
    bench.world.pass_time(DAY)
    for number in range(3):
        expired(bench, f"expired {number}")
    for number in range(2):
        orphaned(bench, f"orphaned {number}", "another")
    session = bench.session()
    granted(session, "own")
    for number in range(4):
        granted(bench.session(), f"live {number}", "another")
    assert session.prune() == PruneResult(expired=3, orphaned=2, unreadable=1, live=5, kept_unreadable=(), failed=())
    assert sorted(keys(bench.store)) == ["live 0", "live 1", "live 2", "live 3", "own"]
    assert session.prune() == PruneResult(0, 0, 0, 5, (), ())


def test_prune_leaves_live_claims_as_they_are(bench: Bench) -> None:
    session = bench.session()
    live = [granted(session, "own"), granted(bench.session(), "other's")]
    bench.world.pass_time(HALF_AN_HOUR - 0.001)
    session.prune()
    assert list(bench.store.scan()) == sorted(live, key=lambda claim: claim.scoped)


def test_prune_removes_an_own_expired_claim_and_the_next_call_reports_it(bench: Bench) -> None:
    session = bench.session()
    mine = granted(session)
    bench.world.pass_time(HALF_AN_HOUR)
    assert session.prune().expired == 1
    assert session.inspect(KEY).lost == mine


def test_prune_stays_in_the_namespace_that_it_is_asked_for(bench: Bench) -> None:
    orphaned(bench, "here", "this")
    orphaned(bench, "there", "that")
    granted(bench.session(), "live there", "that")
    assert bench.session().prune("this") == PruneResult(0, 1, 0, 0, (), ())
    assert keys(bench.store) == ["live there", "there"]
    assert bench.session().prune("nowhere") == PruneResult(0, 0, 0, 0, (), ())
    assert bench.session().prune("that") == PruneResult(0, 1, 0, 1, (), ())


@pytest.mark.parametrize("namespace", ["", "a\nb", "x" * 1_025], ids=["empty", "line break", "too long"])
def test_a_bad_namespace_prunes_nothing(bench: Bench, namespace: str) -> None:
    orphaned(bench, KEY)
    before = bench.contents()
    with pytest.raises(InvalidInputError):
        bench.session().prune(namespace)
    assert bench.contents() == before


@pytest.mark.rule("C6")
@pytest.mark.parametrize("interrupted", [Overtaken, Interrupting], ids=["after the read", "before the removal"])
@pytest.mark.parametrize("die", [expired, orphaned])
def test_prune_keeps_what_was_taken_again_between_its_read_and_its_removal(
    bench: Bench,
    die: Callable[[Bench, str], Claim],
    interrupted: Callable[[Store, Callable[[], object]], Overtaken | Interrupting],
) -> None:
    dead = die(bench, KEY)
    rival = bench.session()
    store = interrupted(bench.store, lambda: rival.try_claim(KEY))
    assert bench.session(store).prune() == PruneResult(0, 0, 0, 0, (), ())
    assert store.ran == 1
    kept = bench.store.read(dead.scoped)
    assert isinstance(kept, Claim)
    assert kept.holder == rival.holder
    assert rival.inspect(KEY).held_by_you


def test_prune_keeps_an_expired_claim_that_its_holder_renews_meanwhile(bench: Bench) -> None:
    holder = bench.session()
    granted(holder)
    bench.world.pass_time(HALF_AN_HOUR)
    store = Interrupting(bench.store, lambda: holder.try_claim(KEY))
    assert bench.session(store).prune() == PruneResult(0, 0, 0, 0, (), ())
    assert store.ran == 1
    assert holder.inspect(KEY).held_by_you


def test_what_cannot_be_read_is_kept_and_reported_while_it_may_be_somebodys(bench: Bench) -> None:
    granted(bench.session())
    thing = damaged(bench, KEY)
    bench.world.pass_time(DAY)
    before = bench.contents()
    pruned = bench.session().prune()
    assert pruned == PruneResult(0, 0, 0, 0, kept_unreadable=(thing,), failed=())
    assert (pruned.kept_unreadable[0].where, bool(thing.problem)) == (bench.place(), True)
    assert bench.contents() == before


def test_an_unreadable_claim_is_pruned_once_it_is_older_than_any_ttl(bench: Bench) -> None:
    damaged(bench, KEY)
    bench.world.pass_time(DAY + 0.001)
    assert bench.session().prune() == PruneResult(0, 0, unreadable=1, live=0, kept_unreadable=(), failed=())
    assert list(bench.store.scan()) == []


def test_prune_keeps_an_old_unreadable_record_that_was_taken_over_meanwhile(bench: Bench) -> None:
    damaged(bench, KEY)
    bench.world.pass_time(DAY + 1)
    rival = bench.session()
    store = Interrupting(bench.store, lambda: rival.try_claim(KEY))
    assert bench.session(store).prune() == PruneResult(0, 0, 0, 0, (), ())
    assert store.ran == 1
    assert rival.inspect(KEY).held_by_you


@pytest.mark.rule("C6")
def test_a_claim_that_cannot_be_removed_does_not_keep_the_others(bench: Bench) -> None:
    for key in ("a", "b", "c"):
        orphaned(bench, key)
    pruned = bench.session(Failing(bench.store, {"a", "b"})).prune()
    assert (pruned.orphaned, pruned.live) == (1, 0)
    assert [type(error) for error in pruned.failed] == [StoreUnavailableError] * 2
    assert [error.where for error in pruned.failed] == ["a", "b"]
    assert keys(bench.store) == ["a", "b"]


def test_prune_waits_no_longer_in_all_than_it_may_however_many_claims_are_busy(bench: Bench) -> None:
    for number in range(20):
        orphaned(bench, f"key {number}", f"namespace {number % 4}")
    busy = Busy(bench.store)
    pruned = bench.session(busy).prune(lock_timeout=0.05)
    assert [type(error) for error in pruned.failed] == [StoreBusyError] * 20
    # Each change was tried, the first for all of the time and the others without any to spare.
    assert len(busy.waits) == 20
    assert sum(busy.waits) <= 0.05


class Meanwhile(DelegatingStore):
    """Lets *something* happen at each removal, so that what was alive when prune began is dead by its turn."""

    def __init__(self, store: Store, something: Callable[[], object]) -> None:
        super().__init__(store)
        self._something = something

    def discard(self, found: Claim | Unreadable, *, lock_timeout: float = 0) -> bool:
        self._something()
        return super().discard(found, lock_timeout=lock_timeout)


def test_each_claim_is_judged_by_what_is_the_case_when_its_turn_comes(bench: Bench) -> None:
    orphaned(bench, "a")
    holder = bench.session()
    granted(holder, "b")
    store = Meanwhile(bench.store, lambda: bench.world.kill(holder))
    assert bench.session(store).prune() == PruneResult(0, 2, 0, 0, (), ())


def test_each_claim_is_judged_by_the_time_at_which_its_turn_comes(bench: Bench) -> None:
    orphaned(bench, "a")
    granted(bench.session(), "b")
    store = Meanwhile(bench.store, lambda: bench.world.pass_time(HALF_AN_HOUR))
    assert bench.session(store).prune() == PruneResult(1, 1, 0, 0, (), ())
