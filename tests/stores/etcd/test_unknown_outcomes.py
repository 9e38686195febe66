"""Requests that were sent and not answered: their outcome is read back, never guessed, and no grant is applied late."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from mcp_claims.cli.verify import check_histories
from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.records import Claim, Outcome, ScopedKey
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Swap
from mcp_claims.stores.config import open_store
from mcp_claims.stores.etcd import store as etcd_store
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.gateway import Gateway, NoAnswerError
from mcp_claims.stores.etcd.lease import ProcessLease
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.etcd.txn import KeyChange, Transactions, unique_value
from mcp_claims.stores.history.reader import HistoryReader
from tests.stores.samples import KEY as SAMPLE_KEY
from tests.stores.samples import claim, grant
from tests.support.endpoints import wait_until
from tests.support.etcd import config_at
from tests.support.proxy import Proxy

TRANSACTION = b"POST /v3/kv/txn "
KEY = ScopedKey("default", "red")


@pytest.mark.rule("E7")
def test_a_grant_whose_answer_was_lost_is_recognized_as_ours(session: Session, proxy: Proxy, direct: EtcdStore) -> None:
    proxy.lose_answer_to(TRANSACTION)
    attempt = session.try_claim(KEY.key)
    assert proxy.triggered.is_set()
    assert (attempt.status, attempt.found) == (Status.ACQUIRED, direct.read(KEY))


@pytest.mark.rule("E7")
def test_a_renewal_whose_answer_was_lost_keeps_its_generation(
    session: Session, proxy: Proxy, direct: EtcdStore
) -> None:
    granted = session.try_claim(KEY.key).found
    proxy.lose_answer_to(TRANSACTION)
    attempt = session.try_claim(KEY.key, note="still on it")
    assert proxy.triggered.is_set()
    assert isinstance(granted, Claim) and isinstance(attempt.found, Claim)
    assert (attempt.status, attempt.found.generation) == (Status.RENEWED, granted.generation)
    assert direct.read(KEY) == attempt.found


@pytest.mark.rule("E7")
@pytest.mark.parametrize("outcome", [None, Outcome.DONE])
def test_a_release_whose_answer_was_lost_is_reported_as_released(
    session: Session, proxy: Proxy, direct: EtcdStore, outcome: Outcome | None
) -> None:
    session.try_claim(KEY.key)
    proxy.lose_answer_to(TRANSACTION)
    assert session.release(KEY.key, outcome=outcome).released
    assert proxy.triggered.is_set()
    assert isinstance(direct.read(KEY), Claim) is (outcome is Outcome.DONE)


@pytest.mark.rule("E7", "J6")
def test_a_release_whose_answer_was_lost_while_others_had_the_key_is_no_second_holder_in_the_history(
    proxy: Proxy, config: EtcdConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 60.0)
    through, past = (open_store(url=str(each)) for each in (config_at(proxy.port, config.prefix), config))
    session, other = process_session(through), named_session(past, "other")
    assert session.try_claim(KEY.key).claimed
    proxy.lose_answer_to(TRANSACTION, then_cut=True)
    with ThreadPoolExecutor(1) as pool:
        release = pool.submit(session.release, KEY.key)
        assert proxy.triggered.wait(30)
        wait_until(lambda: past.read(KEY) is None)
        for _ in range(2):
            assert other.try_claim(KEY.key).claimed
            assert other.release(KEY.key).released
        proxy.mend()
        assert release.result(60).released
    histories = [list(HistoryReader(store.history.directory).events()) for store in (through, past) if store.history]
    assert len(histories) == 2
    assert check_histories(histories).violations == []


@pytest.mark.rule("E7")
def test_a_grant_that_never_arrived_is_sent_again_and_changes_nothing_when_it_arrives_late(
    session: Session, proxy: Proxy, direct: EtcdStore
) -> None:
    proxy.hold(TRANSACTION)
    assert session.try_claim(KEY.key).status is Status.ACQUIRED
    assert proxy.triggered.is_set()
    assert session.release(KEY.key).released
    # The key is as it was when the first request was sent.  Applied now, it would be a grant that nobody knows of.
    answer = proxy.deliver()
    assert answer.startswith(b"HTTP/1.1"), answer
    assert direct.read(KEY) is None


@pytest.mark.rule("E7")
def test_a_grant_of_unknown_outcome_is_an_error_and_is_undone_as_soon_as_the_cluster_answers(
    session: Session, proxy: Proxy, direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 1.5)
    proxy.lose_answer_to(TRANSACTION, then_cut=True)
    with pytest.raises(StoreUnavailableError, match="no endpoint of etcd answered in time"):
        session.try_claim(KEY.key)
    await_freed(direct, proxy)


@pytest.mark.rule("C14", "E7")
@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.FAILED])
@pytest.mark.parametrize("of", ["ends with its process", "outlives its process"])
def test_what_a_grant_of_unknown_outcome_has_replaced_is_there_again(
    store: EtcdStore,
    proxy: Proxy,
    direct: EtcdStore,
    of: str,
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = process_session(direct)
    assert other.try_claim(KEY.key).claimed
    assert other.release(KEY.key, outcome=outcome, note="look here").released
    marker = direct.read(KEY)
    session = process_session(store) if of == "ends with its process" else named_session(store, "ci")
    assert session.queue.join(KEY, 60) is not None, "one that waits reads before it claims"
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 1.5)
    proxy.lose_answer_to(TRANSACTION, then_cut=True)
    with pytest.raises(StoreUnavailableError, match="no endpoint of etcd answered in time"):
        session.try_claim(KEY.key, redo=True)
    granted = direct.read(KEY)
    assert isinstance(granted, Claim) and granted.ended is None
    proxy.mend()
    wait_until(lambda: direct.read(KEY) != granted)
    assert direct.read(KEY) == marker


@pytest.mark.rule("E7")
def test_a_grant_in_doubt_is_known_by_the_bytes_that_it_put(direct: EtcdStore) -> None:
    """Another thread of its session may have put an equal one."""
    found = grant(direct, claim())
    assert found.leased is not None and found.leased.value is not None
    assert KeyChange(b"key", 0, found.leased.value).has_put_claim(found)
    assert not KeyChange(b"key", 0, unique_value(found)).has_put_claim(found)


@pytest.mark.rule("E7")
def test_two_sessions_with_unknown_grants_of_one_key_both_end_without_it(
    store: EtcdStore, proxy: Proxy, direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = process_session(store), process_session(store)
    assert first.try_claim("warm").claimed
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 1.5)
    # The grant to the first is applied; the request of the second never arrives.
    proxy.lose_answer_to(TRANSACTION, then_cut=True)
    for session in (first, second):
        with pytest.raises(StoreUnavailableError):
            session.try_claim(KEY.key)
        proxy.cut()
    await_freed(direct, proxy)


@pytest.mark.rule("E7")
def test_a_grant_answered_after_the_trust_time_is_undone_if_its_lease_cannot_be_confirmed(
    store: EtcdStore, proxy: Proxy, direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = process_session(store)
    assert session.try_claim("warm").claimed
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 1.5)
    commit = Transactions.commit

    def then_paused(*arguments: Any) -> Any:
        outcome = commit(*arguments)
        monkeypatch.undo()
        monkeypatch.setattr(ProcessLease, "is_trusted", lambda *_: False)
        proxy.cut()
        return outcome

    monkeypatch.setattr(Transactions, "commit", then_paused)
    with pytest.raises(StoreUnavailableError):
        session.try_claim(KEY.key)
    await_freed(direct, proxy)


@pytest.mark.rule("E7")
@pytest.mark.parametrize("outcome", [None, Outcome.DONE])
def test_a_release_that_arrives_just_before_it_is_sent_again_is_reported_as_released(
    session: Session, proxy: Proxy, direct: EtcdStore, outcome: Outcome | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.try_claim(KEY.key)
    resolve = Transactions._resolve_unknown

    def then_it_arrives(*arguments: Any) -> Any:
        found = resolve(*arguments)
        proxy.deliver()
        return found

    monkeypatch.setattr(Transactions, "_resolve_unknown", then_it_arrives)
    proxy.hold(TRANSACTION)
    release = session.release(KEY.key, outcome=outcome)
    assert proxy.triggered.is_set()
    assert (release.released, release.lost) == (True, None)
    assert isinstance(direct.read(KEY), Claim) is (outcome is Outcome.DONE)


@pytest.mark.rule("E7")
@pytest.mark.parametrize("arrives", ["at once", "just before it is sent again"])
@pytest.mark.parametrize("outcome", [None, Outcome.FAILED])
def test_a_release_whose_answer_was_lost_is_reported_as_released_although_another_session_has_claimed_since(
    session: Session,
    proxy: Proxy,
    direct: EtcdStore,
    outcome: Outcome | None,
    arrives: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session.try_claim(KEY.key)
    rival, resolve = process_session(direct), Transactions._resolve_unknown
    late = arrives != "at once"
    if late:
        proxy.hold(TRANSACTION)
    else:
        proxy.lose_answer_to(TRANSACTION)

    def meanwhile(*arguments: Any) -> Any:
        found = resolve(*arguments) if late else None
        if late:
            proxy.deliver()
        assert rival.try_claim(KEY.key, redo=True).status is Status.ACQUIRED
        return found if late else resolve(*arguments)

    monkeypatch.setattr(Transactions, "_resolve_unknown", meanwhile)
    release = session.release(KEY.key, outcome=outcome)
    assert proxy.triggered.is_set()
    assert (release.released, release.lost) == (True, None)
    assert rival.release(KEY.key).released


@pytest.mark.rule("E7")
@pytest.mark.parametrize("outcome", [None, Outcome.FAILED])
def test_a_release_of_unknown_outcome_releases_a_claim_that_a_parallel_call_renewed_meanwhile(
    session: Session, proxy: Proxy, direct: EtcdStore, outcome: Outcome | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.try_claim(KEY.key)
    resolve = Transactions._resolve_unknown

    def meanwhile(*arguments: Any) -> Any:
        assert session.try_claim(KEY.key, note="still on it").status is Status.RENEWED
        return resolve(*arguments)

    monkeypatch.setattr(Transactions, "_resolve_unknown", meanwhile)
    proxy.hold(TRANSACTION)
    assert session.release(KEY.key, outcome=outcome).released
    assert proxy.triggered.is_set()
    left = direct.read(KEY)
    assert left is None if outcome is None else isinstance(left, Claim) and left.ended


@pytest.mark.rule("E7")
@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_claim_lost_during_a_release_of_unknown_outcome_is_reported_as_lost(
    session: Session, proxy: Proxy, store: EtcdStore, direct: EtcdStore, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = session.try_claim(KEY.key).found
    rival, resolve = process_session(direct), Transactions._resolve_unknown

    def meanwhile(*arguments: Any) -> Any:
        found = direct.read(KEY)
        assert isinstance(found, Claim)
        if how == "revoked":
            assert rival.revoke(found)
        else:
            monkeypatch.setattr(store, "is_trusted", lambda _: False)
            assert direct.discard(found)
            assert rival.try_claim(KEY.key).claimed
        return resolve(*arguments)

    monkeypatch.setattr(Transactions, "_resolve_unknown", meanwhile)
    proxy.hold(TRANSACTION)
    release = session.release(KEY.key)
    assert proxy.triggered.is_set()
    assert not release.released
    assert release.lost == granted


@pytest.mark.rule("E7")
def test_a_claim_that_is_gone_after_a_removal_of_unknown_outcome_counts_as_removed(
    session: Session, proxy: Proxy, store: EtcdStore, direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of an expired claim, neither time nor lease says who has removed it.
    monkeypatch.setattr(store, "is_trusted", lambda _: False)
    found = session.try_claim(KEY.key).found
    proxy.lose_answer_to(TRANSACTION)
    assert store.discard(found)
    assert proxy.triggered.is_set()
    assert direct.read(KEY) is None


@pytest.mark.rule("E7")
def test_an_equal_claim_that_somebody_else_put_meanwhile_is_not_taken_for_our_own(
    proxy: Proxy, store: EtcdStore, direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = Transactions._resolve_unknown

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.undo()
        assert direct.swap(SAMPLE_KEY, None, claim()).won
        return resolve(*arguments)

    monkeypatch.setattr(Transactions, "_resolve_unknown", meanwhile)
    proxy.hold(TRANSACTION)
    assert store.swap(SAMPLE_KEY, None, claim()) == Swap(False, direct.read(SAMPLE_KEY))
    assert proxy.triggered.is_set()


def await_freed(direct: EtcdStore, proxy: Proxy) -> None:
    """Mend the proxy, and wait until the key is free."""
    assert isinstance(direct.read(KEY), Claim), "the grant was applied"
    freed = Event()
    with direct.watch(KEY, freed.set):
        proxy.mend()
        assert freed.wait(30)
    assert direct.read(KEY) is None


@pytest.mark.rule("E7")
def test_an_outcome_stays_unknown_where_nothing_more_can_be_sent(
    direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, problems, sent = process_session(direct), {"one:2379": "no connection"}, list[str]()
    assert session.try_claim(KEY.key).claimed

    def broken(_: Gateway, path: str, *__: object, **___: object) -> dict[str, Any]:
        sent.append(path)
        raise NoAnswerError(problems, outcome_unknown=len(sent) == 1)

    with monkeypatch.context() as patched:
        patched.setattr(Gateway, "call", broken)
        with pytest.raises(StoreUnavailableError, match="It is not known whether the change was made"):
            session.release(KEY.key)
    assert sent[0] == "/kv/txn"
    assert session.release(KEY.key).released
