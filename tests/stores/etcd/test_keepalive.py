"""The thread that tends the lease: each claim goes at its own time, and none keeps the lease from being renewed."""

from __future__ import annotations

from itertools import pairwise
from threading import Event
from typing import Any

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim, Proof, ScopedKey
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd.gateway import Transport
from mcp_claims.stores.etcd.keepalive import Tender
from mcp_claims.stores.etcd.lease import TTL, Lease
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.etcd.txn import Changes
from tests.support.etcd import fresh_address, fresh_store
from tests.support.etcd_keys import lease_of
from tests.support.machines import World

KEY = ScopedKey("default", "red")
SOON = 20.0
SHORT = 1.5 / 60


@pytest.mark.rule("E4")
def test_a_claim_goes_at_its_own_time_not_at_that_of_one_before_it_which_was_taken_away() -> None:
    store, elsewhere = fresh_store(), World()
    read_only = EtcdStore(store.address, elsewhere.process())
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
def test_a_release_that_is_over_late_takes_no_notice_of_the_claim_of_another_session_that_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, elsewhere = fresh_store(), World()
    read_only = EtcdStore(store.address, elsewhere.process())
    first, second = process_session(store), process_session(store)
    assert first.try_claim(KEY.key, ttl_minutes=SHORT).claimed
    change = Changes.make

    def then_another_claims(*arguments: Any) -> Any:
        made = change(*arguments)
        monkeypatch.undo()
        assert second.try_claim(KEY.key, ttl_minutes=SHORT).claimed
        return made

    monkeypatch.setattr(Changes, "make", then_another_claims)
    assert first.release(KEY.key).released
    freed = Event()
    assert isinstance(read_only.read(KEY), Claim)
    with read_only.watch(KEY, freed.set):
        assert freed.wait(SOON)
    assert read_only.read(KEY) is None


@pytest.mark.rule("E4")
def test_what_has_been_given_back_is_not_looked_at_again() -> None:
    store = fresh_store()
    session = process_session(store)
    for _ in range(3):
        assert session.try_claim(KEY.key).claimed
        assert session.try_claim(KEY.key, ttl_minutes=60).claimed
        assert not process_session(store).try_claim(KEY.key).claimed
        assert session.release(KEY.key).released
    assert store._process().tender._expiries == {}


@pytest.mark.rule("E2")
def test_however_many_claims_run_out_the_lease_is_renewed_in_time() -> None:
    now = 0.0
    renewals = [0.0]
    expired: list[bytes] = []
    done = Event()

    class ALease:
        current = Lease(1, b"fence", 1, 27.0)

        def renew(self, *_: object) -> bool:
            renewals.append(now)
            return True

    def expire(key: bytes) -> None:
        nonlocal now
        now += 1  # A slow cluster.
        expired.append(key)
        if len(expired) == 100:
            done.set()

    tender = Tender(ALease(), lambda: now, expire, lambda _: None)  # type: ignore[arg-type]
    for number in range(100):
        tender.expect(b"%d" % number, 0.0)
    assert done.wait(SOON)
    tender.end()
    assert len(set(expired)) == 100
    assert max(after - before for before, after in pairwise(renewals)) <= TTL / 2
    assert len(renewals) > 5


@pytest.mark.rule("E2")
def test_threads_that_are_the_first_to_claim_do_so_under_one_lease() -> None:
    class Here:
        """A machine on which both threads are about to begin before either has begun."""

        def __init__(self) -> None:
            self._machine, self._first = local_machine(), True
            self.now, self.host, self.pid = self._machine.now, self._machine.host, self._machine.pid

        def proof(self) -> Proof:
            first, self._first = self._first, False
            if first:
                # Another thread gets past here meanwhile, and claims.
                assert session.try_claim("one").claimed
            return self._machine.proof()

    here = Here()
    store = EtcdStore(fresh_address(), here)
    session = process_session(store)
    assert session.try_claim("two").claimed
    assert lease_of(store, ScopedKey("default", "one")) == lease_of(store, ScopedKey("default", "two"))
    store.close(within=5)
    assert list(store.scan()) == []


@pytest.mark.rule("E5")
def test_an_attempt_that_is_refused_makes_no_lease() -> None:
    store = fresh_store()
    transport = Transport(store.address)

    def there() -> int:
        return len(transport.ask("/lease/leases", {}, deadline_in(5)).get("leases", []))

    assert process_session(store).try_claim(KEY.key).claimed
    before = there()
    for number in range(5):
        assert not named_session(store, f"ci {number}").try_claim(KEY.key).claimed
    assert there() == before
