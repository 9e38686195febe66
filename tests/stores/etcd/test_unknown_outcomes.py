"""What was sent and not answered: found out by reading, never guessed, and never done late."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim, Outcome, ScopedKey
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.etcd import store as etcd_store
from mcp_claims.stores.etcd.config import Address
from mcp_claims.stores.etcd.lease import ProcessLease
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.etcd.txn import Changes
from tests.support.etcd import fresh_address, one_node
from tests.support.proxy import Proxy

TRANSACTION = b"POST /v3/kv/txn "
KEY = ScopedKey("default", "red")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy(one_node().clients[0])
    yield made
    made.close()


@pytest.fixture
def address() -> Address:
    return fresh_address()


@pytest.fixture
def store(proxy: Proxy, address: Address) -> EtcdStore:
    """A store whose only way to the cluster is the proxy."""
    return EtcdStore(Address((("127.0.0.1", proxy.port),), address.prefix), local_machine())


@pytest.fixture
def read_only(address: Address) -> EtcdStore:
    """A store that sees what is stored."""
    return EtcdStore(address, local_machine())


@pytest.fixture(params=["bound to its process", "outliving it"])
def session(request: pytest.FixtureRequest, store: EtcdStore) -> Session:
    opened = process_session(store) if request.param == "bound to its process" else named_session(store, "ci")
    assert opened.try_claim("warm").claimed
    return opened


@pytest.mark.rule("E7")
def test_a_grant_whose_answer_was_lost_is_found_to_be_ours(
    session: Session, proxy: Proxy, read_only: EtcdStore
) -> None:
    proxy.lose_answer_to(TRANSACTION)
    attempt = session.try_claim(KEY.key)
    assert proxy.happened.is_set()
    assert (attempt.status, attempt.found) == (Status.ACQUIRED, read_only.read(KEY))


def test_a_renewal_whose_answer_was_lost_keeps_its_generation(
    session: Session, proxy: Proxy, read_only: EtcdStore
) -> None:
    granted = session.try_claim(KEY.key).found
    proxy.lose_answer_to(TRANSACTION)
    attempt = session.try_claim(KEY.key, note="still on it")
    assert proxy.happened.is_set()
    assert isinstance(granted, Claim) and isinstance(attempt.found, Claim)
    assert (attempt.status, attempt.found.generation) == (Status.RENEWED, granted.generation)
    assert read_only.read(KEY) == attempt.found


@pytest.mark.rule("E7")
@pytest.mark.parametrize("outcome", [None, Outcome.DONE])
def test_a_release_whose_answer_was_lost_is_a_release(
    session: Session, proxy: Proxy, read_only: EtcdStore, outcome: Outcome | None
) -> None:
    session.try_claim(KEY.key)
    proxy.lose_answer_to(TRANSACTION)
    assert session.release(KEY.key, outcome=outcome).released
    assert proxy.happened.is_set()
    assert isinstance(read_only.read(KEY), Claim) is (outcome is Outcome.DONE)


@pytest.mark.rule("E7")
def test_a_grant_that_never_arrived_is_asked_for_again_and_its_late_arrival_does_nothing(
    session: Session, proxy: Proxy, read_only: EtcdStore
) -> None:
    proxy.hold(TRANSACTION)
    assert session.try_claim(KEY.key).status is Status.ACQUIRED
    assert proxy.happened.is_set()
    assert session.release(KEY.key).released
    # The key is as it was when the first question was sent.  Made now, its grant would be one that nobody knows of.
    answer = proxy.deliver()
    assert answer.startswith(b"HTTP/1.1"), answer
    assert read_only.read(KEY) is None


@pytest.mark.rule("E7")
def test_a_grant_whose_outcome_cannot_be_found_out_is_an_error_and_goes_as_soon_as_it_can(
    session: Session, proxy: Proxy, read_only: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_store, "ANSWER_WITHIN", 0.5)
    proxy.lose_answer_to(TRANSACTION, and_cut=True)
    with pytest.raises(StoreUnavailableError, match="no endpoint of etcd has answered in time"):
        session.try_claim(KEY.key)
    await_freed(read_only, proxy)


@pytest.mark.rule("E7")
def test_of_two_sessions_of_a_process_that_are_in_doubt_about_one_key_neither_keeps_it(
    store: EtcdStore, proxy: Proxy, read_only: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = process_session(store), process_session(store)
    assert first.try_claim("warm").claimed
    monkeypatch.setattr(etcd_store, "ANSWER_WITHIN", 0.5)
    # The first is granted it; what the second asks for never arrives.
    proxy.lose_answer_to(TRANSACTION, and_cut=True)
    for session in (first, second):
        with pytest.raises(StoreUnavailableError):
            session.try_claim(KEY.key)
        proxy.cut()
    await_freed(read_only, proxy)


@pytest.mark.rule("E7")
def test_a_grant_that_is_answered_too_late_to_be_relied_on_goes_if_its_lease_cannot_be_asked_about(
    store: EtcdStore, proxy: Proxy, read_only: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = process_session(store)
    assert session.try_claim("warm").claimed
    monkeypatch.setattr(etcd_store, "ANSWER_WITHIN", 0.5)
    change = Changes.make

    def stopped_meanwhile(*arguments: Any) -> Any:
        made = change(*arguments)
        monkeypatch.undo()
        monkeypatch.setattr(ProcessLease, "is_trusted", lambda *_: False)
        proxy.cut()
        return made

    monkeypatch.setattr(Changes, "make", stopped_meanwhile)
    with pytest.raises(StoreUnavailableError):
        session.try_claim(KEY.key)
    await_freed(read_only, proxy)


@pytest.mark.rule("E7")
@pytest.mark.parametrize("outcome", [None, Outcome.DONE])
def test_a_release_that_arrives_late_just_before_it_is_asked_for_again_is_a_release(
    session: Session, proxy: Proxy, read_only: EtcdStore, outcome: Outcome | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.try_claim(KEY.key)
    find_out = Changes._find_out

    def then_it_arrives(*arguments: Any) -> Any:
        found = find_out(*arguments)
        proxy.deliver()
        return found

    monkeypatch.setattr(Changes, "_find_out", then_it_arrives)
    proxy.hold(TRANSACTION)
    release = session.release(KEY.key, outcome=outcome)
    assert proxy.happened.is_set()
    assert (release.released, release.lost) == (True, None)
    assert isinstance(read_only.read(KEY), Claim) is (outcome is Outcome.DONE)


@pytest.mark.rule("E7")
@pytest.mark.parametrize("arrives", ["at once", "when it is about to be asked for again"])
@pytest.mark.parametrize("outcome", [None, Outcome.FAILED])
def test_a_release_whose_answer_was_lost_is_one_although_another_has_claimed_since(
    session: Session,
    proxy: Proxy,
    read_only: EtcdStore,
    outcome: Outcome | None,
    arrives: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session.try_claim(KEY.key)
    rival, find_out = process_session(read_only), Changes._find_out
    late = arrives != "at once"
    if late:
        proxy.hold(TRANSACTION)
    else:
        proxy.lose_answer_to(TRANSACTION)

    def meanwhile(*arguments: Any) -> Any:
        found = find_out(*arguments) if late else None
        if late:
            proxy.deliver()
        assert rival.try_claim(KEY.key, redo=True).status is Status.ACQUIRED
        return found if late else find_out(*arguments)

    monkeypatch.setattr(Changes, "_find_out", meanwhile)
    release = session.release(KEY.key, outcome=outcome)
    assert proxy.happened.is_set()
    assert (release.released, release.lost) == (True, None)
    assert rival.release(KEY.key).released


@pytest.mark.rule("E7")
@pytest.mark.parametrize("outcome", [None, Outcome.FAILED])
def test_a_claim_that_a_parallel_call_renewed_while_its_release_was_not_answered_is_released(
    session: Session, proxy: Proxy, read_only: EtcdStore, outcome: Outcome | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.try_claim(KEY.key)
    find_out = Changes._find_out

    def meanwhile(*arguments: Any) -> Any:
        assert session.try_claim(KEY.key, note="still on it").status is Status.RENEWED
        return find_out(*arguments)

    monkeypatch.setattr(Changes, "_find_out", meanwhile)
    proxy.hold(TRANSACTION)
    assert session.release(KEY.key, outcome=outcome).released
    assert proxy.happened.is_set()
    left = read_only.read(KEY)
    assert left is None if outcome is None else isinstance(left, Claim) and left.ended


@pytest.mark.rule("E7")
@pytest.mark.parametrize("how", ["by force", "when its time was up"])
def test_a_claim_that_was_lost_while_its_release_was_not_answered_is_told_as_lost(
    session: Session, proxy: Proxy, store: EtcdStore, read_only: EtcdStore, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = session.try_claim(KEY.key).found
    rival, find_out = process_session(read_only), Changes._find_out

    def meanwhile(*arguments: Any) -> Any:
        found = read_only.read(KEY)
        assert isinstance(found, Claim)
        if how == "by force":
            assert rival.revoke(found)
        else:
            monkeypatch.setattr(store, "trusted", lambda _: False)
            assert read_only.discard(found)
            assert rival.try_claim(KEY.key).claimed
        return find_out(*arguments)

    monkeypatch.setattr(Changes, "_find_out", meanwhile)
    proxy.hold(TRANSACTION)
    release = session.release(KEY.key)
    assert proxy.happened.is_set()
    assert not release.released
    assert release.lost == granted


@pytest.mark.rule("E7")
def test_what_is_gone_after_its_removal_was_not_answered_was_removed(
    session: Session, proxy: Proxy, store: EtcdStore, read_only: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a dead claim nobody's time or lease tells who has removed it.
    monkeypatch.setattr(store, "trusted", lambda _: False)
    found = session.try_claim(KEY.key).found
    proxy.lose_answer_to(TRANSACTION)
    assert store.discard(found)
    assert proxy.happened.is_set()
    assert read_only.read(KEY) is None


def await_freed(read_only: EtcdStore, proxy: Proxy) -> None:
    """Mend the way to the cluster, and wait until the key is free."""
    assert isinstance(read_only.read(KEY), Claim), "it has been granted"
    freed = Event()
    with read_only.watch(KEY, freed.set):
        proxy.mend()
        assert freed.wait(20)
    assert read_only.read(KEY) is None
