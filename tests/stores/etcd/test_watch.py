"""The watch stream breaks, and is resumed where it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Claim
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.store import EtcdStore
from tests.stores.contract import WATCHED_WITHIN, Notified, ticket
from tests.stores.samples import KEY, claim, grant
from tests.support.etcd import Cluster, config_at, fresh_config, one_node
from tests.support.proxy import Proxy


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with closing(Proxy(one_node().clients[0])) as made:
        yield made


@pytest.mark.rule("E11")
def test_a_change_made_while_the_stream_is_broken_is_notified_when_it_is_back(proxy: Proxy) -> None:
    config = fresh_config()
    store, others = (EtcdStore(each, local_machine()) for each in (config_at(proxy.port, config.prefix), config))
    granted = grant(store, claim())
    notified = Notified()
    with store.watch(KEY, notified):
        again = grant(others, claim(session=2), over=granted)
        assert notified.wait(WATCHED_WITHIN)
        proxy.cut()
        notified.clear()
        assert others.swap(KEY, again, None).won
        assert not notified.wait(0.5)
        proxy.mend()
        assert notified.wait(WATCHED_WITHIN)


@pytest.mark.rule("E11")
def test_a_subscriber_behind_a_compaction_is_notified_of_it_and_of_later_changes(proxy: Proxy) -> None:
    config = fresh_config()
    store = EtcdStore(config_at(proxy.port, config.prefix), local_machine())
    session = process_session(EtcdStore(config, local_machine()))
    gateway, notified = Gateway(config), Notified()
    store.read(KEY)
    with store.watch(KEY, notified):
        assert session.try_claim(KEY.key, KEY.namespace).claimed
        assert notified.wait(WATCHED_WITHIN)
        proxy.cut()
        for _ in range(3):
            assert session.try_claim(KEY.key, KEY.namespace).claimed
        now = messages.header_revision(gateway.call("/kv/range", messages.get_request(b"any"), deadline_in(4)))
        gateway.call("/kv/compaction", {"revision": str(now)}, deadline_in(4))
        notified.clear()
        proxy.mend()
        assert notified.wait(WATCHED_WITHIN), "anything may have changed"
        notified.clear()
        assert session.release(KEY.key, KEY.namespace).released
        assert notified.wait(WATCHED_WITHIN)


@pytest.mark.rule("E11")
def test_a_subscriber_to_a_cluster_that_was_emptied_is_notified_of_new_changes() -> None:
    with closing(Cluster()) as cluster:
        store, others = (EtcdStore(config, local_machine()) for config in [fresh_config(cluster)] * 2)
        granted = None
        for session in range(5):
            granted = grant(others, claim(session=session), over=granted)
        notified = Notified()
        assert store.read(KEY) is not None
        with store.watch(KEY, notified):
            cluster.kill(0)
            cluster.empty(0)
            cluster.restart(0)
            cluster.await_health([0])
            assert notified.wait(WATCHED_WITHIN), "all is gone"
            notified.clear()
            grant(others, claim())
            assert notified.wait(WATCHED_WITHIN)
        notified.clear()
        with store.watch(KEY, notified):
            notified.wait(0.5)
            notified.clear()
            assert others.swap(KEY, None, claim(session=9)).won is False
            found = others.read(KEY)
            assert isinstance(found, Claim) and others.swap(KEY, found, None).won
            assert notified.wait(WATCHED_WITHIN)


@pytest.mark.rule("E11")
def test_a_subscriber_that_raises_does_not_keep_notices_from_others(caplog: pytest.LogCaptureFixture) -> None:
    store, others = (EtcdStore(config, local_machine()) for config in [fresh_config()] * 2)
    notified = Notified()

    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    assert store.read(KEY) is None
    with store.watch(KEY, gone), store.watch(KEY, notified):
        granted = grant(others, claim())
        notified.clear()
        others.swap(KEY, granted, None)
        assert notified.wait(WATCHED_WITHIN)
    assert "Event loop is closed" in caplog.text


@pytest.mark.rule("E11")
def test_without_threads_nothing_is_watched_and_later_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = (EtcdStore(config, local_machine()) for config in [fresh_config()] * 2)
    held = grant(other, claim())

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    alarmed, notified = Notified(), Notified()
    with store.alarm(ticket(1), alarmed) as alarm:
        with monkeypatch.context() as patched:
            patched.setattr("mcp_claims.stores.etcd.watch.start_daemon_thread", start)
            assert not alarm.aim(held)
            with store.watch(KEY, pytest.fail) as watched:
                assert not watched
        assert "can't start new thread" in caplog.text
        assert alarm.aim(held)
        with store.watch(KEY, notified) as watched:
            assert watched
            other.swap(KEY, held, None)
            assert notified.wait(WATCHED_WITHIN) and alarmed.wait(WATCHED_WITHIN)
