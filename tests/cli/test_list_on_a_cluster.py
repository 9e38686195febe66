"""`list --watch` on a cluster goes on when the cluster does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from mcp_claims.liveness import local_machine
from mcp_claims.session.identity import process_session
from mcp_claims.stores.etcd.store import EtcdStore
from tests.cli.commands import COMMAND
from tests.support.etcd import fresh_config, one_node
from tests.support.proxy import Proxy
from tests.support.servers import PYTHON_ENVIRONMENT


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy(one_node().clients[0])
    yield made
    made.close()


@pytest.mark.rule("E11")
def test_watch_reports_that_the_cluster_is_gone_and_goes_on_when_it_is_back(proxy: Proxy) -> None:
    config = fresh_config()
    others = process_session(EtcdStore(config, local_machine()))
    url = f"etcd://127.0.0.1:{proxy.port}{config.prefix}"
    with subprocess.Popen(
        [*COMMAND, "list", "--watch", "--json", "--store", url],
        env=PYTHON_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        try:
            assert '"claims": []' in watching.stdout.readline()
            proxy.cut()
            assert "no endpoint of etcd answered in time" in watching.stderr.readline()
            proxy.mend()
            assert others.try_claim("red").claimed
            assert '"red"' in watching.stdout.readline()
        finally:
            watching.kill()


@pytest.mark.rule("E11")
def test_watch_where_no_cluster_answers_is_an_error(proxy: Proxy) -> None:
    proxy.cut()
    url = f"etcd://127.0.0.1:{proxy.port}/p"
    command = [*COMMAND, "list", "--watch", "--store", url]
    done = subprocess.run(command, env=PYTHON_ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "no endpoint of etcd answered in time" in done.stderr
