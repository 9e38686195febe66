"""One request: it ends by its deadline, logs in again where that is needed, and is not repeated once it may have arrived."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from threading import Thread
from typing import Any

import pytest

from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd.config import Endpoint, EtcdConfig
from mcp_claims.stores.etcd.gateway import Gateway, NoAnswerError, RefusedError

RESPONSE = {"header": {"cluster_id": "14841639068965178418", "revision": "1"}}
NOT_ETCD = "an answer that is not etcd's"

Respond = Callable[[str, str | None], tuple[int, dict[str, str], object]]
"""Given a path and a token, returns status, headers and body."""


@pytest.fixture
def silent() -> Iterator[Endpoint]:
    """An endpoint that accepts connections and never answers, like a stopped node."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        yield listener.getsockname()


@contextmanager
def server(respond: Respond, user: str | None = "me") -> Iterator[Gateway]:
    """Run a server in place of etcd; yield a gateway to it, with *user*."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, content = respond(self.path, self.headers["Authorization"])
            body = json.dumps(content).encode()
            # The client may have given up: its deadline is short.
            with suppress(ConnectionError):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        gateway = Gateway(EtcdConfig((("127.0.0.1", running.server_port),), "/p", user=user, password="secret"))
        try:
            yield gateway
        finally:
            gateway.close()
            running.shutdown()
            thread.join()


@pytest.mark.rule("E8")
def test_many_calls_that_wait_for_one_login_all_fail_by_their_own_deadline(silent: Endpoint) -> None:
    gateway = Gateway(EtcdConfig((silent,), "/p", user="me", password="secret"))
    began = time.monotonic()

    def call(_: int) -> None:
        with pytest.raises(NoAnswerError):
            gateway.call("/kv/range", {}, deadline_in(2.0))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(8)))
    assert time.monotonic() - began < 8, "it takes 2 s on a quiet machine, and 16 s one after the other"


@pytest.mark.rule("E12")
@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (401, {"code": 16, "message": "etcdserver: invalid auth token"}),
        # The answer to a JWT token once somebody has changed any user or role.
        (400, {"code": 3, "message": "etcdserver: revision of auth store is old"}),
    ],
)
def test_a_rejected_token_is_replaced_by_another_login(status: int, refusal: dict[str, Any]) -> None:
    tokens = chain(["old"], repeat("new"))  # On a loaded machine a login is given up, and sent again.

    def respond(path: str, token: str | None) -> tuple[int, dict[str, str], object]:
        if path.endswith("authenticate"):
            return 200, {}, RESPONSE | {"token": next(tokens)}
        return (200, {}, RESPONSE) if token == "new" else (status, {}, refusal)

    with server(respond) as gateway:
        assert gateway.call("/kv/range", {}, deadline_in(10)) == RESPONSE


@pytest.mark.rule("E12")
def test_a_user_is_given_only_where_the_cluster_has_access_control_which_may_change() -> None:
    required, logins = False, 0

    def respond(path: str, token: str | None) -> tuple[int, dict[str, str], object]:
        nonlocal logins
        if path.endswith("authenticate"):
            logins += 1
            disabled = {"code": 9, "message": "etcdserver: authentication is not enabled"}
            return (200, {}, RESPONSE | {"token": "new"}) if required else (400, {}, disabled)
        if required and token is None:
            return 400, {}, {"code": 3, "message": "etcdserver: user name is empty"}
        return 200, {}, RESPONSE

    with server(respond) as gateway:
        for now_required in (False, True, False, True):
            required = now_required
            for _ in range(2):
                assert gateway.call("/kv/range", {}, deadline_in(10)) == RESPONSE
    assert logins < 8, "not before each call"


def test_a_refusal_is_one_while_the_caller_handles_an_error_of_its_own() -> None:
    with server(lambda *_: (400, {}, {"code": 9, "message": "no space"})) as gateway:
        try:
            raise FileNotFoundError(2, "the caller's")
        except FileNotFoundError:
            with pytest.raises(RefusedError, match="no space"):
                gateway.call("/kv/txn", {}, deadline_in(10))


@pytest.mark.rule("E8")
@pytest.mark.parametrize(
    "content",
    [{}, [], None, "hello", {"header": None}, {"header": {}}, {"header": {"cluster_id": "x"}}, {"result": 1}],
    ids=repr,
)
def test_an_answer_without_etcd_s_header_counts_as_an_endpoint_that_fails(content: object) -> None:
    paths: list[str] = []

    def respond(path: str, _: str | None) -> tuple[int, dict[str, str], object]:
        paths.append(path)
        return 200, {}, content

    with server(respond, user=None) as gateway:
        with pytest.raises(NoAnswerError, match=NOT_ETCD) as failure:
            gateway.call("/kv/txn", {}, deadline_in(10), idempotent=False)
        assert failure.value.outcome_unknown
        assert len(paths) == 1, "it may have arrived, and is not sent again"
        with pytest.raises(NoAnswerError) as failure:
            gateway.call("/kv/txn", {}, deadline_in(1), idempotent=True)
        assert failure.value.outcome_unknown
        assert len(paths) > 2


@pytest.mark.rule("E8")
def test_a_redirect_is_not_followed_and_counts_as_an_endpoint_that_fails() -> None:
    paths: list[str] = []

    def redirect(path: str, _: str | None) -> tuple[int, dict[str, str], object]:
        paths.append(path)
        return 307, {"Location": "/elsewhere"}, None

    with server(redirect) as gateway:
        with pytest.raises(NoAnswerError, match=NOT_ETCD):
            gateway.call("/kv/txn", {}, deadline_in(2), idempotent=False)
        with pytest.raises(NoAnswerError, match=NOT_ETCD), gateway.stream("/watch", [{}], 1.0):
            pass
    assert set(paths) == {"/v3/auth/authenticate"}, "another server must not receive the password"
