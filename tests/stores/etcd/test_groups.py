"""Several changes at once on etcd: one transaction, under leases that end with what they hold; an unknown outcome is found out."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from math import inf
from typing import Any

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Ended, Holder, Outcome, ScopedKey
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.stores.base import Change
from mcp_claims.stores.etcd import store as etcd_store
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.lease import revoke_lease
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.etcd.txn import Transactions
from tests.stores.groups import FAR, GROUP, A, B, grant_all, state
from tests.stores.overlaps import any_other, file
from tests.stores.samples import claim, grant, renewed
from tests.support.endpoints import wait_until
from tests.support.etcd import fresh_config
from tests.support.etcd_keys import lease_of
from tests.support.proxy import Proxy

PUT, DELETION = b"request_put", b"request_delete_range"
WARM = ScopedKey("ci", "warm")
Held = list[Claim]


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


@pytest.fixture(params=["ends with its process", "outlives its process"])
def holder(request: pytest.FixtureRequest, store: EtcdStore) -> Holder:
    session = process_session(store) if request.param == "ends with its process" else named_session(store, "ci")
    grant(store, of(session.holder, WARM))
    return session.holder


def of(holder: Holder, key: ScopedKey, *, note: str | None = None) -> Claim:
    """Return what the session of *holder* would like to have stored for *key*."""
    now = local_machine().now()
    return Claim(key, holder, now, expiry.later(now, timedelta(minutes=30)), note)


def wanted(holder: Holder, keys: tuple[ScopedKey, ...] = GROUP, **more: Any) -> list[Change]:
    return [Change(key, None, of(holder, key, **more)) for key in keys]


def done(held: Claim) -> Claim:
    """Return the marker that *held* leaves when its work is done."""
    now = local_machine().now()
    return held._replace(ended=Ended(Outcome.DONE, now))


def releases(held: Held, *, marked: bool = False) -> list[Change]:
    return [Change(each.scoped, each, done(each) if marked and each.scoped == A else None) for each in held]


@pytest.mark.rule("E16")
def test_a_group_is_granted_renewed_and_released_by_one_transaction_each(requests: Counter[str]) -> None:
    store = EtcdStore(fresh_config(), local_machine())
    holder = process_session(store).holder
    grant(store, of(holder, WARM, note="so that the lease of traces is there too"))
    for note in (None, "a note"):
        requests.clear()
        held = grant_all(store, wanted(holder, note=note))
        held = grant_all(store, [Change(each.scoped, each, renewed(each)) for each in held])
        assert store.swap_all(releases(held)).won
        assert requests == {"/kv/txn": 3}


@pytest.mark.rule("E16")
def test_a_group_of_files_is_judged_by_two_questions(requests: Counter[str]) -> None:
    store = EtcdStore(fresh_config(), local_machine())
    holder = process_session(store).holder
    grant(store, of(holder, WARM))
    requests.clear()
    files = tuple(file(f"/work/src/{name}") for name in ("a.py", "b.py", "*.md"))
    assert store.swap_all(wanted(holder, files), blocks=any_other).won
    assert requests == {"/kv/range": 1, "/kv/txn": 2}


@pytest.mark.rule("E13", "E16")
def test_what_is_stored_for_up_to_a_hundred_keys_is_read_by_one_question(
    requests: Counter[str], config: EtcdConfig
) -> None:
    earlier, store = (EtcdStore(config, local_machine()) for _ in range(2))
    held = grant(store, claim(A, session=2))
    gone = grant(earlier, of(process_session(earlier).holder, FAR, note="look here"))
    lease = earlier._connection().lease.current
    assert lease is not None
    revoke_lease(earlier._connection().gateway, lease.id, inf)
    many = [WARM._replace(key=f"{number}") for number in range(97)]
    requests.clear()
    first, second, third, *rest = store.read_all([A, B, FAR, *many])
    assert requests == {"/kv/txn": 1}
    assert (first, second, rest) == (held, None, [None] * 97)
    assert isinstance(third, Claim) and third.note == gone.note and third.ended is not None


@pytest.mark.rule("E5", "E16")
def test_claims_of_a_group_that_outlive_their_process_share_a_lease_and_a_marker_has_its_own(
    requests: Counter[str],
) -> None:
    store = EtcdStore(fresh_config(), local_machine())
    holder = named_session(store, "ci").holder
    requests.clear()
    held = grant_all(store, wanted(holder))
    assert requests == {"/kv/txn": 2, "/lease/grant": 1}
    assert len({each.leased.lease for each in held if each.leased}) == 1
    first, second, third = held
    grant_all(store, [Change(B, second, renewed(second)), Change(FAR, third, done(third))])
    assert len({lease_of(store, key) for key in GROUP}) == 3
    assert first.leased and lease_of(store, A) == first.leased.lease


@pytest.mark.rule("E5")
def test_a_group_that_is_not_free_makes_no_lease(requests: Counter[str]) -> None:
    store = EtcdStore(fresh_config(), local_machine())
    in_the_way = grant(store, claim(FAR, session=2))
    holder = named_session(store, "ci").holder
    requests.clear()
    lost = store.swap_all(wanted(holder))
    assert not lost.won and lost.found == (None, None, in_the_way)
    assert requests == {"/kv/txn": 1}


@pytest.mark.rule("E13", "E16")
def test_a_group_gets_the_notes_of_those_before_it(config: EtcdConfig) -> None:
    earlier = EtcdStore(config, local_machine())
    noted = [grant(earlier, of(process_session(earlier).holder, key, note=key.key)) for key in (A, FAR)]
    lease = earlier._connection().lease.current
    assert lease is not None
    revoke_lease(earlier._connection().gateway, lease.id, inf)
    later = EtcdStore(config, local_machine())
    swaps = later.swap_all(wanted(process_session(later).holder))
    assert swaps.won and [each and each.note for each in swaps.traces] == [noted[0].note, None, noted[1].note]


@pytest.mark.rule("E7", "E16")
def test_a_group_whose_answer_was_lost_is_recognized_as_ours(
    store: EtcdStore, proxy: Proxy, direct: EtcdStore, holder: Holder
) -> None:
    changes = wanted(holder)
    proxy.lose_answer_to(PUT)
    swaps = store.swap_all(changes)
    assert proxy.triggered.is_set()
    assert swaps.won and list(swaps.found) == state(direct)


@pytest.mark.rule("E7", "E16")
def test_a_group_that_never_arrived_is_sent_again_and_changes_nothing_when_it_arrives_late(
    store: EtcdStore, proxy: Proxy, direct: EtcdStore, holder: Holder
) -> None:
    proxy.hold(PUT)
    held = grant_all(store, wanted(holder))
    assert proxy.triggered.is_set()
    assert store.swap_all(releases(held)).won
    answer = proxy.deliver()
    assert answer.startswith(b"HTTP/1.1"), answer
    assert state(direct) == [None] * 3


@pytest.mark.rule("E7", "E16")
def test_a_group_of_unknown_outcome_is_undone_but_for_what_it_renewed(
    store: EtcdStore, proxy: Proxy, direct: EtcdStore, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = grant(store, of(holder, A))
    # It ends with what is granted beside it.
    longer = held._replace(expires=of(holder, A).expires)
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 1.5)
    proxy.lose_answer_to(PUT, then_cut=True)
    with pytest.raises(StoreUnavailableError, match="no endpoint of etcd answered in time"):
        store.swap_all([Change(A, held, longer), *wanted(holder, (B, FAR))])
    assert all(isinstance(each, Claim) for each in state(direct)), "it was applied"
    proxy.mend()
    # Until its leases are revoked, too.
    wait_until(lambda: not store._connection().keepalive._unknown_grants)
    assert state(direct) == [longer, None, None]


@pytest.mark.rule("E7", "E16")
@pytest.mark.parametrize("marked", [False, True], ids=["plain", "one of them done"])
def test_a_release_of_a_group_whose_answer_was_lost_is_reported_as_released(
    store: EtcdStore, proxy: Proxy, direct: EtcdStore, holder: Holder, marked: bool
) -> None:
    held = grant_all(store, wanted(holder))
    proxy.lose_answer_to(DELETION)
    assert store.swap_all(releases(held, marked=marked)).won
    assert proxy.triggered.is_set()
    assert [each is None for each in state(direct)] == [not marked, True, True]


@pytest.mark.rule("E7", "E16")
@pytest.mark.parametrize("meanwhile", ["one key is claimed", "one claim is removed"])
@pytest.mark.parametrize("arrives", [True, False], ids=["it arrives", "it does not"])
def test_a_release_of_a_group_in_doubt_counts_as_made_only_if_no_key_is_as_it_was(
    store: EtcdStore,
    proxy: Proxy,
    direct: EtcdStore,
    meanwhile: str,
    arrives: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    holder = process_session(store).holder
    held, resolve = grant_all(store, wanted(holder)), Transactions._resolve_unknown

    def in_between(*arguments: Any) -> Any:
        monkeypatch.undo()
        if arrives:
            proxy.deliver()
        else:
            assert direct.swap(B, held[1], None).won
        if meanwhile == "one key is claimed":
            grant(direct, claim(B, session=2))
        return resolve(*arguments)

    monkeypatch.setattr(Transactions, "_resolve_unknown", in_between)
    proxy.hold(DELETION)
    swaps = store.swap_all(releases(held))
    assert proxy.triggered.is_set()
    assert swaps.won is arrives
    if not arrives:
        assert list(swaps.found) == state(direct) and swaps.found[0] == held[0] and swaps.found[2] == held[2]


@pytest.mark.rule("E7", "E16")
def test_a_group_is_sent_again_with_the_fence_that_another_thread_has_moved(config: EtcdConfig) -> None:
    store = EtcdStore(config, local_machine())
    holder = process_session(store).holder
    grant(store, of(holder, WARM))
    lease = store._connection().lease.current
    assert lease is not None
    # Past the process's own memory, as the answer to another thread's request may still be under way.
    store._connection().lease._put_fence(lease.id, lease.fence.key, inf)
    assert store.swap_all(wanted(holder)).won
