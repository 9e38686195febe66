"""The stream of changes breaks, and is taken up where it was."""

from __future__ import annotations

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.config import Address
from mcp_claims.stores.etcd.gateway import Transport
from mcp_claims.stores.etcd.store import EtcdStore
from tests.stores.contract import WATCHED_WITHIN, Told
from tests.stores.samples import KEY, claim, grant
from tests.support.etcd import Cluster, fresh_address, one_node
from tests.support.proxy import Proxy


@pytest.mark.rule("E11")
def test_what_changes_while_the_stream_is_broken_is_told_when_it_is_back() -> None:
    proxy, address = Proxy(one_node().clients[0]), fresh_address()
    store = EtcdStore(Address((("127.0.0.1", proxy.port),), address.prefix), local_machine())
    others = EtcdStore(address, local_machine())
    granted = grant(store, claim())
    told = Told()
    with store.watch(KEY, told):
        again = grant(others, claim(session=2), over=granted)
        assert told.wait(WATCHED_WITHIN)
        proxy.cut()
        told.clear()
        assert others.swap(KEY, again, None).won
        assert not told.wait(0.5)
        proxy.mend()
        assert told.wait(WATCHED_WITHIN)
    proxy.close()


@pytest.mark.rule("E11")
def test_whoever_was_behind_when_history_was_compacted_is_told_so_and_of_what_changes_later() -> None:
    proxy, address = Proxy(one_node().clients[0]), fresh_address()
    store = EtcdStore(Address((("127.0.0.1", proxy.port),), address.prefix), local_machine())
    session = process_session(EtcdStore(address, local_machine()))
    transport, told = Transport(address), Told()
    store.read(KEY)
    with store.watch(KEY, told):
        assert session.try_claim(KEY.key, KEY.namespace).claimed
        assert told.wait(WATCHED_WITHIN)
        proxy.cut()
        for _ in range(3):
            assert session.try_claim(KEY.key, KEY.namespace).claimed
        now = messages.revision_of(transport.ask("/kv/range", messages.one(b"any"), deadline_in(4)))
        transport.ask("/kv/compaction", {"revision": str(now)}, deadline_in(4))
        told.clear()
        proxy.mend()
        assert told.wait(WATCHED_WITHIN), "anything may have changed"
        told.clear()
        assert session.release(KEY.key, KEY.namespace).released
        assert told.wait(WATCHED_WITHIN)
    proxy.close()


@pytest.mark.rule("E11")
def test_whoever_watches_a_cluster_that_was_emptied_is_told_of_what_changes_in_it() -> None:
    cluster = Cluster()
    try:
        store, others = (EtcdStore(address, local_machine()) for address in [fresh_address(cluster)] * 2)
        granted = None
        for session in range(5):
            granted = grant(others, claim(session=session), over=granted)
        told = Told()
        assert store.read(KEY) is not None
        with store.watch(KEY, told):
            cluster.kill(0)
            cluster.empty(0)
            cluster.restart(0)
            cluster.await_health([0])
            assert told.wait(WATCHED_WITHIN), "all is gone"
            told.clear()
            grant(others, claim())
            assert told.wait(WATCHED_WITHIN)
        told.clear()
        with store.watch(KEY, told):
            told.wait(0.5)
            told.clear()
            assert others.swap(KEY, None, claim(session=9)).won is False
            found = others.read(KEY)
            assert isinstance(found, Claim) and others.swap(KEY, found, None).won
            assert told.wait(WATCHED_WITHIN)
    finally:
        cluster.close()


@pytest.mark.rule("E11")
def test_one_who_cannot_be_told_keeps_the_others_from_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store, others = (EtcdStore(address, local_machine()) for address in [fresh_address()] * 2)
    told = Told()

    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    assert store.read(KEY) is None
    with store.watch(KEY, gone), store.watch(KEY, told):
        granted = grant(others, claim())
        told.clear()
        others.swap(KEY, granted, None)
        assert told.wait(WATCHED_WITHIN)
    assert "Event loop is closed" in caplog.text
