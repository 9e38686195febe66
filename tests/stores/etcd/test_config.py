"""Which cluster: URL, environment, credentials; and that the command line and the doctor work on it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mcp_claims.errors import InvalidInputError, StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.config import open_store
from mcp_claims.stores.etcd.config import EtcdConfig, parse_config
from mcp_claims.stores.etcd.gateway import Gateway
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.files.store import FileStore
from tests.support.etcd import Cluster, fresh_config

URL = "etcd://n1:2379,n2,[::1]:23790/fleet/"


def test_a_url_names_endpoints_and_a_prefix() -> None:
    config = parse_config(URL, {})
    assert config == EtcdConfig((("n1", 2379), ("n2", 2379), ("::1", 23790)), "/fleet")
    assert str(config) == "etcd://n1:2379,n2:2379,[::1]:23790/fleet"
    assert parse_config("etcd://n1", {}).prefix == "/mcp-claims"


@pytest.mark.parametrize(
    "url",
    [
        "http://n1",
        "etcd://",
        "etcd://n1:x/p",
        "etcd://n1,/p",
        "etcd://me:word@n1/p",
        "etcd://n1/p?q",
        "etcd://n1//p",
        "/d",
    ],
)
def test_any_other_url_is_invalid(url: str) -> None:
    with pytest.raises(InvalidInputError, match="--store"):
        parse_config(url, {})


@pytest.mark.parametrize("url", ["etcd://[::1", "etcd://[x]:1/p", "etcd://n1,[::1/p", "etcd://n\u2100/p"])
def test_a_url_that_the_parser_rejects_is_invalid_input(url: str) -> None:
    with pytest.raises(InvalidInputError, match="host:port"):
        parse_config(url, {})


def test_the_option_overrides_the_environment_and_two_stores_at_once_are_invalid(tmp_path: Path) -> None:
    environment = {"MCP_CLAIMS_STORE": URL}
    assert isinstance(open_store(environment=environment), EtcdStore)
    assert isinstance(open_store(str(tmp_path), environment=environment), FileStore)
    assert isinstance(open_store(url=URL, environment={"MCP_CLAIMS_DIR": str(tmp_path)}), EtcdStore)
    with pytest.raises(InvalidInputError, match="ask for two stores"):
        open_store(environment=environment | {"MCP_CLAIMS_DIR": str(tmp_path)})
    with pytest.raises(InvalidInputError, match="ask for two stores"):
        open_store(str(tmp_path), url=URL, environment={})


@pytest.mark.rule("E12")
def test_secrets_come_from_the_environment_or_a_file_and_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pass phrase\n")
    (tmp_path / "ca").write_text("")
    environment = {
        "MCP_CLAIMS_ETCD_USER": "claims",
        "MCP_CLAIMS_ETCD_PASSWORD_FILE": str(tmp_path / "password"),
        "MCP_CLAIMS_ETCD_CA": str(tmp_path / "ca"),
    }
    config = parse_config("etcds://n1/p", environment)
    assert (config.tls, config.user, config.password) == (True, "claims", "pass phrase")
    assert "phrase" not in f"{config} {config!r}"
    with pytest.raises(InvalidInputError, match="must begin with etcds"):
        parse_config("etcd://n1/p", environment)
    with pytest.raises(InvalidInputError, match="MCP_CLAIMS_ETCD_USER needs MCP_CLAIMS_ETCD_PASSWORD"):
        parse_config("etcd://n1/p", {"MCP_CLAIMS_ETCD_USER": "claims"})
    with pytest.raises(InvalidInputError, match="must name a readable file"):
        parse_config("etcds://n1/p", {"MCP_CLAIMS_ETCD_CA": str(tmp_path / "none")})


@pytest.mark.rule("E12")
@pytest.mark.parametrize(
    "url", ["etcd://me:pa/ss@n1/p", "etcd://me:pass@n1", "etcd://n1,me:pa?ss@n2", "etcd://me:pa#ss@n1"]
)
def test_a_password_in_the_url_is_invalid_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidInputError, match="must not contain a user") as raised:
        parse_config(url, {})
    assert "pa" not in str(raised.value).replace("MCP_CLAIMS", "")


@pytest.mark.rule("E12")
def test_a_password_file_that_is_not_text_is_invalid_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"pass\xff")
    environment = {"MCP_CLAIMS_ETCD_USER": "me", "MCP_CLAIMS_ETCD_PASSWORD_FILE": str(tmp_path / "password")}
    with pytest.raises(InvalidInputError, match="must name a file of UTF-8") as raised:
        parse_config("etcd://n1", environment)
    assert raised.value.__cause__ is None and raised.value.__suppress_context__


@pytest.mark.rule("E12")
def test_the_client_is_not_imported_for_claims_in_files(tmp_path: Path) -> None:
    code = f"from mcp_claims.cli.main import main; main(['check', 'red', '--dir', {str(tmp_path)!r}])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not {"http.client", "mcp_claims.stores.etcd.store"} & set(done.stdout.split())


def test_the_command_line_works_on_a_cluster(tmp_path: Path) -> None:
    url = str(fresh_config())

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mcp_claims", *arguments, "--store", url]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert run("try", "red", "--session", "ci").returncode == 0
    assert run("check", "red").returncode == 1
    assert "red" in run("list").stdout
    assert run("release", "red", "--session", "ci", "--outcome", "done").returncode == 0
    assert "was done by" in run("show", "red").stdout + run("try", "red", "--session", "other").stdout
    found = run("doctor")
    assert (found.returncode, "FAIL" in found.stdout) == (0, False), found.stdout
    assert "serves: etcd 3." in found.stdout and "the cluster accepts writes and grants leases" in found.stdout


def test_the_doctor_names_the_endpoint_that_does_not_serve() -> None:
    config = fresh_config()
    url = str(EtcdConfig((*config.endpoints, ("127.0.0.1", 1)), config.prefix))
    command = [sys.executable, "-m", "mcp_claims", "doctor", "--store", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FAIL  endpoint  127.0.0.1:1 does not serve" in done.stdout
    assert "the cluster accepts writes and grants leases" in done.stdout


def test_the_doctor_does_not_call_a_node_stopped_that_waits_for_a_leader() -> None:
    with closing(Cluster(nodes=3)) as cluster:
        cluster.kill(0)
        cluster.kill(1)
        done = subprocess.run(
            [sys.executable, "-m", "mcp_claims", "doctor", "--store", cluster.url("/claims")],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stdout.count("Start it") == 2 and "It runs, but answers no reads" in done.stdout, done.stdout
    assert "Start a majority of its members" in done.stdout


def test_doctor_has_a_remedy_for_a_full_cluster_and_claims_can_be_released_on_it() -> None:
    with closing(Cluster()) as cluster:
        store = EtcdStore(fresh_config(cluster), local_machine())
        session, gateway = process_session(store), Gateway(store.config)
        assert session.try_claim("red").claimed
        member = gateway.call("/maintenance/status", {}, deadline_in(5))["header"]["member_id"]
        alarm = {"action": "ACTIVATE", "memberID": member, "alarm": "NOSPACE"}
        cluster.ask(0, "/v3/maintenance/alarm", alarm)
        with pytest.raises(StoreUnavailableError, match="database space exceeded"):
            session.try_claim("blue")
        command = [sys.executable, "-m", "mcp_claims", "doctor", "--store", str(store.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "etcdctl alarm disarm" in done.stdout, done.stdout
        assert session.release("red").released
