"""Those who wait on etcd: what it costs the cluster, whom a change wakes, and what becomes of a turn that nobody takes."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.model import expiry
from mcp_claims.model.expiry import RESERVATION, ClaimState
from mcp_claims.model.records import ALONE, Claim, Mode, Outcome, ScopedKey, Ticket, Use
from mcp_claims.model.tickets import KEPT_PLACE
from mcp_claims.model.validation import MAX_WAIT_SECONDS, ClaimRequest
from mcp_claims.session import acquire as acquiring
from mcp_claims.session.acquire import Wakeup, acquire
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Change, TicketChange, deadline_in
from mcp_claims.stores.etcd import lease as leases
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.gateway import CALL_TIMEOUT, Gateway, NoAnswerError
from mcp_claims.stores.etcd.keepalive import LeaseKeepAlive
from mcp_claims.stores.etcd.keys import Keyspace, prefix_range_end
from mcp_claims.stores.etcd.lease import Lease, ProcessLease
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.etcd.txn import Transactions
from tests.session.bench import EtcdBench, granted
from tests.session.sharing import attempt, named, wait
from tests.stores.contract import WATCHED_WITHIN, Notified, join, listening, release, ticket
from tests.stores.samples import KEY, OTHER_KEY, claim, grant, renewed
from tests.support.etcd import Cluster, config_at, fresh_config, fresh_store, one_node
from tests.support.etcd_keys import lease_of
from tests.support.machines import World
from tests.support.proxy import Proxy

TRANSACTION = b"POST /v3/kv/txn "
WAIT = 120.0
SOON = 30.0


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the requests of all stores in this process, except the renewals of leases."""
    counted: Counter[str] = Counter()
    call = Gateway.call

    def count(gateway: Gateway, path: str, *arguments: Any, **more: Any) -> dict[str, Any]:
        counted[path] += path != "/lease/keepalive"
        return call(gateway, path, *arguments, **more)

    monkeypatch.setattr(Gateway, "call", count)
    return counted


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with closing(Proxy(one_node().clients[0])) as made:
        yield made


def session(config: EtcdConfig) -> Session:
    """Open a session in what is a process of its own, as far as the cluster can see."""
    return process_session(EtcdStore(config, local_machine()))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_quiet(requests: Counter[str]) -> None:
    """Return once those who have just joined have looked at the queue, and sleep."""
    before = Counter[str]()
    while before != requests:
        before = requests.copy()
        time.sleep(0.5)


def reserve(waiting: Session, scoped: ScopedKey = KEY) -> Claim:
    """Let *waiting* wait for *scoped*, which is free, as a tool does, and return its reservation."""
    assert waiting.queue.join(scoped, WAIT) is not None
    turn = waiting.try_request(ClaimRequest(scoped), reserve=True)
    assert turn.status is Status.YOUR_TURN and isinstance(turn.found, Claim)
    waiting.queue.end_wait(scoped, keeps_place=True)
    return turn.found


@pytest.mark.rule("E9", "E14")
def test_while_nobody_waits_a_claim_and_its_release_are_one_transaction_each(requests: Counter[str]) -> None:
    only = session(fresh_config())
    only.try_claim("warm")
    requests.clear()
    assert only.try_claim(KEY.key, KEY.namespace).claimed
    assert only.release(KEY.key, KEY.namespace).released
    # Besides, the lease may be renewed at any time.
    assert {path: count for path, count in requests.items() if path.startswith("/kv/")} == {"/kv/txn": 2}


@pytest.mark.rule("E14")
@pytest.mark.parametrize(("reserves", "at_most"), [(False, 3), (True, 4)], ids=["at once", "by a reservation"])
def test_a_hand_over_takes_at_most_four_transactions(reserves: bool, at_most: int, requests: Counter[str]) -> None:
    config = fresh_config()
    holder, waiters = session(config), [session(config) for _ in range(5)]
    assert holder.try_claim(KEY.key, KEY.namespace).claimed
    served: list[str] = []

    def wait_and_release(waiting: Session) -> None:
        result = acquire(waiting, ClaimRequest(KEY, wait_seconds=WAIT), reserve=reserves)
        if reserves:
            assert result.status is Status.YOUR_TURN
            result = waiting.try_request(ClaimRequest(KEY))
        assert result.status is Status.ACQUIRED
        served.append(waiting.holder.name)
        assert waiting.release(KEY.key, KEY.namespace).released

    watch = EtcdStore(config, local_machine())
    with ThreadPoolExecutor(len(waiters)) as pool:
        waits: list[Future[None]] = []
        for number, waiting in enumerate(waiters, start=1):
            waits.append(pool.submit(wait_and_release, waiting))
            wait_for(lambda number=number: len(watch.tickets(KEY)) == number)  # type: ignore[misc]
        wait_until_quiet(requests)
        requests.clear()
        assert holder.release(KEY.key, KEY.namespace).released
        for each in waits:
            each.result(SOON)
    assert served == [each.holder.name for each in waiters], "in the order of their tickets"
    hand_overs = len(waiters)
    transactions = sum(count for path, count in requests.items() if path != "/kv/range")
    print(
        f"a hand-over: {transactions / hand_overs} transactions, {requests['/kv/range'] / hand_overs} reads",
        file=sys.stderr,
    )
    # Each waiter's release begins the next hand-over, and the last one's none.
    assert transactions <= at_most * hand_overs
    assert watch.tickets(None) == ()


@pytest.mark.rule("E14")
def test_idle_waiters_cost_the_cluster_no_proposal_and_do_not_read_each_others_tickets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The first looks again every ten seconds, in case a notice was lost.
    monkeypatch.setattr(acquiring, "_LONG_POLL_INTERVAL", 0.1)
    read: list[ScopedKey | str | None] = []
    tickets = EtcdStore.tickets

    def noting(store: EtcdStore, target: ScopedKey | str | None) -> tuple[Ticket, ...]:
        read.append(target)
        return tickets(store, target)

    monkeypatch.setattr(EtcdStore, "tickets", noting)
    with closing(Cluster()) as cluster, ExitStack() as stack:
        config = fresh_config(cluster)
        holder = session(config)
        assert holder.try_claim(KEY.key, KEY.namespace).claimed
        pool = stack.enter_context(ThreadPoolExecutor(20))
        request = ClaimRequest(KEY, wait_seconds=WAIT)
        waits = [pool.submit(acquire, session(config), request) for _ in range(20)]
        stack.callback(holder.release, KEY.key, KEY.namespace, outcome=Outcome.DONE)
        # For a cycle of waits each looks once, when it has its ticket.
        wait_for(lambda: read.count(None) == 20)
        before, looks = raft_index(config), len(read)
        wait_for(lambda: len(read) > looks + 10)
        assert raft_index(config) == before
        assert set(read[looks:]) == {KEY}
        assert holder.release(KEY.key, KEY.namespace, outcome=Outcome.DONE).released
        assert {each.result(SOON).status for each in waits} == {Status.DONE}


def raft_index(config: EtcdConfig) -> int:
    return int(Gateway(config).call("/maintenance/status", {}, deadline_in(5))["raftIndex"])


@pytest.mark.rule("E14")
def test_the_ticket_of_a_process_ends_with_its_lease_and_that_wakes_the_next(requests: Counter[str]) -> None:
    store, dying = fresh_store(), None
    held = grant(store, claim())
    dying = EtcdStore(store.config, local_machine())
    first, second = join(dying, ticket(2)), join(store, ticket(3))
    with listening(store, second, first) as rings:
        assert not rings(0.2)
        dying.close(within=5)  # Its lease ends, as it does some time after a SIGKILL.
        assert rings(WATCHED_WITHIN)
        assert store.tickets(KEY) == (second,)
    with listening(store, second, held) as rings:
        release(store, held)
        assert rings(WATCHED_WITHIN)


@pytest.mark.rule("E14")
def test_a_change_between_the_look_and_the_watch_rings_too() -> None:
    store = fresh_store()
    held, waiting = grant(store, claim()), join(store, ticket(2))
    before = join(store, ticket(3))
    release(store, held)
    store.change_tickets(KEY, lambda _: (waiting,))
    store.read(OTHER_KEY)  # The latest revision that the store knows is that after the changes.
    for gone in (held, before):
        with listening(store, waiting, gone) as rings:
            assert rings(WATCHED_WITHIN)


@pytest.mark.rule("E11", "E14")
def test_a_wait_goes_on_behind_a_compaction() -> None:
    store = fresh_store()
    held, waiting = grant(store, claim()), join(store, ticket(2))
    gateway = Gateway(store.config)
    now = grant(store, claim(OTHER_KEY)).leased
    assert now is not None
    gateway.call("/kv/compaction", {"revision": str(now.revision)}, deadline_in(4))
    notified = Notified()
    with store.alarm(waiting, notified) as alarm:
        alarm.aim(held)
        assert notified.wait(WATCHED_WITHIN), "anything may have changed"
        notified.clear()
        alarm.aim(held)
        assert not notified.wait(0.5), "the same is not asked for again"
        release(store, held)
        assert notified.wait(WATCHED_WITHIN)


@pytest.mark.rule("E11")
def test_the_stream_asks_for_what_somebody_watches_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[tuple[str, str]]] = []
    stream = Gateway.stream

    def record(gateway: Gateway, path: str, bodies: list[dict[str, Any]], idle_timeout: float) -> Any:
        asked.append({(each["create_request"]["key"], each["create_request"]["range_end"]) for each in bodies})
        return stream(gateway, path, bodies, idle_timeout)

    monkeypatch.setattr(Gateway, "stream", record)
    store = fresh_store()
    granted = grant(store, claim())
    of_key, of_namespace = Notified(), Notified()
    key, space = Keyspace(store.config.prefix).claim_key(KEY), Keyspace(store.config.prefix).namespace_prefix("deploy")
    wanted = [range_of(key, key + b"\0"), range_of(space, prefix_range_end(space))]
    with store.watch(KEY, of_key):
        wait_for(lambda: asked[-1:] == [{wanted[0]}])
        with store.watch("deploy", of_namespace):
            wait_for(lambda: asked[-1] == set(wanted))
        wait_for(lambda: asked[-1] == {wanted[0]})
        release(store, granted)
        assert of_key.wait(WATCHED_WITHIN) and not of_namespace.is_set()
    wait_for(lambda: not any(each.name == "mcp-claims etcd watch" for each in threading.enumerate()))


def range_of(start: bytes, end: bytes) -> tuple[str, str]:
    request = messages.range_request(start, end)
    return request["key"], request["range_end"]


@pytest.mark.rule("E7", "E14")
def test_a_ticket_whose_answer_was_lost_is_taken_once(proxy: Proxy) -> None:
    config = fresh_config()
    store = EtcdStore(config_at(proxy.port, config.prefix), local_machine())
    waiting = process_session(store)
    assert waiting.try_claim("warm").claimed
    proxy.lose_answer_to(TRANSACTION)
    taken = waiting.queue.join(KEY, WAIT)
    assert proxy.triggered.is_set()
    assert taken is not None and store.tickets(KEY) == (taken,)


@pytest.mark.rule("E14")
def test_a_ticket_is_taken_under_a_new_lease_after_the_old_one_was_lost() -> None:
    store = fresh_store()
    held = grant(store, claim(session=1)._replace(holder=process_session(store).holder))
    first = join(store, ticket(1))
    leases.revoke_lease(Gateway(store.config), lease_of(store, held.scoped), deadline_in(5))
    assert store.tickets(KEY) == ()
    second = join(store, ticket(1))
    assert store.tickets(KEY) == (second,) and second.number > first.number


@pytest.mark.rule("E2", "E14")
def test_a_ticket_under_a_lease_that_has_ended_does_not_cost_the_lease_that_came_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = fresh_store()
    other = process_session(store)
    assert other.try_claim(KEY.key, KEY.namespace).claimed
    get = ProcessLease.get_or_grant

    def ends_meanwhile(lease: ProcessLease, deadline: float) -> Lease:
        """Return a lease that has ended when it is used, while a claim has been granted under a new one."""
        found = get(lease, deadline)
        monkeypatch.undo()
        leases.revoke_lease(Gateway(store.config), found.id, deadline)
        assert other.try_claim(OTHER_KEY.key, OTHER_KEY.namespace).claimed
        return found

    monkeypatch.setattr(ProcessLease, "get_or_grant", ends_meanwhile)
    join(store, ticket(1))
    held = store.read(OTHER_KEY)
    assert isinstance(held, Claim) and store.is_trusted(held)


@pytest.mark.rule("E14")
def test_a_ticket_that_was_given_up_meanwhile_is_not_put_again() -> None:
    store, other = (EtcdStore(config, local_machine()) for config in [fresh_config()] * 2)
    join(other, ticket(2))
    rounds = 0

    def lapse(found: tuple[Ticket, ...]) -> tuple[Ticket, ...]:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            other.change_tickets(KEY, lambda _: ())
        return tuple(each._replace(lapsed=True) for each in found)

    assert store.change_tickets(KEY, lapse) == store.tickets(KEY) == ()
    assert rounds == 2


MANY = tuple(ScopedKey("ci", f"key {number}") for number in range(32))


def ticket_for(number: int, *keys: ScopedKey) -> Ticket:
    """Return the ticket that session *number* would like to have for all *keys*."""
    return ticket(number)._replace(keys=keys)


def fast(store: EtcdStore, target: ScopedKey | str, change: TicketChange) -> tuple[Ticket, ...]:
    """Change the tickets for *target*, and not by trying for seconds."""
    began = time.monotonic()
    after = store.change_tickets(target, change)
    assert time.monotonic() - began < CALL_TIMEOUT / 2
    return after


@pytest.mark.rule("E14", "E16")
@pytest.mark.parametrize("granted", [KEY, OTHER_KEY])
@pytest.mark.parametrize("through", [KEY, OTHER_KEY, KEY.namespace], ids=["first key", "second key", "namespace"])
def test_a_ticket_of_which_a_grant_has_removed_one_key_is_changed_and_removed(
    granted: ScopedKey, through: ScopedKey | str
) -> None:
    store = fresh_store()
    both = join(store, ticket_for(1, KEY, OTHER_KEY))
    grant(store, claim(granted))
    if through == granted:
        assert store.tickets(through) == ()
        return
    assert store.tickets(through) == (both,)
    lapsed = both._replace(lapsed=True)
    assert fast(store, through, lambda _: (lapsed,)) == (lapsed,) == store.tickets(through)
    assert fast(store, through, lambda _: ()) == () == store.tickets(None)


@pytest.mark.rule("E14", "E16")
@pytest.mark.parametrize("through", [KEY, OTHER_KEY])
def test_a_ticket_of_several_keys_is_changed_and_removed_through_any_of_them(through: ScopedKey) -> None:
    store, far = fresh_store(), ScopedKey("deploy", "staging")
    all_three = join(store, ticket_for(1, KEY, OTHER_KEY, far))
    lapsed = all_three._replace(lapsed=True)
    assert fast(store, through, lambda _: (lapsed,)) == (lapsed,)
    assert store.tickets(far) == store.tickets(KEY) == store.tickets(OTHER_KEY) == (lapsed,)
    assert fast(store, through, lambda _: ()) == ()
    assert store.tickets(None) == ()


@pytest.mark.rule("E14", "E16")
def test_a_grant_of_several_keys_removes_the_ticket_for_those_that_it_renews_too() -> None:
    store = fresh_store()
    held = grant(store, claim(KEY))
    join(store, ticket_for(1, KEY, OTHER_KEY))
    held = grant(store, renewed(held), over=held)
    assert len(store.tickets(KEY)) == 1, "a renewal alone ends no wait"
    changes = [Change(KEY, held, renewed(held)), Change(OTHER_KEY, None, claim(OTHER_KEY))]
    assert store.swap_all(changes).won
    assert store.tickets(None) == ()


@pytest.mark.rule("E14")
def test_behind_many_tickets_of_many_keys_that_have_ended_a_session_gets_one() -> None:
    store = fresh_store()
    ended = {join(store, ticket_for(number, *MANY)) for number in range(2, 9)}
    own = ticket_for(1, *MANY)
    after = fast(store, MANY[0], lambda found: (*(each for each in found if each not in ended), own))
    assert [each.holder for each in after] == [own.holder]
    for _ in range(len(ended)):
        after = fast(store, MANY[0], lambda found: tuple(each for each in found if each not in ended))
    assert store.tickets(None) == after and after[0].holder == own.holder


@pytest.mark.rule("E14")
def test_what_is_no_ticket_has_no_place_and_blocks_nobody() -> None:
    store = fresh_store()
    stray = Keyspace(store.config.prefix).ticket_key(KEY, "somebody else")
    gateway = Gateway(store.config)
    for value in (b"", b"{", b'{"tickets": []}', b'{"tickets": [{"number": 1}]}', b"\xff"):
        gateway.call("/kv/put", messages.put_request(stray, value), deadline_in(5))
        assert store.tickets(KEY) == ()
        only = process_session(store)
        assert only.try_claim(KEY.key, KEY.namespace).claimed
        assert only.release(KEY.key, KEY.namespace).released


@pytest.mark.rule("E15")
@pytest.mark.parametrize(
    ("made_by", "marker"),
    [
        ("its session", None),
        ("its session", Outcome.FAILED),
        ("its session", Outcome.DONE),
        ("a stranger", None),
        ("a stranger", Outcome.FAILED),
    ],
)
def test_a_turn_that_nobody_takes_lapses_once_and_leaves_what_was_there(made_by: str, marker: Outcome | None) -> None:
    world, config = World(), fresh_config()
    holder, waiting, stranger = (
        world.session(EtcdStore(config, machine)) for machine in (world.process() for _ in range(3))
    )
    watch = EtcdStore(config, local_machine())
    assert holder.try_claim(KEY.key, KEY.namespace).claimed
    assert waiting.queue.join(KEY, WAIT) is not None
    note = None if marker is None else "look here"
    assert holder.release(KEY.key, KEY.namespace, outcome=marker, note=note).released
    world.pass_time(2)
    redo = ClaimRequest(KEY, redo=True)
    if made_by == "a stranger":
        assert stranger.try_request(redo).status is Status.HELD
    else:
        assert waiting.try_request(redo, reserve=True).status is Status.YOUR_TURN
    waiting.queue.end_wait(KEY, keeps_place=True)
    reserved = watch.read(KEY)
    assert isinstance(reserved, Claim) and reserved.mode is Mode.RESERVED
    assert reserved.holder.name == waiting.holder.name
    world.pass_time(RESERVATION.total_seconds() - 1)
    assert stranger.try_request(redo).status is Status.HELD
    world.pass_time(1)
    again = stranger.try_request(ClaimRequest(KEY))
    assert again.status is (Status.DONE if marker is Outcome.DONE else Status.ACQUIRED)
    assert watch.tickets(KEY)[0].lapsed
    if marker is Outcome.FAILED:
        assert again.taken_over is not None and isinstance(again.taken_over.found, Claim)
        assert again.taken_over.found.note == note


@pytest.mark.rule("E15")
def test_the_process_of_a_reservation_does_not_remove_it_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled: list[bytes] = []
    monkeypatch.setattr(LeaseKeepAlive, "schedule_expiry", lambda _, key, at: scheduled.append(key))
    waiting = session(fresh_config())
    reserve(waiting)
    assert scheduled == []
    assert waiting.try_claim(KEY.key, KEY.namespace).claimed
    assert len(scheduled) == 1


@pytest.mark.rule("E2", "E15")
def test_the_lease_of_a_turn_is_renewed_where_the_wait_had_no_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    renewed_once = threading.Event()
    monkeypatch.setattr("mcp_claims.stores.etcd.keepalive.TTL", 1)
    monkeypatch.setattr(ProcessLease, "renew", lambda *_: renewed_once.set())
    waiting = session(fresh_config())
    assert waiting.try_request(ClaimRequest(KEY), reserve=True).status is Status.YOUR_TURN
    assert renewed_once.wait(SOON)


@pytest.mark.rule("E15")
def test_a_reservation_is_there_after_its_time_so_that_its_session_is_not_served_again() -> None:
    config, elsewhere = fresh_config(), World()
    waiting = session(config)
    reserve(waiting)
    machine = elsewhere.process()
    elsewhere.boot, elsewhere.wall = "boot-2", local_machine().now().wall
    store = EtcdStore(config, machine)
    stranger = process_session(store, machine)
    assert stranger.try_claim(KEY.key, KEY.namespace).status is Status.HELD
    for_another = expiry.reserved(OTHER_KEY, waiting.holder, machine.now(), None, ClaimState.FREE)
    grant(store, for_another)
    lease = Gateway(config).call("/lease/timetolive", {"ID": str(lease_of(store, OTHER_KEY))}, deadline_in(5))
    assert int(lease["TTL"]) > MAX_WAIT_SECONDS + KEPT_PLACE.total_seconds(), "longer than the ticket"
    elsewhere.set_wall_clock(RESERVATION.total_seconds())
    assert stranger.try_claim(KEY.key, KEY.namespace).status is Status.ACQUIRED, "only a turn depends on clocks"


@pytest.mark.rule("E15")
def test_a_reservation_ends_with_the_process_that_it_is_for_and_its_marker_does_not() -> None:
    config = fresh_config()
    watch = EtcdStore(config, local_machine())
    first, second = (EtcdStore(config, local_machine()) for _ in range(2))
    reserve(process_session(first))
    first.close(within=5)
    assert watch.read(KEY) is None and watch.tickets(None) == ()
    other = process_session(second)
    assert other.try_claim(KEY.key, KEY.namespace).claimed
    assert other.release(KEY.key, KEY.namespace, outcome=Outcome.FAILED, note="look here").released
    kept = reserve(other).replaced
    second.close(within=5)
    found = watch.read(KEY)
    assert isinstance(found, Claim) and kept is not None and found.replaced == kept


@pytest.mark.rule("E7", "E15")
@pytest.mark.parametrize("of", ["ends with its process", "outlives its process"])
def test_a_turn_that_is_taken_by_a_late_request_is_not_held_without_anybody_knowing(
    proxy: Proxy, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fresh_config()
    store = EtcdStore(config_at(proxy.port, config.prefix), local_machine())
    direct = EtcdStore(config, local_machine())
    waiting = process_session(store) if of == "ends with its process" else named_session(store, "ci")
    reserved = reserve(waiting)

    def nobody_answers(*_: object) -> None:
        monkeypatch.undo()
        raise NoAnswerError({"http://127.0.0.1:2379": "no answer in time"}, outcome_unknown=True)

    monkeypatch.setattr(Transactions, "_resolve_unknown", nobody_answers)
    proxy.hold(TRANSACTION)
    with pytest.raises(StoreUnavailableError, match="no endpoint of etcd answered in time"):
        waiting.try_claim(KEY.key, KEY.namespace)
    assert proxy.triggered.is_set()
    wait_for(lambda: not store._connection().keepalive._unknown_grants)
    # The key is as it was when the request was sent.
    answer = proxy.deliver()
    assert answer.startswith(b"HTTP/1.1"), answer
    assert direct.read(KEY) == reserved
    assert waiting.try_claim(KEY.key, KEY.namespace).status is Status.ACQUIRED


@pytest.mark.rule("E7", "E15")
def test_a_turn_taken_with_an_unknown_outcome_is_an_error_and_is_undone(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fresh_config()
    store = EtcdStore(config_at(proxy.port, config.prefix), local_machine())
    direct = EtcdStore(config, local_machine())
    waiting = process_session(store)
    reserve(waiting)
    monkeypatch.setattr("mcp_claims.stores.etcd.store.CALL_TIMEOUT", 1.5)
    proxy.lose_answer_to(TRANSACTION, then_cut=True)
    with pytest.raises(StoreUnavailableError, match="no endpoint of etcd answered in time"):
        waiting.try_claim(KEY.key, KEY.namespace)
    taken = direct.read(KEY)
    assert isinstance(taken, Claim) and taken.mode is Mode.ALONE
    proxy.mend()
    wait_for(lambda: direct.read(KEY) is None)


@pytest.mark.rule("W5")
def test_a_set_of_which_its_session_holds_a_part_is_still_waited_for() -> None:
    bench = EtcdBench()
    red, green, stranger = (bench.session() for _ in range(3))
    ada, elsewhere = named(bench), named(bench)
    granted(red, "red")
    granted(green, "green")
    wait(bench, ada, "red", "green", use=ALONE)
    red.release("red")
    assert attempt(elsewhere, "red").status is Status.ACQUIRED
    bench.world.kill(green)
    refused = attempt(stranger, "green")
    assert refused.status is Status.HELD and isinstance(refused.found, Claim)
    assert (refused.found.mode, refused.found.holder.name) == (Mode.RESERVED, ada.holder.name)


@pytest.mark.rule("W6", "E14")
def test_the_wait_that_closes_a_cycle_finds_it_whatever_the_clocks_of_the_machines_say() -> None:
    config, ahead, behind = fresh_config(), World(), World()
    behind.boot = "another-1"
    behind.process(), behind.process()
    ahead.set_wall_clock(300)
    first, last = (world.session(EtcdStore(config, world.process())) for world in (ahead, behind))
    for waiting, scoped in ((first, KEY), (last, OTHER_KEY)):
        granted(waiting, scoped.key, scoped.namespace)
    assert first.queue.join(OTHER_KEY, WAIT) is not None and first.queue.find_cycle(OTHER_KEY) == ()
    assert last.queue.join(KEY, WAIT) is not None
    assert [each.scoped for each in last.queue.find_cycle(KEY)] == [KEY, OTHER_KEY]
    assert first.queue.find_cycle(OTHER_KEY) == ()


@pytest.mark.rule("E14")
def test_a_wait_goes_on_whose_ticket_another_call_of_its_session_has_replaced() -> None:
    config = fresh_config()
    holder, before, own = session(config), session(config), session(config)
    watch, third = EtcdStore(config, local_machine()), ScopedKey(KEY.namespace, "third")
    for each in (KEY, OTHER_KEY, third):
        assert holder.try_claim(each.key, each.namespace).claimed
    wakeups, refused = [Wakeup() for _ in range(3)], Counter[int]()

    def wait_for_keys(number: int, waiting: Session, *keys: ScopedKey) -> Status:
        request = ClaimRequest(keys[0], also=keys[1:], wait_seconds=WAIT)
        count = Counter({number: 1})
        return acquire(waiting, request, wakeup=wakeups[number], refused=lambda _: refused.update(count)).status

    with ThreadPoolExecutor(3) as pool, ExitStack() as stack:
        for wakeup in wakeups:
            stack.callback(wakeup.stop)
        waits: list[Future[Status]] = []
        for number, keys in enumerate([(third,), (KEY, OTHER_KEY), (KEY, third)]):
            waits.append(pool.submit(wait_for_keys, number, own if number else before, *keys))
            wait_for(lambda keys=keys: any(ticket.keys == keys for ticket in watch.tickets(KEY.namespace)))  # type: ignore[misc]
        wait_for(lambda: refused[1] >= 2)  # With its ticket, too.
        attempts = refused[1]
        # The renewal wakes it, and behind the ticket that its session has now is one for a key that it does not wait for.
        assert holder.try_claim(OTHER_KEY.key, OTHER_KEY.namespace).claimed
        wait_for(lambda: refused[1] > attempts)
        wakeups[1].stop()
        assert waits[1].result(SOON) is Status.HELD


@pytest.mark.rule("W1")
def test_a_wait_whose_request_for_a_ticket_failed_takes_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquiring, "_POLL_INTERVAL", 0.1)
    config = fresh_config()
    holder, waiting, watch = session(config), session(config), EtcdStore(config, local_machine())
    assert holder.try_claim(KEY.key, KEY.namespace).claimed
    change, failed = EtcdStore.change_tickets, threading.Event()

    def failing_once(store: EtcdStore, *arguments: Any, **more: Any) -> tuple[Ticket, ...]:
        if not failed.is_set():
            failed.set()
            raise StoreUnavailableError("etcd", TimeoutError())
        return change(store, *arguments, **more)

    monkeypatch.setattr(EtcdStore, "change_tickets", failing_once)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(acquire, waiting, ClaimRequest(KEY, wait_seconds=WAIT))
        try:
            wait_for(lambda: len(watch.tickets(KEY)) == 1)
        finally:
            assert holder.release(KEY.key, KEY.namespace).released
        assert wait.result(SOON).status is Status.ACQUIRED


@pytest.mark.rule("W2", "E14")
def test_a_session_wakes_for_which_the_key_is_reserved_while_the_one_before_still_waits() -> None:
    config = fresh_config()
    holder, busy, before, waiting = (session(config) for _ in range(4))
    watch = EtcdStore(config, local_machine())
    assert holder.try_claim(KEY.key, KEY.namespace).claimed
    assert busy.try_claim(OTHER_KEY.key, OTHER_KEY.namespace).claimed
    wakeup = Wakeup()
    with ThreadPoolExecutor(2) as pool:
        both = ClaimRequest(KEY, also=(OTHER_KEY,), wait_seconds=WAIT)
        first = pool.submit(acquire, before, both, wakeup=wakeup)
        wait_for(lambda: len(watch.tickets(KEY)) == 1)
        second = pool.submit(acquire, waiting, ClaimRequest(KEY, wait_seconds=WAIT))
        wait_for(lambda: len(watch.tickets(KEY)) == 2)
        time.sleep(1.5)  # Longer than anybody may overtake them.
        assert holder.release(KEY.key, KEY.namespace).released
        # It does not give way to the first, which waits for what it holds itself.
        assert busy.try_claim(KEY.key, KEY.namespace).status is Status.HELD
        try:
            assert second.result(SOON).status is Status.ACQUIRED
        finally:
            wakeup.stop()
        assert first.result(SOON).status is Status.HELD


@pytest.mark.rule("M7", "E14")
def test_a_slot_goes_to_the_next_while_the_one_before_has_not_taken_its_own_yet() -> None:
    config = fresh_config()
    watch = EtcdStore(config, local_machine())
    holders, waiters = [session(config) for _ in range(2)], [session(config) for _ in range(2)]
    for each in holders:
        assert each.try_claim(KEY.key, KEY.namespace, slots=2).claimed
    with ThreadPoolExecutor(2) as pool:
        waits: list[Future[Any]] = []
        request = ClaimRequest(KEY, wait_seconds=WAIT, use=Use(Mode.SLOT, 2))
        for number, waiting in enumerate(waiters, start=1):
            waits.append(pool.submit(acquire, waiting, request, reserve=True))
            wait_for(lambda number=number: len(watch.tickets(KEY)) == number)  # type: ignore[misc]
        for each, wait in zip(holders, waits, strict=True):
            assert each.release(KEY.key, KEY.namespace).released
            assert wait.result(SOON).status is Status.YOUR_TURN


@pytest.mark.rule("M7", "E14")
def test_of_those_who_wait_for_slots_only_the_next_watch_the_key() -> None:
    config, slots = fresh_config(), 2
    waiters = [session(config) for _ in range(3 * slots)]
    tickets = [each.queue.join(KEY, WAIT, use=Use(Mode.SLOT, slots)) for each in waiters]
    places = [each.queue.place(KEY) for each in waiters]
    assert [place.is_near for place in places] == [True] * 2 * slots + [False] * slots
    # Each of the others is woken when one place fewer is before its own than there can be turns.
    assert [place.before for place in places[2 * slots :]] == tickets[:slots]
    served = waiters[0].holder.name
    assert [each.queue.place(KEY, served={served}).is_near for each in waiters[2 * slots :]] == [True, False]


@pytest.mark.rule("W8", "E14")
def test_a_place_that_is_kept_in_vain_holds_nobody_up_longer_although_the_key_was_reserved_meanwhile() -> None:
    config = fresh_config()
    first, waiting = session(config), session(config)
    store = EtcdStore(config, local_machine())
    reserve(first)
    now = local_machine().now()
    join(store, ticket(2)._replace(taken=now, until=expiry.later(now, timedelta(seconds=5))))
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(acquire, waiting, ClaimRequest(KEY, wait_seconds=WAIT))
        wait_for(lambda: len(store.tickets(KEY)) == 3)
        time.sleep(1)  # It sleeps behind the place that is kept, while the key is reserved for the first.
        assert first.try_claim(KEY.key, KEY.namespace).claimed
        assert first.release(KEY.key, KEY.namespace).released
        assert wait.result(SOON).status is Status.ACQUIRED


@pytest.mark.rule("C16", "E14")
def test_one_that_waits_for_any_of_a_list_looks_again_soon_though_the_one_before_it_waits_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acquiring, "_LONG_POLL_INTERVAL", 0.5)
    config = fresh_config()
    free, busy, part = (ScopedKey("default", name) for name in ("free", "busy", "part"))
    holder, *waiters = (session(config) for _ in range(4))
    store = EtcdStore(config, local_machine())
    assert holder.try_claim(busy.key).claimed and holder.try_claim(part.key).claimed
    requests = [
        ClaimRequest(free, also=(part,), wait_seconds=WAIT),
        ClaimRequest(busy, wait_seconds=WAIT),
        ClaimRequest(free, or_else=(busy,), wait_seconds=WAIT),
    ]
    wakeups = [Wakeup() for _ in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        waits: list[Future[Any]] = []
        try:
            for number, (waiting, request, wakeup) in enumerate(zip(waiters, requests, wakeups, strict=True), start=1):
                waits.append(pool.submit(acquire, waiting, request, wakeup=wakeup))
                wait_for(lambda number=number: len(store.tickets(None)) == number)  # type: ignore[misc]
                time.sleep(1.5)  # Longer than anybody may overtake it.
            assert not waits[2].done()
            wakeups[0].stop()
            assert waits[2].result(SOON).found.scoped == free
        finally:
            for wakeup in wakeups:
                wakeup.stop()
