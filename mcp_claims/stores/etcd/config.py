"""Which cluster, and which credentials: from the store's URL and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mcp_claims.errors import InvalidInputError

VARIABLE_PREFIX = "MCP_CLAIMS_ETCD_"
CA_VARIABLE = "MCP_CLAIMS_ETCD_CA"
CERT_VARIABLE, KEY_VARIABLE = "MCP_CLAIMS_ETCD_CERT", "MCP_CLAIMS_ETCD_KEY"
USER_VARIABLE = "MCP_CLAIMS_ETCD_USER"
PASSWORD_VARIABLE, PASSWORD_FILE_VARIABLE = "MCP_CLAIMS_ETCD_PASSWORD", "MCP_CLAIMS_ETCD_PASSWORD_FILE"

_SCHEMES = ("etcd", "etcds")
_DEFAULT_PORT = 2379
_DEFAULT_PREFIX = "/mcp-claims"

Endpoint = tuple[str, int]
"""Host and port of one member's client URL."""


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """A cluster, the prefix of our keys in it, and our credentials.  `str` gives the URL, without secrets."""

    endpoints: tuple[Endpoint, ...]
    prefix: str
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{_SCHEMES[self.tls]}://{','.join(map(format_endpoint, self.endpoints))}{self.prefix}"


def format_endpoint(endpoint: Endpoint) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_config(url: str, environment: Mapping[str, str], option: str = "--store") -> EtcdConfig:
    """Parse *url*, `etcd://host1:2379,host2:2379/prefix` or `etcds://` for TLS, and read the credentials in *environment*.

    Raises `InvalidInputError`, naming *option* or the variable at fault.
    """
    if "@" in url:
        # Checked first: the messages below quote parts of the URL, and this one holds a password.
        raise InvalidInputError(
            option, f"must not contain a user, since others can see it; set {USER_VARIABLE} instead"
        )
    # Not by `urlsplit`: newer ones refuse several hosts of which one is an IPv6 address.
    scheme, _, rest = url.strip().partition("://")
    endpoints, _, prefix = rest.partition("/")
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        raise InvalidInputError(option, "must be like etcd://host1:2379,host2:2379/prefix, or etcds:// for TLS")
    if "?" in rest or "#" in rest:
        raise InvalidInputError(option, "must end with the prefix")
    tls = scheme == "etcds"
    for variable in (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE):
        if not tls and environment.get(variable):
            raise InvalidInputError(option, f"must begin with etcds:// because {variable} is set")
    if bool(environment.get(CERT_VARIABLE)) != bool(environment.get(KEY_VARIABLE)):
        raise InvalidInputError(CERT_VARIABLE, f"needs {KEY_VARIABLE}, and the other way round")
    user = environment.get(USER_VARIABLE) or None
    return EtcdConfig(
        endpoints=tuple(_parse_endpoint(each, option) for each in endpoints.split(",")),
        prefix=_parse_prefix(f"/{prefix}", option),
        tls=tls,
        ca_file=_readable_file(environment, CA_VARIABLE),
        cert_file=_readable_file(environment, CERT_VARIABLE),
        key_file=_readable_file(environment, KEY_VARIABLE),
        user=user,
        password=_password(environment, user),
    )


def _parse_endpoint(text: str, option: str) -> Endpoint:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInputError(option, f"has an endpoint that is not host:port: {text!r}") from error
    if not host or port == 0:
        raise InvalidInputError(option, f"has an endpoint that is not host:port: {text!r}")
    return host, port or _DEFAULT_PORT


def _parse_prefix(path: str, option: str) -> str:
    prefix = path.rstrip("/") or _DEFAULT_PREFIX
    if not prefix.isprintable() or "//" in prefix:
        raise InvalidInputError(option, f"has a prefix with an empty part or an unprintable character: {prefix!r}")
    return prefix


def _readable_file(environment: Mapping[str, str], variable: str) -> str | None:
    path = environment.get(variable)
    if not path:
        return None
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise InvalidInputError(variable, f"must name a readable file ({error.strerror})") from error


def _password(environment: Mapping[str, str], user: str | None) -> str | None:
    password, path = environment.get(PASSWORD_VARIABLE), _readable_file(environment, PASSWORD_FILE_VARIABLE)
    if path is not None:
        try:
            with open(path, encoding="utf-8") as file:
                password = file.read().rstrip("\r\n")
        except UnicodeDecodeError:
            # `from None`: the decoding error holds the bytes of the password.
            raise InvalidInputError(PASSWORD_FILE_VARIABLE, "must name a file of UTF-8 text") from None
    if bool(password) != bool(user):
        raise InvalidInputError(
            USER_VARIABLE, f"needs {PASSWORD_VARIABLE} or {PASSWORD_FILE_VARIABLE}, and the other way round"
        )
    return password or None
