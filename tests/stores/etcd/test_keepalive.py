"""The keep-alive thread: each claim ends at its own expiry, and no work delays the renewal of the lease."""

from __future__ import annotations

import itertools
from itertools import pairwise
from threading import Event
from typing import Any

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim, Proof, ScopedKey
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.stores.etcd import lease as leases
from mcp_claims.stores.etcd.keepalive import LeaseKeepAlive
from mcp_claims.stores.etcd.lease import TTL, Fence, Lease
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.etcd.txn import Transactions
from tests.support.etcd import fresh_config, fresh_store
from tests.support.etcd_keys import lease_of
from tests.support.machines import World

KEY = ScopedKey("default", "red")
SOON = 30.0
SHORT = 3 / 60  # min; long enough to look at the claim before it expires, on a busy machine too


@pytest.mark.rule("E4")
def test_a_claim_ends_at_its_own_expiry_not_at_that_of_a_revoked_one_before_it() -> None:
    store, elsewhere = fresh_store(), World()
    read_only = EtcdStore(store.config, elsewhere.process())
    session, admin = process_session(store), process_session(read_only, elsewhere.process())
    session.try_claim(KEY.key, ttl_minutes=60)
    held = read_only.read(KEY)
    assert isinstance(held, Claim) and admin.revoke(held)
    freed = Event()
    assert process_session(store).try_claim(KEY.key, ttl_minutes=SHORT).claimed
    assert isinstance(read_only.read(KEY), Claim)
    with read_only.watch(KEY, freed.set):
        assert freed.wait(SOON)
    assert read_only.read(KEY) is None


@pytest.mark.rule("E4")
def test_a_slow_release_does_not_cancel_the_expiry_of_the_next_claim_by_another_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, elsewhere = fresh_store(), World()
    read_only = EtcdStore(store.config, elsewhere.process())
    first, second = process_session(store), process_session(store)
    assert first.try_claim(KEY.key, ttl_minutes=SHORT).claimed
    commit = Transactions.commit

    def then_another_claims(*arguments: Any) -> Any:
        outcome = commit(*arguments)
        monkeypatch.undo()
        assert second.try_claim(KEY.key, ttl_minutes=SHORT).claimed
        return outcome

    monkeypatch.setattr(Transactions, "commit", then_another_claims)
    assert first.release(KEY.key).released
    freed = Event()
    assert isinstance(read_only.read(KEY), Claim)
    with read_only.watch(KEY, freed.set):
        assert freed.wait(SOON)
    assert read_only.read(KEY) is None


@pytest.mark.rule("E4")
def test_a_refused_attempt_does_not_cancel_the_expiry_of_the_holder_in_the_same_process() -> None:
    store, elsewhere = fresh_store(), World()
    read_only = EtcdStore(store.config, elsewhere.process())
    assert process_session(store).try_claim(KEY.key, ttl_minutes=SHORT).claimed
    assert not process_session(store).try_claim(KEY.key, ttl_minutes=60).claimed
    freed = Event()
    assert isinstance(read_only.read(KEY), Claim)
    with read_only.watch(KEY, freed.set):
        assert freed.wait(SOON / 2), "before the lease of the process could end it"
    assert read_only.read(KEY) is None


@pytest.mark.rule("E4")
def test_a_released_claim_leaves_no_expiry_behind() -> None:
    store = fresh_store()
    session = process_session(store)
    for _ in range(3):
        assert session.try_claim(KEY.key).claimed
        assert session.try_claim(KEY.key, ttl_minutes=60).claimed
        assert not process_session(store).try_claim(KEY.key).claimed
        assert session.release(KEY.key).released
    assert store._connection().keepalive._expiries == {}


@pytest.mark.rule("E2")
def test_many_expiries_do_not_delay_the_renewal_of_the_lease() -> None:
    now = 0.0
    renewals = [0.0]
    expired: list[bytes] = []
    done = Event()

    class FakeLease:
        current = Lease(1, Fence(b"fence", 1), 27.0)

        def renew(self, *_: object) -> bool:
            renewals.append(now)
            return True

    def expire(key: bytes) -> None:
        nonlocal now
        now += 1  # A slow cluster.
        expired.append(key)
        if len(expired) == 100:
            done.set()

    keepalive = LeaseKeepAlive(FakeLease(), lambda: now, expire, lambda _: None)  # type: ignore[arg-type]
    for number in range(100):
        keepalive.schedule_expiry(b"%d" % number, 0.0)
    assert done.wait(SOON)
    keepalive.stop()
    assert len(set(expired)) == 100
    assert max(after - before for before, after in pairwise(renewals)) <= TTL / 2
    assert len(renewals) > 5


@pytest.mark.rule("E2")
def test_two_threads_that_both_make_the_first_claim_share_one_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = local_machine()
    proof, calls = machine.proof, itertools.count()

    def then_another_thread_claims() -> Proof:
        if next(calls) == 0:
            # The first thread is connecting; meanwhile another one connects and claims.
            assert session.try_claim("one").claimed
        return proof()

    store = EtcdStore(fresh_config(), machine)
    session = process_session(store)
    monkeypatch.setattr(machine, "proof", then_another_thread_claims)
    assert session.try_claim("two").claimed
    assert lease_of(store, ScopedKey("default", "one")) == lease_of(store, ScopedKey("default", "two"))
    store.close(within=5)
    assert list(store.scan()) == []


@pytest.mark.rule("E5")
def test_a_refused_attempt_grants_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fresh_store()
    assert process_session(store).try_claim(KEY.key).claimed
    granted: list[object] = []
    monkeypatch.setattr(leases, "grant_lease", lambda *arguments: granted.append(arguments))
    for number in range(5):
        assert not named_session(store, f"ci {number}").try_claim(KEY.key).claimed
    assert granted == []
