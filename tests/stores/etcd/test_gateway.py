"""One question: no longer than its time, who we are told anew, and never asked twice after it may have been heard."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import requests
import urllib3.exceptions

from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd.config import Address
from mcp_claims.stores.etcd.gateway import Transport, UnansweredError, _never_sent

ANSWER = {"header": {"cluster_id": "14841639068965178418", "revision": "1"}}


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """Who takes connections and says nothing, as a node does that is stopped."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        yield listening.getsockname()


@pytest.mark.rule("E8")
def test_many_who_have_to_say_who_they_are_fail_in_time_where_nobody_answers(silent: tuple[str, int]) -> None:
    transport = Transport(Address((silent,), "/p", user="me", password="secret"))
    began = time.monotonic()

    def ask(_: int) -> None:
        with pytest.raises(UnansweredError):
            transport.ask("/kv/range", {}, deadline_in(2.0))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))
    assert time.monotonic() - began < 5, "each waits for its own time, not for that of all before it"


@pytest.mark.rule("E12")
@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (401, {"code": 16, "message": "etcdserver: invalid auth token"}),
        # What a JWT is answered with once somebody has changed any user or role.
        (400, {"code": 3, "message": "etcdserver: revision of auth store is old"}),
    ],
)
def test_who_we_are_is_said_again_where_that_is_not_known_any_more(status: int, refusal: dict[str, Any]) -> None:
    tokens = iter(["old", "new"])

    def answer(path: str, token: str | None) -> tuple[int, dict[str, Any]]:
        if path.endswith("authenticate"):
            return 200, ANSWER | {"token": next(tokens)}
        return (200, ANSWER) if token == "new" else (status, refusal)

    with_server(answer, lambda transport: transport.ask("/kv/range", {}, deadline_in(4)))


@pytest.mark.rule("E8")
@pytest.mark.parametrize(
    "said",
    [{}, [], None, "hello", {"header": None}, {"header": {}}, {"header": {"cluster_id": "x"}}, {"result": 1}],
    ids=repr,
)
def test_what_answers_at_the_port_of_a_cluster_and_is_none_is_said_to_be_none(said: object) -> None:
    def ask(transport: Transport) -> dict[str, Any]:
        for again in (True, False):
            with pytest.raises(UnansweredError, match="an answer that is none of etcd's") as failure:
                transport.ask("/kv/txn", {}, deadline_in(0.3), again=again)
            assert failure.value.maybe_done
        return ANSWER

    with_server(lambda *_: (200, said), ask)


@pytest.mark.rule("E8")
def test_whoever_sends_us_elsewhere_is_none_of_etcd_s_and_is_not_followed() -> None:
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            self.send_response(307)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            transport = Transport(Address((("127.0.0.1", server.server_port),), "/p", user="me", password="secret"))
            with pytest.raises(UnansweredError, match="an answer that is none of etcd's"):
                transport.ask("/kv/txn", {}, deadline_in(2), again=False)
            with pytest.raises(OSError), transport.stream("/watch", {}, 1.0):
                pass
        finally:
            server.shutdown()
            serving.join()
    assert set(asked) == {"/v3/auth/authenticate"}, "the password is for nobody else"


def with_server(
    answer: Callable[[str, str | None], tuple[int, object]], act: Callable[[Transport], dict[str, Any]]
) -> None:
    """Have *act* ask a server that answers as *answer* says, given a path and a token."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, said = answer(self.path, self.headers["Authorization"])
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            assert (
                act(Transport(Address((("127.0.0.1", server.server_port),), "/p", user="me", password="x"))) == ANSWER
            )
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.rule("E8")
@pytest.mark.parametrize(
    ("reason", "never"),
    [
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), True),
        # The connection was good, and the question has gone out over it.
        (ssl.SSLError(1, "decryption failed or bad record mac"), False),
    ],
)
def test_only_a_certificate_that_is_not_trusted_tells_that_nothing_was_sent(reason: ssl.SSLError, never: bool) -> None:
    told = urllib3.exceptions.MaxRetryError(None, "/", urllib3.exceptions.SSLError(reason))  # type: ignore[arg-type]
    assert _never_sent(requests.exceptions.SSLError(told)) is never
