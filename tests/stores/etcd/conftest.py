"""A store that reaches the cluster through a proxy, and one that goes past it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.etcd.config import EtcdConfig
from mcp_claims.stores.etcd.store import EtcdStore
from tests.support.etcd import config_at, fresh_config, one_node
from tests.support.proxy import Proxy


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with closing(Proxy(one_node().clients[0])) as made:
        yield made


@pytest.fixture
def config() -> EtcdConfig:
    return fresh_config()


@pytest.fixture
def store(proxy: Proxy, config: EtcdConfig) -> EtcdStore:
    """A store that reaches the cluster through the proxy only."""
    return EtcdStore(config_at(proxy.port, config.prefix), local_machine())


@pytest.fixture
def direct(config: EtcdConfig) -> EtcdStore:
    """A store on the same prefix, past the proxy."""
    return EtcdStore(config, local_machine())


@pytest.fixture(params=["ends with its process", "outlives its process"])
def session(request: pytest.FixtureRequest, store: EtcdStore) -> Session:
    opened = process_session(store) if request.param == "ends with its process" else named_session(store, "ci")
    assert opened.try_claim("warm").claimed
    return opened
