"""One question to the cluster: its endpoints in turn, each with little time, until one answers or the time is up."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeGuard

import requests
import urllib3.exceptions
from etcd3gw import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception
from requests.adapters import HTTPAdapter

from mcp_claims.stores.etcd.config import Address, spell_endpoint

ANSWER_WITHIN = 4.0
"""Seconds after which a question that nobody has answered has failed."""

# Of one attempt.  A follower passes on what it cannot answer, and hangs for 7 s on a leader that is stopped.
_CONNECT_WITHIN, _READ_WITHIN = 0.9, 1.5
_PAUSE = 0.1
_LEAST = 0.02
_CONNECTIONS = 64
_API = "/v3/"
_FOREIGN = "an answer that is none of etcd's"

# Status codes of gRPC that say that nothing was done; others may be told of what is done all the same.
NOT_FOUND, EXHAUSTED = 5, 8
_UNAUTHENTICATED = 16
_DEFINITE = frozenset({3, NOT_FOUND, 6, 7, EXHAUSTED, 9, 11, 12, _UNAUTHENTICATED})


class UnansweredError(Exception):
    """Nobody has answered in time.  With `maybe_done` the question was sent, and may have been acted on, or may be yet."""

    def __init__(self, problems: Mapping[str, str], *, maybe_done: bool) -> None:
        said = ", ".join(f"{endpoint}: {problem}" for endpoint, problem in problems.items())
        super().__init__(said or "no time was left to ask")
        self.maybe_done = maybe_done


class RefusedError(Exception):
    """The cluster has answered that it will not do it; `code` is gRPC's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Transport:
    """Asks the cluster at *address*; for use by several threads."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._session = requests.Session()
        # Else REQUESTS_CA_BUNDLE would count for more than the CA that was given, and proxies would be asked.
        self._session.trust_env = False
        # etcd sends nobody elsewhere; who does would be told the password, and each step has its own time.
        self._session.max_redirects = 0
        self._session.verify = address.ca or True
        if address.certificate and address.key:
            self._session.cert = (address.certificate, address.key)
        adapter = HTTPAdapter(pool_maxsize=_CONNECTIONS)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._preferred = 0
        self._logging_in = Lock()
        self._token: str | None = None

    def ask(self, path: str, body: Mapping[str, Any], until: float, *, again: bool = True) -> dict[str, Any]:
        """Return the answer to *body* at *path*, asked before *until* (`time.monotonic`).

        Where asking twice is not the same as asking once (not *again*), it is not asked anew after it may have been heard.
        Raises `UnansweredError` and `RefusedError`.
        """
        problems: dict[str, str] = {}
        maybe_done = False
        tried = 0
        while until - time.monotonic() > _LEAST:
            chosen = self._preferred
            try:
                return self._ask(chosen, path, body, until)
            except (Etcd3Exception, requests.RequestException) as error:
                code, problem, heard = _understood(error)
                if code in _DEFINITE:
                    raise RefusedError(code, problem) from error
                problems[spell_endpoint(self._address.endpoints[chosen])] = problem
                maybe_done = maybe_done or heard
            self.pass_over(chosen)
            if maybe_done and not again:
                break
            tried += 1
            if tried % len(self._address.endpoints) == 0:
                time.sleep(max(0.0, min(_PAUSE, until - time.monotonic())))
        raise UnansweredError(problems, maybe_done=maybe_done)

    def ask_at(self, endpoint: tuple[str, int], path: str, body: Mapping[str, Any], within: float) -> dict[str, Any]:
        """Return the answer of one *endpoint*.  Raises as `ask` does."""
        try:
            return self._ask(self._address.endpoints.index(endpoint), path, body, time.monotonic() + within)
        except (Etcd3Exception, requests.RequestException) as error:
            code, problem, heard = _understood(error)
            if code in _DEFINITE:
                raise RefusedError(code, problem) from error
            raise UnansweredError({spell_endpoint(endpoint): problem}, maybe_done=heard) from error

    @contextmanager
    def stream(self, path: str, body: Mapping[str, Any], silence: float) -> Iterator[Iterator[bytes]]:
        """Ask what is answered line by line; fails after *silence* seconds without any.

        Raises `OSError`, of which `requests` makes all its errors.
        """
        chosen = self._preferred
        try:
            answer = self._session.post(
                self._client(chosen, (_CONNECT_WITHIN, silence)).get_url(path),
                json=body,
                stream=True,
                timeout=(_CONNECT_WITHIN, silence),
                headers=self._credentials(chosen, time.monotonic() + _CONNECT_WITHIN + _READ_WITHIN),
            )
            answer.raise_for_status()
        except requests.RequestException:
            self.forget_token()
            self.pass_over(chosen)
            raise
        except Etcd3Exception as error:
            self.pass_over(chosen)
            raise OSError(_understood(error)[1]) from error
        with answer:
            yield answer.iter_lines()

    def get(self, endpoint: tuple[str, int], path: str, within: float) -> requests.Response:
        """Get what *endpoint* has at *path*, outside the API; raises `OSError`."""
        base = self._client(self._address.endpoints.index(endpoint), (within, within)).base_url
        return self._session.get(f"{base}{path}", timeout=within)

    def pass_over(self, endpoint: int) -> None:
        """Ask another endpoint than the one of this number first from now on."""
        if self._preferred == endpoint:
            self._preferred = (endpoint + 1) % len(self._address.endpoints)

    def forget_token(self) -> None:
        """Say anew who we are with the next question."""
        self._token = None

    def close(self) -> None:
        """Close all connections that nobody is using."""
        self._session.close()

    def _ask(self, chosen: int, path: str, body: Mapping[str, Any], until: float) -> dict[str, Any]:
        try:
            return self._post(chosen, path, body, until, self._credentials(chosen, until))
        except Etcd3Exception as error:
            if self._address.user is None or not _asks_who(error):
                raise
            self.forget_token()  # It was good for some minutes only, or until somebody's rights were changed.
            return self._post(chosen, path, body, until, self._credentials(chosen, until))

    def _credentials(self, chosen: int, until: float) -> dict[str, str]:
        """Return the headers that say who we are: a certificate alone does not, through the gateway."""
        if self._address.user is None:
            return {}
        # No longer than all may take: those before us may each be waiting for an endpoint that does not answer.
        if not self._logging_in.acquire(timeout=max(0.0, until - time.monotonic())):
            raise requests.ConnectTimeout
        try:
            if self._token is None:
                who = {"name": self._address.user, "password": self._address.password}
                self._token = self._post(chosen, "/auth/authenticate", who, until, {})["token"]
            return {"Authorization": self._token}
        finally:
            self._logging_in.release()

    def _post(
        self, chosen: int, path: str, body: Mapping[str, Any], until: float, headers: dict[str, str]
    ) -> dict[str, Any]:
        left = until - time.monotonic()
        if left <= _LEAST:
            raise requests.ConnectTimeout
        # Connecting and answering may each take their time, one after the other.
        client = self._client(chosen, (min(_CONNECT_WITHIN, left / 2), min(_READ_WITHIN, left / 2)))
        answer: object = client.post(client.get_url(path), json=body, headers=headers)
        if not _is_etcds(answer):
            raise requests.exceptions.InvalidJSONError
        return answer

    def _client(self, chosen: int, timeouts: tuple[float, float]) -> Etcd3Client:
        host, port = self._address.endpoints[chosen]
        # It has no state but this.  The path is given, or it would ask for the version first.
        return Etcd3Client(
            host,
            port,
            "https" if self._address.tls else "http",
            timeout=timeouts,  # type: ignore[arg-type]  # What `requests` takes.
            api_path=_API,
            session=self._session,
        )


def _is_etcds(answer: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether *answer* has the header of all that etcd answers, in a stream's result too; others may be at its port."""
    if not isinstance(answer, dict):
        return False
    result = answer.get("result", answer)
    header = result.get("header") if isinstance(result, dict) else None
    return isinstance(header, dict) and str(header.get("cluster_id", "")).isdecimal()


def _asks_who(error: Etcd3Exception) -> bool:
    """Tell whether what we were is not known any more; nothing was done then."""
    code, problem, _ = _understood(error)
    # The latter for tokens that any change of users and roles makes old (JWT).
    return code == _UNAUTHENTICATED or "revision of auth store is old" in problem


def _understood(error: Etcd3Exception | requests.RequestException) -> tuple[int, str, bool]:
    """Return the code of gRPC, 0 if it was never reached, what went wrong, and whether the question may have been heard."""
    cause = error if isinstance(error, requests.RequestException) else error.__context__
    if isinstance(cause, requests.RequestException):
        return 0, _short(cause), not _never_sent(cause)
    text = getattr(error, "detail_text", None) or ""
    try:
        said = json.loads(text)
        return int(said["code"]), str(said.get("message") or said.get("error")), True
    except (ValueError, KeyError, TypeError):
        return 2, text[:200].strip() or _FOREIGN, True


def _never_sent(cause: BaseException) -> bool:
    """Tell whether *cause* is that there was no connection to send anything over."""
    if isinstance(cause, requests.ConnectTimeout):
        return True
    reason = getattr(cause.args[0] if cause.args else None, "reason", None)
    if isinstance(cause, requests.exceptions.SSLError):
        # Any other failure of TLS may come after the question.
        return bool(reason and reason.args and isinstance(reason.args[0], ssl.SSLCertVerificationError))
    return isinstance(reason, urllib3.exceptions.NewConnectionError)


def _short(error: BaseException) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return f"TLS failed ({error.args[0] if error.args else error})"[:200]
    if _never_sent(error):
        return "no connection"
    if isinstance(error, requests.exceptions.InvalidJSONError | requests.TooManyRedirects):
        return _FOREIGN
    return "the connection broke"
