"""Which cluster: `--store`, the environment, credentials."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests

from mcp_claims.errors import InvalidInputError, StoreUnavailableError
from mcp_claims.liveness import local_machine
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.config import open_store
from mcp_claims.stores.etcd import messages
from mcp_claims.stores.etcd.config import Address, read_address
from mcp_claims.stores.etcd.gateway import Transport
from mcp_claims.stores.etcd.keys import Names
from mcp_claims.stores.etcd.store import EtcdStore
from mcp_claims.stores.files.store import FileStore
from tests.support.etcd import Cluster, fresh_address, fresh_store

URL = "etcd://n1:2379,n2,[::1]:23790/fleet/"


def test_a_url_names_endpoints_and_a_prefix() -> None:
    address = read_address(URL, {})
    assert address == Address((("n1", 2379), ("n2", 2379), ("::1", 23790)), "/fleet")
    assert str(address) == "etcd://n1:2379,n2:2379,[::1]:23790/fleet"
    assert read_address("etcd://n1", {}).prefix == "/mcp-claims"


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
def test_what_is_no_such_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="--store"):
        read_address(url, {})


def test_the_option_counts_for_more_than_the_environment_and_two_stores_at_once_are_refused(tmp_path: Path) -> None:
    environment = {"MCP_CLAIMS_STORE": URL}
    assert isinstance(open_store(environment=environment), EtcdStore)
    assert isinstance(open_store(str(tmp_path), environment=environment), FileStore)
    assert isinstance(open_store(url=URL, environment={"MCP_CLAIMS_DIR": str(tmp_path)}), EtcdStore)
    with pytest.raises(InvalidInputError, match="ask for two stores"):
        open_store(environment=environment | {"MCP_CLAIMS_DIR": str(tmp_path)})
    with pytest.raises(InvalidInputError, match="ask for two stores"):
        open_store(str(tmp_path), url=URL, environment={})


@pytest.mark.rule("E12")
def test_secrets_come_from_the_environment_or_a_file_and_are_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pass phrase\n")
    (tmp_path / "ca").write_text("")
    environment = {
        "MCP_CLAIMS_ETCD_USER": "claims",
        "MCP_CLAIMS_ETCD_PASSWORD_FILE": str(tmp_path / "password"),
        "MCP_CLAIMS_ETCD_CA": str(tmp_path / "ca"),
    }
    address = read_address("etcds://n1/p", environment)
    assert (address.tls, address.user, address.password) == (True, "claims", "pass phrase")
    assert "phrase" not in f"{address} {address!r}"
    with pytest.raises(InvalidInputError, match="must begin with etcds"):
        read_address("etcd://n1/p", environment)
    with pytest.raises(InvalidInputError, match="goes with"):
        read_address("etcd://n1/p", {"MCP_CLAIMS_ETCD_USER": "claims"})
    with pytest.raises(InvalidInputError, match="must be a file"):
        read_address("etcds://n1/p", {"MCP_CLAIMS_ETCD_CA": str(tmp_path / "none")})


@pytest.mark.rule("E12")
@pytest.mark.parametrize(
    "url", ["etcd://me:pa/ss@n1/p", "etcd://me:pass@n1", "etcd://n1,me:pa?ss@n2", "etcd://me:pa#ss@n1"]
)
def test_a_password_in_the_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidInputError, match="must have no user in it") as raised:
        read_address(url, {})
    assert "pa" not in str(raised.value).replace("MCP_CLAIMS", "")


@pytest.mark.parametrize("url", ["etcd://[::1", "etcd://[x]:1/p", "etcd://n1,[::1/p", "etcd://n\u2100/p"])
def test_a_url_that_cannot_be_read_is_wrong_usage(url: str) -> None:
    with pytest.raises(InvalidInputError, match="host:port"):
        read_address(url, {})


@pytest.mark.rule("E12")
def test_a_password_file_that_is_no_text_is_wrong_usage_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"pass\xff")
    environment = {"MCP_CLAIMS_ETCD_USER": "me", "MCP_CLAIMS_ETCD_PASSWORD_FILE": str(tmp_path / "password")}
    with pytest.raises(InvalidInputError, match="must be a file of UTF-8") as raised:
        read_address("etcd://n1", environment)
    assert raised.value.__cause__ is None and raised.value.__suppress_context__


@pytest.mark.rule("E12")
def test_who_has_claims_in_files_does_not_import_the_client(tmp_path: Path) -> None:
    code = f"from mcp_claims.cli.main import main; main(['check', 'red', '--dir', {str(tmp_path)!r}])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not {"etcd3gw", "requests", "mcp_claims.stores.etcd.store"} & set(done.stdout.split())


def test_the_command_line_works_on_a_cluster(tmp_path: Path) -> None:
    url = str(fresh_address())

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
    assert "serves: etcd 3." in found.stdout and "the cluster writes and gives leases" in found.stdout


def test_doctor_tells_which_endpoint_does_not_serve() -> None:
    address = fresh_address()
    url = str(Address((*address.endpoints, ("127.0.0.1", 1)), address.prefix))
    command = [sys.executable, "-m", "mcp_claims", "doctor", "--store", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FAIL  endpoint  127.0.0.1:1 does not serve" in done.stdout
    assert "the cluster writes and gives leases" in done.stdout


def test_doctor_tells_of_a_cluster_that_is_full_and_claims_are_released_on_it() -> None:
    cluster = Cluster()
    try:
        store = EtcdStore(fresh_address(cluster), local_machine())
        session, transport = process_session(store), Transport(store.address)
        assert session.try_claim("red").claimed
        member = transport.ask("/maintenance/status", {}, deadline_in(5))["header"]["member_id"]
        alarm = {"action": "ACTIVATE", "memberID": member, "alarm": "NOSPACE"}
        url = f"http://127.0.0.1:{cluster.clients[0]}/v3/maintenance/alarm"
        requests.post(url, json=alarm, timeout=5).raise_for_status()
        with pytest.raises(StoreUnavailableError, match="database space exceeded"):
            session.try_claim("blue")
        command = [sys.executable, "-m", "mcp_claims", "doctor", "--store", str(store.address)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "etcdctl alarm disarm" in done.stdout, done.stdout
        assert session.release("red").released
    finally:
        cluster.close()


@pytest.mark.rule("E10")
def test_a_list_in_pages_has_everything_also_what_somebody_else_has_put_there() -> None:
    store = fresh_store()
    transport, beginning = Transport(store.address), Names(store.address.prefix).claims
    session = process_session(store)
    for key in ("a", "\N{SNOWMAN}", "\N{GRINNING FACE}"):
        assert session.try_claim(key).claimed
    for junk in (b"", b"default/\xff\xfe", b"default/\n", b"\x80"):
        transport.ask("/kv/put", messages.put(beginning + junk, b"\xff"), deadline_in(5))
    seen, after = [], ""
    while True:
        listing = session.listing(after=after, at_most=1)
        seen += [each.found for each in listing.page]
        if listing.after is None:
            break
        after = listing.after
    assert seen == list(store.scan()) and len(seen) == 7
