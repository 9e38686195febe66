"""A cluster with access control: certificates, user and password."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.config import open_store
from mcp_claims.stores.etcd.config import parse_config
from mcp_claims.stores.etcd.gateway import Gateway
from tests.stores.contract import WATCHED_WITHIN, Notified
from tests.support.etcd import Certificates, Cluster
from tests.support.programs import installed

PASSWORD = "a pass phrase"


class Authority:
    """A CA, with all that Python 3.13 and later require of a certificate and of who signed it."""

    _NEW = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def __init__(self, directory: Path) -> None:
        self._directory, self.ca = directory, directory / "ca.pem"
        (directory / "extensions").write_text(
            "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        files = ("-keyout", "ca.key", "-out", "ca.pem")
        self._openssl(*self._NEW, "-x509", "-days", "2", *usage, "-subj", "/CN=test CA", *files)

    def sign(self, name: str, subject: str) -> Certificates:
        """Return a new certificate of *subject*, in files of this *name*."""
        self._openssl(*self._NEW, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self._openssl(
            *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "extensions", "-out", f"{name}.pem"),
        )
        return Certificates(*(str(self._directory / each) for each in ("ca.pem", f"{name}.pem", f"{name}.key")))

    def _openssl(self, *arguments: str) -> None:
        subprocess.run([installed("openssl"), *arguments], cwd=self._directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA of the same name.  No certificate of the cluster stands for one: from Python 3.13 on it is trusted, as it is its own."""
    return Authority(tmp_path_factory.mktemp("other")).ca


@pytest.fixture(scope="module")
def certificates(authority: Authority) -> Certificates:
    # Without a common name: etcd refuses one from its gateway, behind which it cannot know whose certificate that is.
    return authority.sign("node", "/O=claims")


@pytest.fixture(scope="module")
def cluster(certificates: Certificates) -> Iterator[Cluster]:
    """A node that requires a certificate, with a user who may read and write below /claims only."""
    made = Cluster(certificates=certificates)
    gateway = Gateway(parse_config(url(made), variables(certificates)))

    grant_rights(gateway)
    gateway.call("/auth/enable", {}, deadline_in(20))
    yield made
    made.close()


def grant_rights(gateway: Gateway) -> None:
    """Make an administrator, and a user who may read and write below /claims only."""

    def call(path: str, **body: object) -> None:
        gateway.call(f"/auth/{path}", body, deadline_in(20))

    for name in ("root", "claims"):
        call("user/add", name=name, password=PASSWORD)
        call("role/add", name=name)
    # From /claims/ to before /claims0, which is what follows it, in base64.
    permission = {"permType": "READWRITE", "key": "L2NsYWltcy8=", "range_end": "L2NsYWltczA="}
    call("role/grant", name="claims", perm=permission)
    for name in ("root", "claims"):
        call("user/grant", user=name, role=name)


def url(cluster: Cluster, prefix: str = "/claims") -> str:
    return cluster.url(prefix).replace("etcd://", "etcds://")


def variables(certificates: Certificates, user: str | None = None, password: str = PASSWORD) -> dict[str, str]:
    files = dict(zip(("CA", "CERT", "KEY"), certificates, strict=True))
    who = {"USER": user, "PASSWORD": password} if user else {}
    return {f"MCP_CLAIMS_ETCD_{name}": value for name, value in (files | who).items()}


@pytest.mark.rule("E12")
def test_a_user_with_certificate_and_password_can_claim_and_watch(
    cluster: Cluster, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A variable that a company sets for all programs must not override the configured CA.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/dev/null")
    store = open_store(url=url(cluster), environment=variables(certificates, "claims"))
    with process_session(store) as session:
        assert session.try_claim("red").claimed
        notified = Notified()
        with store.watch(ScopedKey("default", "red"), notified):
            session.release("red")
            assert notified.wait(WATCHED_WITHIN)


def test_an_expired_token_is_replaced(cluster: Cluster, certificates: Certificates) -> None:
    gateway = Gateway(parse_config(url(cluster), variables(certificates, "claims")))
    gateway._token = "an expired one"
    assert "header" in gateway.call("/kv/range", {"key": "L2NsYWltcy94"}, deadline_in(5))


@pytest.mark.rule("E12")
@pytest.mark.parametrize(
    ("user", "password", "prefix", "problem"),
    [
        (None, "", "/claims", "user name is empty"),
        ("claims", "wrong", "/claims", "authentication failed"),
        ("claims", PASSWORD, "/others", "permission denied"),
    ],
)
def test_the_error_says_why_access_is_denied_and_shows_no_secret(
    cluster: Cluster, certificates: Certificates, user: str | None, password: str, prefix: str, problem: str
) -> None:
    store = open_store(url=url(cluster, prefix), environment=variables(certificates, user, password))
    with pytest.raises(StoreUnavailableError, match=problem) as raised:
        process_session(store).try_claim("red")
    assert "wrong" not in str(raised.value) and PASSWORD not in str(raised.value)


def run_doctor(cluster: Cluster, environment: dict[str, str], prefix: str = "/claims") -> str:
    command = [sys.executable, "-m", "mcp_claims", "doctor", "--store", url(cluster, prefix)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    return done.stdout


def test_doctor_finds_no_fault_with_the_least_rights(cluster: Cluster, certificates: Certificates) -> None:
    output = run_doctor(cluster, variables(certificates, "claims"))
    assert "FAIL" not in output and "serves: etcd 3." in output, output


@pytest.mark.parametrize(
    ("user", "password", "prefix", "remedy"),
    [
        (None, "", "/claims", "It requires a user: set MCP_CLAIMS_ETCD_USER"),
        ("claims", "wrong", "/claims", "Correct MCP_CLAIMS_ETCD_USER or the password"),
        ("claims", PASSWORD, "/others", "Permit user 'claims' to read and write keys that begin with /others/"),
    ],
)
def test_doctor_has_a_remedy_for_each_cause(
    cluster: Cluster, certificates: Certificates, user: str | None, password: str, prefix: str, remedy: str
) -> None:
    output = run_doctor(cluster, variables(certificates, user, password), prefix)
    assert remedy in output and "Start it" not in output, output


def test_doctor_has_a_remedy_for_an_unknown_ca(cluster: Cluster, certificates: Certificates, other_ca: Path) -> None:
    environment = variables(certificates, "claims") | {"MCP_CLAIMS_ETCD_CA": str(other_ca)}
    output = run_doctor(cluster, environment)
    assert "Let MCP_CLAIMS_ETCD_CA name the CA that has signed its certificate" in output, output


@pytest.mark.rule("E12")
def test_access_control_can_be_turned_on_and_off_while_a_session_works() -> None:
    with closing(Cluster()) as cluster:
        environment = {"MCP_CLAIMS_ETCD_USER": "claims", "MCP_CLAIMS_ETCD_PASSWORD": PASSWORD}
        administrator = Gateway(parse_config(cluster.url("/claims"), environment | {"MCP_CLAIMS_ETCD_USER": "root"}))
        grant_rights(administrator)
        session = process_session(open_store(url=cluster.url("/claims"), environment=environment))
        for number, switch in enumerate(("enable", "disable", "enable")):
            held = session.try_claim(f"{number}").found
            assert isinstance(held, Claim)
            administrator.call(f"/auth/{switch}", {}, deadline_in(20))
            assert session.inspect(f"{number}", generation=held.generation).in_force
            assert session.release(f"{number}").released


def test_a_server_with_a_certificate_of_another_ca_receives_nothing(
    cluster: Cluster, certificates: Certificates, other_ca: Path
) -> None:
    environment = variables(certificates, "claims") | {"MCP_CLAIMS_ETCD_CA": str(other_ca)}
    store = open_store(url=url(cluster), environment=environment)
    with pytest.raises(StoreUnavailableError, match="TLS failed"):
        process_session(store).try_claim("red")


@pytest.mark.rule("E12")
def test_files_that_are_replaced_count_for_the_next_connection(
    cluster: Cluster, certificates: Certificates, other_ca: Path, tmp_path: Path
) -> None:
    # As a renewal of certificates leaves them for a moment: old, half written, of two kinds.
    ours = Certificates(*(str(tmp_path / each) for each in ("ca.pem", "own.pem", "own.key")))
    good = Certificates(*(Path(each).read_text() for each in certificates))
    states = [
        (good._replace(ca=other_ca.read_text()), "TLS failed"),
        (good._replace(certificate=good.certificate[:100]), "TLS failed"),
        (good, None),
        (good._replace(key=""), None),
    ]
    session = process_session(open_store(url=url(cluster), environment=environment_after(states[0][0], ours)))
    for number, (contents, problem) in enumerate(states):
        environment_after(contents, ours)
        if problem is None:
            assert session.try_claim(f"red {number}").claimed
        else:
            with pytest.raises(StoreUnavailableError, match=problem):
                session.try_claim("red")
    session.close()


def environment_after(contents: Certificates, files: Certificates) -> dict[str, str]:
    """Write *contents* into *files*; return the variables that name them."""
    for file, text in zip(files, contents, strict=True):
        Path(file).write_text(text)
    return variables(files, "claims")


@pytest.mark.rule("E12")
def test_a_certificate_with_a_common_name_is_refused_with_the_reason(cluster: Cluster, authority: Authority) -> None:
    environment = variables(authority.sign("alice", "/CN=alice"), "claims")
    session = process_session(open_store(url=url(cluster), environment=environment))
    with pytest.raises(StoreUnavailableError, match=r"etcd refuses: the client's certificate has a common name"):
        session.try_claim("red")
    assert "certificates without a common name" in run_doctor(cluster, environment)
