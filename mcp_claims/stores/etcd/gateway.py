"""The seam to the cluster: one request to etcd's JSON gateway, at one endpoint after the other until one answers.

Nothing above knows the HTTP client.  Every failure leaves here as a `GatewayError`.
"""

from __future__ import annotations

import json
import os
import random
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import IntEnum
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from itertools import count
from threading import Lock
from typing import Any, NoReturn, TypeGuard

from mcp_claims.stores.etcd.config import Endpoint, EtcdConfig, format_endpoint
from mcp_claims.stores.etcd.connections import Connections, NotSentError, Response, Stream

CALL_TIMEOUT = 4.0
"""Seconds after which a call that no endpoint has answered fails."""

# Seconds of one attempt, which takes half of what is left of the call: an endpoint that is stopped leaves time for the next
# ones, and one on a busy machine gets as long as that allows.
_MIN_ATTEMPT, _MAX_ATTEMPT = 0.5, 2.5
_SLOW = 0.5  # s, after which an answer makes the next call try another endpoint
_RETRY_DELAY = 0.1  # s, after all endpoints were tried in vain
_MIN_TIME_LEFT = 0.02  # s, below which an attempt is not worth starting
_NOT_ETCD = "an answer that is not etcd's"
_COMMON_NAME = "the client's certificate has a common name (CN), which its gateway would have to take for a user"

# Without `Accept`, the gateway of etcd 3.4 takes its own certificate for that of its client.
_HEADERS = {"Accept": "application/json", "Content-Type": "application/json"}


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


class Gateway:
    """Sends requests to the cluster of *config*; for use by several threads.

    Deadlines are times of `time.monotonic`, timeouts are seconds.
    """

    def __init__(self, config: EtcdConfig) -> None:
        self._config = config
        self._tls = _Tls(config) if config.tls else None
        tls_context = None if self._tls is None else self._tls.context
        self._connections = [Connections(endpoint, tls_context) for endpoint in config.endpoints]
        # At random, so that a fleet does not ask one member first, and all of it wait if that one is slow.
        self._preferred = random.randrange(len(config.endpoints))
        self._login_lock = Lock()
        self._token: str | None = None
        self._requires_login = config.user is not None

    def call(
        self,
        path: str,
        body: Mapping[str, Any],
        deadline: float,
        *,
        idempotent: bool = True,
        attempt_timeout: float | None = None,
    ) -> dict[str, Any]:
        """Send *body* to *path* and return the response of the first endpoint that answers before *deadline*.

        A request that is not *idempotent* is not sent again once an endpoint may have received it.  With an
        *attempt_timeout* each endpoint gets that long, and twice as long in each further round.
        Raises `NoAnswerError` and `RefusedError`.
        """
        problems: dict[str, str] = {}
        outcome_unknown = False
        endpoints = self._config.endpoints
        for attempt in count():
            left = deadline - (began := time.monotonic())
            if left <= _MIN_TIME_LEFT:
                break
            if attempt_timeout is None:
                allowed = min(max(left / 2, _MIN_ATTEMPT), _MAX_ATTEMPT)
            else:
                allowed = attempt_timeout * 2 ** (attempt // len(endpoints))
            index = self._preferred
            try:
                response = self._call_once(index, path, body, began + min(allowed, left))
            except NoAnswerError as error:
                problems.update(error.problems)
                outcome_unknown = outcome_unknown or error.outcome_unknown
            else:
                if time.monotonic() - began > _SLOW:
                    self._prefer_another(index)
                return response
            self._prefer_another(index)
            if outcome_unknown and not idempotent:
                break
            if (attempt + 1) % len(endpoints) == 0:
                time.sleep(max(0.0, min(_RETRY_DELAY, deadline - time.monotonic())))
        raise NoAnswerError(problems, outcome_unknown=outcome_unknown)

    def call_endpoint(self, endpoint: Endpoint, path: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Return the response of this *endpoint*, asked once.  Raises as `call` does."""
        return self._call_once(self._config.endpoints.index(endpoint), path, body, time.monotonic() + timeout)

    def clock_of(self, endpoint: Endpoint, timeout: float) -> datetime:
        """Return the wall clock of *endpoint*'s machine, to a second, from the `Date` of a response; raises `NoAnswerError`."""
        index = self._config.endpoints.index(endpoint)
        try:
            return parsedate_to_datetime(self._ask_version(index, timeout).headers["Date"])
        except (TypeError, ValueError) as error:
            raise self._no_answer(index, _NOT_ETCD, outcome_unknown=False) from error

    def version_of(self, endpoint: Endpoint, timeout: float) -> str:
        """Return the version of *endpoint*, for which it requires no login; raises `NoAnswerError`."""
        index = self._config.endpoints.index(endpoint)
        try:
            return str(json.loads(self._ask_version(index, timeout).body)["etcdserver"])
        except (TypeError, ValueError, KeyError) as error:
            raise self._no_answer(index, _NOT_ETCD, outcome_unknown=False) from error

    def _ask_version(self, index: int, timeout: float) -> Response:
        with self._mapped_errors(index):
            return self._connections[index].ask("GET", "/version", b"", _HEADERS, time.monotonic() + timeout)

    @contextmanager
    def stream(self, path: str, bodies: Iterable[Mapping[str, Any]], idle_timeout: float) -> Iterator[Stream]:
        """Send *bodies* to *path*, one after the other, and yield the response, whose lines come as they are written.

        Raises `NoAnswerError` and `RefusedError`, in the block as well: when the stream breaks, or when nothing comes
        for *idle_timeout* seconds.
        """
        index, deadline = self._preferred, time.monotonic() + _MAX_ATTEMPT
        with self._mapped_errors(index):
            try:
                sent = "".join(map(json.dumps, bodies)).encode()
                headers = self._auth_headers(index, deadline)
                head, stream = self._connections[index].open_stream(f"/v3{path}", sent, headers, deadline, idle_timeout)
                try:
                    if head.status != 200:
                        self._raise_failure(index, head)
                    yield stream
                finally:
                    stream.close()
            except (GatewayError, NotSentError, OSError, HTTPException):
                self.forget_token()
                self._prefer_another(index)
                raise

    def forget_token(self) -> None:
        """Log in again before the next request."""
        self._token = None

    def close(self) -> None:
        """Close all idle connections."""
        for each in self._connections:
            each.close_idle()

    def _prefer_another(self, index: int) -> None:
        """Start with the next endpoint from now on, unless another thread has moved on from *index* already."""
        if self._preferred == index:
            self._preferred = (index + 1) % len(self._config.endpoints)

    def _no_answer(self, index: int, problem: str, *, outcome_unknown: bool) -> NoAnswerError:
        return NoAnswerError({format_endpoint(self._config.endpoints[index]): problem}, outcome_unknown=outcome_unknown)

    @contextmanager
    def _mapped_errors(self, index: int) -> Iterator[None]:
        """Turn every error of a connection to this endpoint into a `GatewayError`."""
        try:
            yield
        except NotSentError as error:
            raise self._no_answer(index, str(error), outcome_unknown=False) from error
        except (OSError, HTTPException) as error:
            raise self._no_answer(index, _describe(error), outcome_unknown=True) from error

    def _call_once(self, index: int, path: str, body: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        headers = self._auth_headers(index, deadline)
        try:
            return self._post(index, path, body, deadline, headers)
        except RefusedError as error:
            if self._config.user is None or not _login_rejected(error):
                raise
            # Tokens expire after minutes, or when somebody changes a user or a role.  We had none if the cluster required none
            # until now.
            self._requires_login = True
            self.forget_token()
            return self._post(index, path, body, deadline, self._auth_headers(index, deadline))

    def _auth_headers(self, index: int, deadline: float) -> dict[str, str]:
        """Return the headers that identify us, after a login if there is no token.

        A client certificate does not: behind the gateway etcd sees the gateway's own connection.
        """
        if not self._requires_login:
            return _HEADERS
        # With a timeout, since the threads before us may each be waiting for an endpoint that does not answer.
        if not self._login_lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise self._no_answer(index, "no login in time", outcome_unknown=False)
        try:
            if self._token is None:
                login = {"name": self._config.user, "password": self._config.password}
                try:
                    self._token = self._post(index, "/auth/authenticate", login, deadline, _HEADERS)["token"]
                except RefusedError as error:
                    if error.code != GrpcStatus.FAILED_PRECONDITION:
                        raise
                    # The cluster has no access control, or not any more.
                    self._requires_login = False
                    return _HEADERS
                except NoAnswerError as error:
                    # Whatever becomes of the login, the request itself was not sent.
                    raise NoAnswerError(error.problems, outcome_unknown=False) from error
            return _HEADERS | {"Authorization": self._token}
        finally:
            self._login_lock.release()

    def _post(
        self, index: int, path: str, body: Mapping[str, Any], deadline: float, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        sent = json.dumps(body).encode()
        with self._mapped_errors(index):
            received = self._connections[index].ask("POST", f"/v3{path}", sent, headers, deadline)
        if received.status != 200:
            self._raise_failure(index, received)
        try:
            response: object = json.loads(received.body)
        except ValueError:
            response = None
        if not _is_from_etcd(response):
            raise self._no_answer(index, _NOT_ETCD, outcome_unknown=True)
        return response

    def _raise_failure(self, index: int, response: Response) -> NoReturn:
        """Raise the failure that *response* reports."""
        try:
            status = json.loads(response.body)
            code, problem = int(status["code"]), str(status.get("message") or status.get("error"))
        except (ValueError, KeyError, TypeError):
            code, problem = GrpcStatus.UNKNOWN, _NOT_ETCD
            if response.status == 400 and response.body.startswith(b"CommonName "):
                # Plain text, before it looks at the request.
                code, problem = GrpcStatus.INVALID_ARGUMENT, _COMMON_NAME
        if code in _REFUSALS:
            raise RefusedError(code, problem)
        raise self._no_answer(index, problem, outcome_unknown=True)


class _Tls:
    """The TLS of *config*; its files are read again when they have changed, as certificates are replaced while agents work."""

    def __init__(self, config: EtcdConfig) -> None:
        self._config = config
        self._files = tuple(each for each in (config.ca_file, config.cert_file, config.key_file) if each is not None)
        self._loaded: tuple[tuple[int, ...], ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection; raises `OSError`, as `ssl.SSLError` is one."""
        version = tuple(os.stat(each).st_mtime_ns for each in self._files)
        if self._loaded is None or self._loaded[0] != version:
            context = ssl.create_default_context(cafile=self._config.ca_file)
            if self._config.cert_file is not None:
                context.load_cert_chain(self._config.cert_file, self._config.key_file)
            self._loaded = version, context
        return self._loaded[1]


def _is_from_etcd(response: object) -> TypeGuard[dict[str, Any]]:
    """Return whether *response* has the header of all etcd responses; another server may listen on that port."""
    if not isinstance(response, dict):
        return False
    result = response.get("result", response)
    header = result.get("header") if isinstance(result, dict) else None
    return isinstance(header, dict) and str(header.get("cluster_id", "")).isdecimal()


def _login_rejected(error: RefusedError) -> bool:
    """Return whether *error* is that we are not logged in, or not any more; the request was not applied then."""
    # The first message belongs to JWT tokens, which any change of users and roles outdates; the other to no token at all.
    return error.code == GrpcStatus.UNAUTHENTICATED or any(
        each in str(error) for each in ("revision of auth store is old", "user name is empty")
    )


def _describe(error: OSError | HTTPException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return f"TLS failed ({error})"[:200]
    # One that is closed before it is answered is a `BadStatusLine` too.
    if isinstance(error, HTTPException) and not isinstance(error, RemoteDisconnected | IncompleteRead):
        return _NOT_ETCD
    return "the connection broke"
