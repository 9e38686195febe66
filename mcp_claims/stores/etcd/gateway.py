"""The seam to the cluster: one request to etcd's JSON gateway, at one endpoint after the other until one answers.

Nothing above knows the HTTP client.  Every failure leaves here as a `GatewayError`.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import IntEnum
from threading import Lock
from typing import Any, NamedTuple, TypeGuard

import requests
import urllib3.exceptions
from etcd3gw import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception
from requests.adapters import HTTPAdapter

from mcp_claims.stores.etcd.config import Endpoint, EtcdConfig, format_endpoint

CALL_TIMEOUT = 4.0
"""Seconds after which a call that no endpoint has answered fails."""

# Seconds of one attempt.  Short, since a follower that forwards to a stopped leader hangs for 7 s.
_CONNECT_TIMEOUT, _READ_TIMEOUT = 0.9, 1.5
_RETRY_DELAY = 0.1  # s, after all endpoints were tried in vain
_MIN_TIME_LEFT = 0.02  # s, below which an attempt is not worth starting
_POOL_SIZE = 64
_API_PATH = "/v3/"
_NOT_ETCD = "an answer that is not etcd's"


class GrpcStatus(IntEnum):
    """The gRPC status codes that matter here, as the gateway passes them on."""

    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    UNAUTHENTICATED = 16


# With these codes nothing was applied.  After any other (UNAVAILABLE, DEADLINE_EXCEEDED …) it may have been.
_REFUSALS = frozenset(GrpcStatus) - {GrpcStatus.UNKNOWN}


class GatewayError(Exception):
    """A request to the cluster failed."""


class NoAnswerError(GatewayError):
    """No endpoint answered in time.

    `problems` says why, for each endpoint that was tried.  With `outcome_unknown` the request was sent, so that it may
    have been applied, or may be applied later, when the endpoint that received it continues.
    """

    def __init__(self, problems: Mapping[str, str], *, outcome_unknown: bool) -> None:
        described = ", ".join(f"{endpoint}: {problem}" for endpoint, problem in problems.items())
        super().__init__(described or "no time was left to ask")
        self.problems, self.outcome_unknown = problems, outcome_unknown


class RefusedError(GatewayError):
    """The cluster refused the request and applied nothing; `code` is gRPC's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Failure(NamedTuple):
    """How one attempt failed: a gRPC code (0 where no gRPC server answered), words, and whether the request was sent."""

    code: int
    problem: str
    sent: bool


class Stream:
    """A response that goes on."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def lines(self) -> Iterator[bytes]:
        """Yield its lines as they come."""
        yield from self._response.iter_lines()

    def end(self) -> None:
        """End it, from any thread."""
        with suppress(OSError, ValueError, RuntimeError):  # It has ended already.
            self._response.raw.shutdown()


class Gateway:
    """Sends requests to the cluster of *config*; for use by several threads.

    Deadlines are times of `time.monotonic`, timeouts are seconds.
    """

    def __init__(self, config: EtcdConfig) -> None:
        self._config = config
        self._session = requests.Session()
        # The environment must not decide: REQUESTS_CA_BUNDLE would override the configured CA, and proxies would be used.
        self._session.trust_env = False
        # etcd never redirects.  Another server that does would receive the password, and each hop would get a new time-out.
        self._session.max_redirects = 0
        self._session.verify = config.ca_file or True
        if config.cert_file and config.key_file:
            self._session.cert = (config.cert_file, config.key_file)
        adapter = HTTPAdapter(pool_maxsize=_POOL_SIZE)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._preferred = 0
        self._login_lock = Lock()
        self._token: str | None = None

    def call(self, path: str, body: Mapping[str, Any], deadline: float, *, idempotent: bool = True) -> dict[str, Any]:
        """Send *body* to *path* and return the response of the first endpoint that answers before *deadline*.

        A request that is not *idempotent* is not sent again once an endpoint may have received it.
        Raises `NoAnswerError` and `RefusedError`.
        """
        problems: dict[str, str] = {}
        outcome_unknown = False
        attempts = 0
        while deadline - time.monotonic() > _MIN_TIME_LEFT:
            index = self._preferred
            try:
                with self._mapped_errors(self._config.endpoints[index]):
                    return self._call_once(index, path, body, deadline)
            except NoAnswerError as error:
                problems.update(error.problems)
                outcome_unknown = outcome_unknown or error.outcome_unknown
            self._prefer_another(index)
            if outcome_unknown and not idempotent:
                break
            attempts += 1
            if attempts % len(self._config.endpoints) == 0:
                time.sleep(max(0.0, min(_RETRY_DELAY, deadline - time.monotonic())))
        raise NoAnswerError(problems, outcome_unknown=outcome_unknown)

    def call_endpoint(self, endpoint: Endpoint, path: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Return the response of this *endpoint*, asked once.  Raises as `call` does."""
        with self._mapped_errors(endpoint):
            return self._call_once(self._config.endpoints.index(endpoint), path, body, time.monotonic() + timeout)

    def clock_of(self, endpoint: Endpoint, timeout: float) -> datetime:
        """Return the wall clock of *endpoint*'s machine, to a second, from the `Date` of a response; raises `NoAnswerError`."""
        base_url = self._client(self._config.endpoints.index(endpoint), (timeout, timeout)).base_url
        with self._mapped_errors(endpoint):
            response = self._session.get(f"{base_url}/version", timeout=timeout)
        try:
            return parsedate_to_datetime(response.headers["Date"])
        except (KeyError, ValueError) as error:
            raise NoAnswerError({format_endpoint(endpoint): _NOT_ETCD}, outcome_unknown=False) from error

    @contextmanager
    def stream(self, path: str, bodies: Iterable[Mapping[str, Any]], idle_timeout: float) -> Iterator[Stream]:
        """Send *bodies* to *path*, one after the other, and yield the response, whose lines come as they are written.

        Raises `NoAnswerError` and `RefusedError`, in the block as well: when the stream breaks, or when nothing comes
        for *idle_timeout* seconds.
        """
        index = self._preferred
        with self._mapped_errors(self._config.endpoints[index]):
            try:
                timeouts = (_CONNECT_TIMEOUT, idle_timeout)
                response = self._session.post(
                    self._client(index, timeouts).get_url(path),
                    data="".join(map(json.dumps, bodies)),
                    stream=True,
                    timeout=timeouts,
                    headers=self._auth_headers(index, time.monotonic() + _CONNECT_TIMEOUT + _READ_TIMEOUT),
                )
                response.raise_for_status()
            except (Etcd3Exception, OSError) as error:
                if isinstance(error, OSError):
                    self.forget_token()
                self._prefer_another(index)
                raise
            with response:
                yield Stream(response)

    def forget_token(self) -> None:
        """Log in again before the next request."""
        self._token = None

    def close(self) -> None:
        """Close all idle connections."""
        self._session.close()

    def _prefer_another(self, index: int) -> None:
        """Start with the next endpoint from now on, unless another thread has moved on from *index* already."""
        if self._preferred == index:
            self._preferred = (index + 1) % len(self._config.endpoints)

    @contextmanager
    def _mapped_errors(self, endpoint: Endpoint) -> Iterator[None]:
        """Turn every error of the client, of `requests` and of the system into a `GatewayError`."""
        try:
            yield
        except (Etcd3Exception, OSError) as error:  # Those of `requests` are `OSError`s.
            failure = _classify(error)
            if failure.code in _REFUSALS:
                raise RefusedError(failure.code, failure.problem) from error
            raise NoAnswerError({format_endpoint(endpoint): failure.problem}, outcome_unknown=failure.sent) from error

    def _call_once(self, index: int, path: str, body: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        try:
            return self._post(index, path, body, deadline, self._auth_headers(index, deadline))
        except Etcd3Exception as error:
            if self._config.user is None or not _token_rejected(error):
                raise
            # Tokens expire after minutes, or when somebody changes a user or a role.
            self.forget_token()
            return self._post(index, path, body, deadline, self._auth_headers(index, deadline))

    def _auth_headers(self, index: int, deadline: float) -> dict[str, str]:
        """Return the headers that identify us, after a login if there is no token.

        A client certificate does not: behind the gateway etcd sees the gateway's own connection.
        """
        if self._config.user is None:
            return {}
        # With a timeout, since the threads before us may each be waiting for an endpoint that does not answer.
        if not self._login_lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise requests.ConnectTimeout
        try:
            if self._token is None:
                login = {"name": self._config.user, "password": self._config.password}
                self._token = self._post(index, "/auth/authenticate", login, deadline, {})["token"]
            return {"Authorization": self._token}
        finally:
            self._login_lock.release()

    def _post(
        self, index: int, path: str, body: Mapping[str, Any], deadline: float, headers: dict[str, str]
    ) -> dict[str, Any]:
        left = deadline - time.monotonic()
        if left <= _MIN_TIME_LEFT:
            raise requests.ConnectTimeout
        # Half each: connecting and answering come one after the other.
        client = self._client(index, (min(_CONNECT_TIMEOUT, left / 2), min(_READ_TIMEOUT, left / 2)))
        response: object = client.post(client.get_url(path), json=body, headers=headers)
        if not _is_from_etcd(response):
            raise requests.exceptions.InvalidJSONError
        return response

    def _client(self, index: int, timeouts: tuple[float, float]) -> Etcd3Client:
        # Made for each attempt: its only state is the endpoint and the time-outs.
        host, port = self._config.endpoints[index]
        return Etcd3Client(
            host,
            port,
            "https" if self._config.tls else "http",
            timeout=timeouts,  # type: ignore[arg-type]  # It passes them on to `requests`, which takes a pair.
            api_path=_API_PATH,  # Otherwise the client asks for the version first.
            session=self._session,
        )


def _is_from_etcd(response: object) -> TypeGuard[dict[str, Any]]:
    """Return whether *response* has the header of all etcd responses; another server may listen on that port."""
    if not isinstance(response, dict):
        return False
    result = response.get("result", response)
    header = result.get("header") if isinstance(result, dict) else None
    return isinstance(header, dict) and str(header.get("cluster_id", "")).isdecimal()


def _token_rejected(error: Etcd3Exception) -> bool:
    """Return whether *error* is that our token is not valid any more; the request was not applied then."""
    failure = _classify(error)
    # The message belongs to JWT tokens, which any change of users and roles outdates.
    return failure.code == GrpcStatus.UNAUTHENTICATED or "revision of auth store is old" in failure.problem


def _classify(error: Etcd3Exception | OSError) -> _Failure:
    # etcd3gw raises its own exceptions, with the same text, while it handles those of `requests`, which say more.  Any other
    # context is what our caller is handling: taken for a failure of the request, it would hide a refusal.
    cause: BaseException | None = error
    if isinstance(error, Etcd3Exception) and str(error.__context__) == error.detail_text:
        cause = error.__context__
    if isinstance(cause, OSError):
        return _Failure(0, _describe(cause), sent=not _never_sent(cause))
    text = getattr(error, "detail_text", None) or ""
    try:
        status = json.loads(text)
        return _Failure(int(status["code"]), str(status.get("message") or status.get("error")), sent=True)
    except (ValueError, KeyError, TypeError):
        return _Failure(GrpcStatus.UNKNOWN, text[:200].strip() or _NOT_ETCD, sent=True)


def _never_sent(error: BaseException) -> bool:
    """Return whether *error* proves that there was no connection over which to send the request."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(error, requests.exceptions.SSLError):
        # Any other TLS failure can come after the request.
        return bool(reason and reason.args and isinstance(reason.args[0], ssl.SSLCertVerificationError))
    return isinstance(reason, urllib3.exceptions.NewConnectionError)


def _describe(error: OSError) -> str:
    if not isinstance(error, requests.RequestException):
        return str(error)[:200]  # A CA file that was removed meanwhile, say.
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return f"TLS failed ({error.args[0] if error.args else error})"[:200]
    if _never_sent(error):
        return "no connection"
    if isinstance(error, requests.exceptions.InvalidJSONError | requests.TooManyRedirects):
        return _NOT_ETCD
    return "the connection broke"
