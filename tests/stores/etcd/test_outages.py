"""The cluster is away for a while: waits outlive that, and the words say what is not known."""

from __future__ import annotations

from threading import Event, Thread

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.validation import ClaimRequest
from mcp_claims.render.answers import claim_answer
from mcp_claims.session import acquire
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.results import ClaimResult
from mcp_claims.session.session import Session
from mcp_claims.stores.etcd import store as etcd_store
from mcp_claims.stores.etcd.store import EtcdStore
from tests.stores.etcd.test_unknown_outcomes import TRANSACTION
from tests.support.endpoints import wait_until
from tests.support.proxy import Proxy

KEY = "red"


@pytest.mark.rule("E8")
@pytest.mark.parametrize("loses_its_place", [False, True])
def test_a_wait_outlives_an_outage(
    store: EtcdStore, direct: EtcdStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, loses_its_place: bool
) -> None:
    for interval in ("_POLL_INTERVAL", "_LONG_POLL_INTERVAL", "_WATCHED_POLL_INTERVAL"):
        monkeypatch.setattr(acquire, interval, 0.1)
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 1.0)
    holder, waiter = named_session(direct, "holder"), process_session(store)
    assert holder.try_claim(KEY).claimed
    results, refused, failed = list[ClaimResult](), Event(), Event()
    try_request = Session.try_request

    def noting(session: Session, *arguments: object, **options: object) -> ClaimResult:
        try:
            return try_request(session, *arguments, **options)  # type: ignore[arg-type]
        except StoreUnavailableError:
            failed.set()
            raise

    def wait() -> None:
        request = ClaimRequest.parse(key=KEY, wait_seconds=120)
        results.append(acquire.acquire(waiter, request, refused=lambda _: refused.set()))

    monkeypatch.setattr(Session, "try_request", noting)
    thread = Thread(target=wait)
    thread.start()
    assert refused.wait(60)
    proxy.cut()
    assert failed.wait(60)
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 4.0)
    if loses_its_place:
        # As if it had lasted for longer than the lease to which the ticket is attached.
        direct.change_tickets("default", lambda _: ())
    proxy.mend()
    refused.clear()
    assert refused.wait(60)
    assert holder.release(KEY).released
    thread.join(120)
    assert [result.claimed for result in results] == [True]


@pytest.mark.rule("E7")
def test_a_release_of_unknown_outcome_says_so_and_is_no_loss_later(
    session: Session, proxy: Proxy, direct: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert session.try_claim(KEY).claimed
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 1.5)
    proxy.lose_answer_to(TRANSACTION, then_cut=True)
    with pytest.raises(StoreUnavailableError, match="It is not known whether the change was made"):
        session.release(KEY)
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 4.0)
    proxy.mend()
    assert named_session(direct, "next").try_claim(KEY).claimed
    result = session.try_claim(KEY)
    assert (result.claimed, result.lost) == (False, None)


@pytest.mark.rule("E2")
def test_a_grant_says_after_how_long_without_contact_it_is_lost(store: EtcdStore) -> None:
    request = ClaimRequest.parse(key=KEY)
    for session, said in ((process_session(store), True), (named_session(store, "ci"), False)):
        result = session.try_request(request)
        answer = claim_answer(request.scoped, result, contact_timeout=session.contact_timeout(result))
        assert ("It is lost after 30 s without contact to etcd." in answer.text) is said
        session.release(KEY)


@pytest.mark.rule("E8")
def test_a_wait_reports_its_progress_in_an_outage(
    store: EtcdStore, direct: EtcdStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for interval in ("_POLL_INTERVAL", "_PROGRESS_INTERVAL"):
        monkeypatch.setattr(acquire, interval, 0.05)
    monkeypatch.setattr(etcd_store, "CALL_TIMEOUT", 0.5)
    holder, waiter = named_session(direct, "holder"), process_session(store)
    assert holder.try_claim(KEY).claimed
    refused, reported = Event(), Event()

    def wait() -> None:
        request = ClaimRequest.parse(key=KEY, wait_seconds=120)
        acquire.acquire(waiter, request, refused=lambda _: refused.set(), progress=lambda _: reported.set())

    (thread := Thread(target=wait)).start()
    assert refused.wait(60)
    proxy.cut()
    wait_until(lambda: _is_out(waiter))
    reported.clear()
    # The host gives a call up from which it hears nothing.
    assert reported.wait(60)
    assert holder.release(KEY).released
    proxy.mend()
    thread.join(60)
    assert not thread.is_alive()


def _is_out(session: Session) -> bool:
    try:
        session.inspect("whatever")
    except StoreUnavailableError:
        return True
    return False
