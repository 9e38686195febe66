"""Which cluster, by the URL of the store and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mcp_claims.errors import InvalidInputError

SCHEMES = ("etcd", "etcds")
CREDENTIALS = "MCP_CLAIMS_ETCD_"
"""How the names of the variables begin."""

CA_VARIABLE = "MCP_CLAIMS_ETCD_CA"
CERT_VARIABLE, KEY_VARIABLE = "MCP_CLAIMS_ETCD_CERT", "MCP_CLAIMS_ETCD_KEY"
USER_VARIABLE = "MCP_CLAIMS_ETCD_USER"
PASSWORD_VARIABLE, PASSWORD_FILE_VARIABLE = "MCP_CLAIMS_ETCD_PASSWORD", "MCP_CLAIMS_ETCD_PASSWORD_FILE"

_PORT = 2379
_PREFIX = "/mcp-claims"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a cluster is and who we are to it; `str` gives the URL, which has no secrets."""

    endpoints: tuple[tuple[str, int], ...]
    prefix: str
    tls: bool = False
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{SCHEMES[self.tls]}://{','.join(map(spell_endpoint, self.endpoints))}{self.prefix}"


def spell_endpoint(endpoint: tuple[str, int]) -> str:
    """Return `host:port`."""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_address(url: str, environment: Mapping[str, str], name: str = "--store") -> Address:
    """Return the cluster that *url* names, with the credentials that the environment has.

    *url* is `etcd://host1:2379,host2:2379/prefix`; with `etcds` it is spoken to over TLS.  Raises `InvalidInputError`,
    about *name*, for what is no such URL, and about a variable whose value cannot be used.
    """
    if "@" in url:
        # Looked for first: what is said of other mistakes may show a part of the URL.
        raise InvalidInputError(name, f"must have no user in it, as others can see it; set {USER_VARIABLE} instead")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInputError(name, f"has an endpoint that is not host:port ({error})") from error
    if parts.scheme not in SCHEMES:
        raise InvalidInputError(name, "must be like etcd://host1:2379,host2:2379/prefix, or etcds:// for TLS")
    if parts.query or parts.fragment:
        raise InvalidInputError(name, "must end with the prefix")
    tls = parts.scheme == "etcds"
    for variable in (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE):
        if not tls and environment.get(variable):
            raise InvalidInputError(name, f"must begin with etcds:// where {variable} is set")
    if bool(environment.get(CERT_VARIABLE)) != bool(environment.get(KEY_VARIABLE)):
        raise InvalidInputError(CERT_VARIABLE, f"goes with {KEY_VARIABLE}")
    user = environment.get(USER_VARIABLE) or None
    return Address(
        tuple(_endpoint(each, name) for each in parts.netloc.split(",")),
        _prefix(parts.path, name),
        tls,
        _file(environment, CA_VARIABLE),
        _file(environment, CERT_VARIABLE),
        _file(environment, KEY_VARIABLE),
        user,
        _password(environment, user),
    )


def _endpoint(text: str, name: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInputError(name, f"has an endpoint that is not host:port: {text!r}") from error
    if not host or port == 0:
        raise InvalidInputError(name, f"has an endpoint that is not host:port: {text!r}")
    return host, port or _PORT


def _prefix(path: str, name: str) -> str:
    prefix = path.rstrip("/") or _PREFIX
    if not prefix.isprintable() or "//" in prefix:
        raise InvalidInputError(name, f"has a prefix that no key should have: {prefix!r}")
    return prefix


def _file(environment: Mapping[str, str], variable: str) -> str | None:
    path = environment.get(variable)
    if not path:
        return None
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise InvalidInputError(variable, f"must be a file that can be read ({error.strerror})") from error


def _password(environment: Mapping[str, str], user: str | None) -> str | None:
    password, path = environment.get(PASSWORD_VARIABLE), _file(environment, PASSWORD_FILE_VARIABLE)
    if path is not None:
        try:
            with open(path, encoding="utf-8") as file:
                password = file.read().rstrip("\r\n")
        except UnicodeDecodeError:
            # Without what led to it, in which the password is.
            raise InvalidInputError(PASSWORD_FILE_VARIABLE, "must be a file of UTF-8 text") from None
    if bool(password) != bool(user):
        raise InvalidInputError(USER_VARIABLE, f"goes with {PASSWORD_VARIABLE} or {PASSWORD_FILE_VARIABLE}")
    return password or None
