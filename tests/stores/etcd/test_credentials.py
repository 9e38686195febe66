"""A cluster that asks who we are: certificates, user and password."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.records import ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.config import open_store
from mcp_claims.stores.etcd.config import read_address
from mcp_claims.stores.etcd.gateway import Transport
from tests.stores.contract import WATCHED_WITHIN, Told
from tests.support.etcd import Certificates, Cluster

PASSWORD = "a pass phrase"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make a CA and a certificate that it has signed."""
    made = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=made, check=True, capture_output=True)

    (made / "extensions").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")
    # With a common name it would be refused: through the gateway the cluster could not tell whose that is.
    openssl(*new, "-subj", "/O=claims", "-keyout", "node.key", "-out", "node.csr")
    openssl(
        *("x509", "-req", "-days", "2", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-extfile", "extensions", "-out", "node.pem"),
    )
    return Certificates(*(str(made / name) for name in ("ca.pem", "node.pem", "node.key")))


@pytest.fixture(scope="module")
def cluster(certificates: Certificates) -> Iterator[Cluster]:
    """A node that wants a certificate, and a user who may do all below /claims and nothing else."""
    made = Cluster(certificates=certificates)
    transport = Transport(read_address(url(made), variables(certificates)))

    def ask(path: str, **body: object) -> None:
        transport.ask(f"/auth/{path}", body, deadline_in(10))

    for name in ("root", "claims"):
        ask("user/add", name=name, password=PASSWORD)
        ask("role/add", name=name)
    # From /claims/ to before /claims0, in base64.
    permission = {"permType": "READWRITE", "key": "L2NsYWltcy8=", "range_end": "L2NsYWltczA="}
    ask("role/grant", name="claims", perm=permission)
    for name in ("root", "claims"):
        ask("user/grant", user=name, role=name)
    ask("enable")
    yield made
    made.close()


def url(cluster: Cluster, prefix: str = "/claims") -> str:
    return cluster.url(prefix).replace("etcd://", "etcds://")


def variables(certificates: Certificates, user: str | None = None, password: str = PASSWORD) -> dict[str, str]:
    files = dict(zip(("CA", "CERT", "KEY"), certificates, strict=True))
    who = {"USER": user, "PASSWORD": password} if user else {}
    return {f"MCP_CLAIMS_ETCD_{name}": value for name, value in (files | who).items()}


@pytest.mark.rule("E12")
def test_whoever_has_a_certificate_and_the_password_can_claim_and_watch(
    cluster: Cluster, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a company sets for all programs of its machines must not count for more than the CA that was given.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/dev/null")
    store = open_store(url=url(cluster), environment=variables(certificates, "claims"))
    with process_session(store) as session:
        assert session.try_claim("red").claimed
        told = Told()
        with store.watch(ScopedKey("default", "red"), told):
            session.release("red")
            assert told.wait(WATCHED_WITHIN)


def test_a_password_that_has_run_out_is_given_again(cluster: Cluster, certificates: Certificates) -> None:
    transport = Transport(read_address(url(cluster), variables(certificates, "claims")))
    transport._token = "one of long ago"
    assert "header" in transport.ask("/kv/range", {"key": "L2NsYWltcy94"}, deadline_in(5))


@pytest.mark.rule("E12")
@pytest.mark.parametrize(
    ("user", "password", "prefix", "problem"),
    [
        (None, "", "/claims", "user name is empty"),
        ("claims", "wrong", "/claims", "authentication failed"),
        ("claims", PASSWORD, "/others", "permission denied"),
    ],
)
def test_whoever_may_not_is_told_so_and_no_secret_is_in_it(
    cluster: Cluster, certificates: Certificates, user: str | None, password: str, prefix: str, problem: str
) -> None:
    store = open_store(url=url(cluster, prefix), environment=variables(certificates, user, password))
    with pytest.raises(StoreUnavailableError, match=problem) as raised:
        process_session(store).try_claim("red")
    assert "wrong" not in str(raised.value) and PASSWORD not in str(raised.value)


def test_a_server_that_the_ca_has_not_signed_is_not_spoken_to(cluster: Cluster, certificates: Certificates) -> None:
    trusting_others = variables(certificates, "claims") | {"MCP_CLAIMS_ETCD_CA": certificates.certificate}
    store = open_store(url=url(cluster), environment=trusting_others)
    with pytest.raises(StoreUnavailableError, match="TLS failed"):
        process_session(store).try_claim("red")
