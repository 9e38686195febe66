"""The stream of changes breaks, and is taken up where it was."""

from __future__ import annotations

from mcp_claims.machine import local_machine
from mcp_claims.stores.etcd.address import Address
from mcp_claims.stores.etcd.store import EtcdStore
from tests.stores.contract import WATCHED_WITHIN, Told
from tests.stores.samples import KEY, claim, grant
from tests.support.etcd import fresh_address, one_node
from tests.support.proxy import Proxy


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
