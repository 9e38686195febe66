"""Keys that several hold, on etcd: within the limits of a transaction, after the end of a lease, and with unknown outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from math import inf
from threading import Thread
from typing import Any

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Mode, Outcome, ScopedKey
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session import heads
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ClaimResult, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Swaps
from mcp_claims.stores.etcd import store as etcd_store
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.lease import revoke_lease
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.etcd.txn import Transactions
from tests.support.etcd_keys import lease_of
from tests.support.machines import World
from tests.support.proxy import Proxy

PUT, DELETION = b"request_put", b"request_delete_range"
KEY = ScopedKey("default", "red")
MOST = 32


@pytest.fixture(params=["shared", "slots"])
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"shared": True} if request.param == "shared" else {"slots": 2}


def end_lease(store: EtcdStore) -> None:
    """Let the lease of *store*'s process end, as it does when its machine dies."""
    lease = store._connection().lease.current
    assert lease is not None
    revoke_lease(store._connection().gateway, lease.id, inf)


def claim_of(result: ClaimResult) -> Claim:
    assert result.claimed and isinstance(result.found, Claim), result
    return result.found


def head_of(store: EtcdStore, key: ScopedKey = KEY) -> Claim:
    found = store.read(key)
    assert isinstance(found, Claim) and found.members
    return found


@pytest.mark.rule("M1", "M2")
def test_a_key_is_shared_or_has_slots_and_nothing_is_left_of_it(direct: EtcdStore, config: EtcdConfig) -> None:
    first, second, third = (process_session(EtcdStore(config, local_machine())) for _ in range(3))
    claims = [claim_of(each.try_claim("red", shared=True)) for each in (first, second)]
    assert len({each.generation for each in claims}) == 2
    assert third.try_claim("red").status is Status.HELD
    assert first.release("red").released and third.try_claim("red").status is Status.HELD
    assert second.release("red").released
    assert list(direct.scan()) == []
    assert [claim_of(each.try_claim("red", slots=2)).slot for each in (first, second)] == [0, 1]
    assert third.try_claim("red", slots=2).status is Status.HELD
    assert first.release("red").released
    assert claim_of(third.try_claim("red", slots=2)).slot == 0
    for each in (second, third):
        assert each.release("red").released
    assert list(direct.scan()) == []


@pytest.mark.rule("M5")
def test_the_only_one_that_shares_a_key_has_it_alone_and_shares_it_again(direct: EtcdStore, config: EtcdConfig) -> None:
    session, other = process_session(direct), process_session(EtcdStore(config, local_machine()))
    shared = claim_of(session.try_claim("red", shared=True, note="reads"))
    alone = claim_of(session.try_claim("red", note="writes"))
    assert other.try_claim("red", shared=True).status is Status.HELD
    again = claim_of(session.try_claim("red", shared=True))
    assert shared.generation == alone.generation == again.generation
    claim_of(other.try_claim("red", shared=True))
    for each in (session, other):
        assert each.release("red").released
    assert list(direct.scan()) == []


@pytest.mark.rule("M3")
def test_those_who_come_and_go_leave_the_lease_of_the_head_as_it_is(direct: EtcdStore) -> None:
    first, second = process_session(direct), process_session(direct)
    claim_of(first.try_claim("red", shared=True))
    lease = lease_of(direct, KEY)
    for _ in range(2):
        claim_of(second.try_claim("red", shared=True))
        assert second.release("red").released
    assert lease_of(direct, KEY) == lease == head_of(direct).leased.lease  # type: ignore[union-attr]


def keys_of(kind: str) -> list[str]:
    return [f"{'file:/work/' if kind == 'files' else ''}{number}" for number in range(MOST)]


@pytest.mark.rule("E16", "M6")
@pytest.mark.parametrize("kind", ["files", "names"])
@pytest.mark.parametrize("before", ["free", "failed", "lost with its lease", "dead"])
def test_a_shared_group_of_32_keys_fits_into_a_transaction(config: EtcdConfig, kind: str, before: str) -> None:
    first, *others = keys_of(kind)
    world = World()
    machine = world.process()
    earlier, store = EtcdStore(config, machine), EtcdStore(config, world.process())
    if before != "free":
        holder = process_session(earlier, machine)
        claim_of(holder.try_claim(first, also=others, note="half done"))
        if before == "failed":
            assert holder.release(first, outcome=Outcome.FAILED).released
        elif before == "lost with its lease":
            end_lease(earlier)
        else:
            world.kill(holder)
    session, other = world.session(store), world.session(store)
    result = session.try_claim(first, also=others, shared=True, note="reads")
    assert result.status is Status.ACQUIRED and len(result.grants) == MOST
    assert all((taken is None) is (before == "free") for _, taken in result.grants)
    assert other.try_claim(first, also=others, shared=True).status is Status.ACQUIRED
    assert session.try_claim(first, also=others, shared=True, ttl_minutes=24 * 60).status is Status.RENEWED
    assert other.release(first).released and len(session.release(first).keys) == MOST
    assert [each for each in store.scan() if isinstance(each, Claim) and each.ended is None] == []


@pytest.mark.rule("E16", "M3")
@pytest.mark.parametrize("kind", ["files", "names"])
def test_a_renewal_that_writes_32_heads_anew_fits_into_a_transaction(
    direct: EtcdStore, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = keys_of(kind)
    session = process_session(direct)
    claim_of(session.try_claim(first, also=others, shared=True))
    monkeypatch.setattr(heads, "_is_short_renewal", lambda _: False)
    monkeypatch.setattr(heads, "MAX_TTL", timedelta(days=3))
    assert session.try_claim(first, also=others, shared=True, ttl_minutes=60).status is Status.RENEWED


@pytest.mark.rule("M4")
def test_members_whose_lease_has_ended_count_as_dead(config: EtcdConfig, way: dict[str, Any]) -> None:
    gone, here = EtcdStore(config, local_machine()), EtcdStore(config, local_machine())
    lost, living, next_one = process_session(gone), process_session(here), process_session(here)
    claim_of(lost.try_claim("red", **way))
    end_lease(gone)
    assert len(head_of(here).members) == 1, "nobody has taken it away"
    claim_of(living.try_claim("red", **way))
    assert len(head_of(here).members) == 1 and claim_of(living.try_claim("red", **way)).slot in (None, 0)
    assert next_one.try_claim("red").status is Status.HELD
    assert living.release("red").released
    assert next_one.try_claim("red").status is Status.ACQUIRED


@pytest.mark.rule("M4", "M6")
def test_the_note_of_a_slot_that_ended_with_its_lease_is_told_once(config: EtcdConfig) -> None:
    gone, here = EtcdStore(config, local_machine()), EtcdStore(config, local_machine())
    claim_of(process_session(gone).try_claim("red", slots=2, note="half done"))
    end_lease(gone)
    first, second = process_session(here), process_session(here)
    told = first.try_claim("red", slots=2)
    assert told.taken_over and told.taken_over.state is ClaimState.ORPHANED
    assert isinstance(told.taken_over.found, Claim) and told.taken_over.found.note == "half done"
    assert second.try_claim("red", slots=2).taken_over is None


@pytest.mark.rule("M4")
def test_prune_removes_the_heads_of_those_that_ended_with_their_lease(config: EtcdConfig, way: dict[str, Any]) -> None:
    gone, here = EtcdStore(config, local_machine()), EtcdStore(config, local_machine())
    lost = process_session(gone)
    for key in ("red", "blue"):
        claim_of(lost.try_claim(key, **way))
    end_lease(gone)
    process_session(here).prune()
    assert list(here.scan()) == []


def waiting(session: Session, key: str, **more: Any) -> tuple[Thread, list[ClaimResult]]:
    """Let *session* wait for *key* in a thread, and return once it has its place."""
    results: list[ClaimResult] = []
    request = session.resolved(ClaimRequest.parse(key, wait_seconds=30, **more))
    thread = Thread(target=lambda: results.append(acquire(session, request)))
    thread.start()
    while not any(each.holder == session.holder for each in session._store.tickets(None)):
        time.sleep(0.01)
    return thread, results


@pytest.mark.rule("M7", "E14")
@pytest.mark.parametrize("how", ["released", "lost with its lease", "passed on"])
@pytest.mark.parametrize("wanted", ["the key", "the directory", "all keys"])
def test_one_that_waits_for_a_key_alone_is_woken_when_the_last_that_shares_it_goes(
    config: EtcdConfig, how: str, wanted: str
) -> None:
    gone, here = EtcdStore(config, local_machine()), EtcdStore(config, local_machine())
    key, other = "file:/work/src/a", "file:/work/src/b"
    last, waiter, early = process_session(gone), process_session(here), process_session(here)
    claim_of(early.try_claim(key, shared=True))
    claim_of(last.try_claim(key, shared=True))
    asked = {"the key": (key, ()), "the directory": ("file:/work/src/**", ()), "all keys": (other, (key,))}[wanted]
    thread, results = waiting(waiter, asked[0], also=asked[1])
    assert early.release(key).released
    time.sleep(0.3)
    assert not results
    began = time.monotonic()
    if how == "released":
        assert last.release(key).released
    elif how == "lost with its lease":
        end_lease(gone)
    else:
        # One more that shares it may come only behind the waiter.
        time.sleep(1)
        assert process_session(gone).try_claim(key, shared=True).status is Status.HELD
        assert last.release(key).released
    thread.join(30)
    assert claim_of(results[0]).mode is Mode.ALONE
    assert time.monotonic() - began < 5, "long before it would have tried by itself"


@pytest.mark.rule("M7", "E14")
@pytest.mark.parametrize("how", ["released", "lost with its lease"])
def test_one_that_waits_for_a_slot_is_woken_when_any_becomes_free(config: EtcdConfig, how: str) -> None:
    gone, here = EtcdStore(config, local_machine()), EtcdStore(config, local_machine())
    first, second = process_session(here), process_session(gone)
    for each in (first, second):
        claim_of(each.try_claim("red", slots=2))
    thread, results = waiting(process_session(here), "red", slots=2)
    time.sleep(0.3)
    began = time.monotonic()
    if how == "released":
        assert second.release("red").released
    else:
        end_lease(gone)
    thread.join(30)
    assert claim_of(results[0]).slot == 1
    assert time.monotonic() - began < 5, "long before it would have tried by itself"


def in_force(store: EtcdStore) -> list[Claim]:
    """Return the claims on the key that a session can act on: in no place that its head does not list."""
    found = store.read(KEY)
    assert found is None or isinstance(found, Claim)
    if found is None or not found.members:
        return [] if found is None or found.ended else [found]
    return [each for each in store.read_all(found.places) if isinstance(each, Claim) and each.ended is None]


@pytest.mark.rule("E7", "M2")
@pytest.mark.parametrize("late", [False, True], ids=["its answer is lost", "it arrives late"])
@pytest.mark.parametrize("beside", [False, True], ids=["first", "beside another"])
def test_a_join_of_unknown_outcome_is_one_join(
    session: Session, proxy: Proxy, direct: EtcdStore, way: dict[str, Any], late: bool, beside: bool
) -> None:
    other = process_session(direct)
    if beside:
        claim_of(other.try_claim("red", **way))
    (proxy.hold if late else proxy.lose_answer_to)(PUT)
    mine = claim_of(session.try_claim("red", **way))
    assert proxy.triggered.is_set()
    assert mine in in_force(direct) and len(in_force(direct)) == 1 + beside
    if late:
        assert session.release("red").released
        proxy.deliver()
        assert mine not in in_force(direct) and len(in_force(direct)) == beside


@pytest.mark.rule("E7", "M2")
def test_a_join_that_nobody_answers_is_undone(
    session: Session, proxy: Proxy, direct: EtcdStore, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, alone = process_session(direct), process_session(direct)
    claim_of(other.try_claim("red", **way))
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 1.5)
    proxy.lose_answer_to(PUT, then_cut=True)
    with pytest.raises(StoreUnavailableError):
        session.try_claim("red", **way)
    assert len(in_force(direct)) == 2, "it was applied"
    proxy.mend()
    deadline = time.monotonic() + 30
    while len(in_force(direct)) == 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert other.release("red").released
    claim_of(alone.try_claim("red"))


@pytest.mark.rule("E7", "M2")
@pytest.mark.parametrize("late", [False, True], ids=["its answer is lost", "it arrives late"])
@pytest.mark.parametrize("meanwhile", ["nothing", "another comes", "another goes", "another takes the place"])
@pytest.mark.parametrize("outcome", [None, Outcome.FAILED])
def test_a_leave_of_unknown_outcome_is_one_leave(
    session: Session,
    proxy: Proxy,
    direct: EtcdStore,
    way: dict[str, Any],
    late: bool,
    meanwhile: str,
    outcome: Outcome | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, third = process_session(direct), process_session(direct)
    mine = claim_of(session.try_claim("red", **way))
    if meanwhile != "another comes":
        claim_of(other.try_claim("red", **way))
    resolve = Transactions._resolve_unknown

    def in_between(*arguments: Any) -> Any:
        monkeypatch.undo()
        found = resolve(*arguments) if late else None
        if late:
            proxy.deliver()
        if meanwhile == "another comes":
            claim_of(other.try_claim("red", **way))
        elif meanwhile == "another goes":
            assert other.release("red").released
        elif meanwhile == "another takes the place":
            claim_of(third.try_claim("red", **way))
        return found or resolve(*arguments)

    monkeypatch.setattr(Transactions, "_resolve_unknown", in_between)
    (proxy.hold if late else proxy.lose_answer_to)(DELETION)
    released = session.release("red", outcome=outcome)
    assert proxy.triggered.is_set()
    assert (released.released, released.lost) == (True, None)
    left = in_force(direct)
    assert mine not in left
    assert len(left) == {"nothing": 1, "another comes": 1, "another goes": 0, "another takes the place": 2}[meanwhile]
    assert len({each.generation for each in left}) == len(left)


def at_its_change(session: Session, fault: Callable[[], None]) -> None:
    """Plant *fault* once *session* changes more than one key, and not before, when it tries to claim the key unread."""
    swap = session._swap

    def faulty(*arguments: Any, **more: Any) -> Swaps:
        vars(session).pop("_swap", None)
        fault()
        return swap(*arguments, **more)

    vars(session)["_swap"] = faulty


@pytest.mark.rule("E7", "M5")
@pytest.mark.parametrize("late", [False, True], ids=["its answer is lost", "it arrives late"])
@pytest.mark.parametrize("to_alone", [True, False], ids=["to alone", "to shared"])
def test_a_key_that_is_passed_on_with_an_unknown_outcome_is_held_in_one_way(
    session: Session, proxy: Proxy, direct: EtcdStore, late: bool, to_alone: bool
) -> None:
    before = claim_of(session.try_claim("red", shared=to_alone))
    at_its_change(session, lambda: (proxy.hold if late else proxy.lose_answer_to)(PUT))
    after = claim_of(session.try_claim("red", shared=not to_alone))
    assert proxy.triggered.is_set()
    if late:
        proxy.deliver()
    assert after.generation == before.generation
    assert in_force(direct) == [after] and (after.mode is Mode.ALONE) is to_alone
    assert session.release("red").released
    assert in_force(direct) == []


@pytest.mark.rule("E7", "M5")
@pytest.mark.parametrize("then", ["it is released", "the session ends", "it is renewed", "it is passed back"])
@pytest.mark.parametrize("to_alone", [True, False], ids=["to alone", "to shared"])
def test_a_key_that_was_passed_on_although_the_call_was_an_error_is_still_known_to_its_session(
    session: Session,
    proxy: Proxy,
    direct: EtcdStore,
    then: str,
    to_alone: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = claim_of(session.try_claim("red", shared=to_alone))
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 1.5)
    at_its_change(session, lambda: proxy.lose_answer_to(PUT, then_cut=True))
    with pytest.raises(StoreUnavailableError):
        session.try_claim("red", shared=not to_alone)
    assert (in_force(direct)[0].mode is Mode.ALONE) is to_alone, "it was applied"
    proxy.mend()
    monkeypatch.undo()
    if then == "it is released":
        released = session.release("red")
        assert (released.released, released.lost) == (True, None)
    elif then == "the session ends":
        session.close(within=5)
    else:
        again = session.try_claim("red", shared=to_alone is (then == "it is passed back"))
        assert (again.status, again.lost) == (Status.RENEWED, None)
        assert claim_of(again).generation == before.generation
        assert in_force(direct) == [again.found]
        return
    assert in_force(direct) == []


@pytest.mark.rule("E7", "M5")
def test_a_key_that_was_passed_on_late_excludes_who_came_before_it(
    session: Session, proxy: Proxy, direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = process_session(direct)
    claim_of(session.try_claim("red", shared=True))
    resolve = Transactions._resolve_unknown

    def in_between(*arguments: Any) -> Any:
        monkeypatch.undo()
        found = resolve(*arguments)
        claim_of(other.try_claim("red", shared=True))
        proxy.deliver()
        return found

    monkeypatch.setattr(Transactions, "_resolve_unknown", in_between)
    at_its_change(session, lambda: proxy.hold(PUT))
    assert session.try_claim("red").status is Status.HELD
    assert proxy.triggered.is_set()
    assert len(in_force(direct)) == 2 and all(each.mode is Mode.SHARED for each in in_force(direct))


@pytest.mark.rule("M3")
def test_a_claim_outlives_no_head(direct: EtcdStore) -> None:
    session = process_session(direct)
    mine = claim_of(session.try_claim("red", shared=True, ttl_minutes=24 * 60))
    assert expiry.remaining(head_of(direct).expires, mine.expires) > timedelta(hours=23)
