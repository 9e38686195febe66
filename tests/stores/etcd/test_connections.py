"""Endpoints that are slow, silent, unreachable or no etcd: every call ends by its deadline, and the next endpoint answers it."""

from __future__ import annotations

import errno
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import pytest

from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.etcd import connections
from mcp_claims.stores.etcd.config import Endpoint, EtcdConfig
from mcp_claims.stores.etcd.gateway import Gateway, NoAnswerError
from tests.support.endpoints import GARBAGE, black_hole, dripping, endless_body, endpoint, silent, wait_until
from tests.support.etcd import one_node

NAME = "one.of.three.test"
READ = ("/kv/range", {"key": "YQ=="})
SOCKET = "mcp_claims.stores.etcd.connections.socket.socket"
"""What the product uses: another one in the forced macOS mode."""


@pytest.fixture(autouse=True)
def _begin_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a gateway ask the first endpoint first."""
    monkeypatch.setattr(random, "randrange", lambda _: 0)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Count the look-ups of names, which the name server does not answer."""
    asked, ended, real = list[str](), threading.Event(), socket.getaddrinfo

    def look_up(host: str, port: int, **more: Any) -> Any:
        if more["flags"] & socket.AI_NUMERICHOST:
            return real(host, port, **more)
        asked.append(host)
        ended.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield asked
    ended.set()


def gateway_to(*endpoints: Endpoint, tls: bool = False) -> Gateway:
    return Gateway(EtcdConfig(endpoints, "/p", tls=tls))


def good() -> Endpoint:
    (endpoint,) = one_node().endpoints
    return endpoint


@contextmanager
def bounded() -> Iterator[None]:
    """Fail if the block does not end; it takes 1 s on a quiet machine."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 30


BAD: dict[str, AbstractContextManager[Endpoint]] = {
    "silent": endpoint(silent),
    "dripping": endpoint(dripping),
    "beyond a firewall": black_hole(),
    "sending without end": endpoint(endless_body),
    **{what: endpoint(answer) for what, answer in GARBAGE.items()},
}


@pytest.mark.rule("E8")
@pytest.mark.parametrize("what", BAD)
def test_a_call_ends_by_its_deadline_whatever_an_endpoint_does_and_the_next_one_answers_it(what: str) -> None:
    with BAD[what] as bad:
        with bounded(), pytest.raises(NoAnswerError) as failure:
            gateway_to(bad).call(*READ, deadline_in(1.0))
        # Who cannot connect has sent nothing.
        assert failure.value.outcome_unknown is (what != "beyond a firewall")
        gateway = gateway_to(bad, good())
        for _ in range(2):
            with bounded():
                assert "header" in gateway.call(*READ, deadline_in(20.0))
        with bounded(), suppress(NoAnswerError), gateway_to(bad).stream("/watch", [{}], 0.5) as stream:
            assert len(list(stream.lines())) < 2


@pytest.mark.rule("E8")
def test_a_tls_handshake_that_hangs_ends_by_the_deadline_and_nothing_was_sent() -> None:
    with endpoint(silent) as bad, bounded(), pytest.raises(NoAnswerError, match="TLS handshake") as failure:
        gateway_to(bad, tls=True).call(*READ, deadline_in(1.0))
    assert not failure.value.outcome_unknown


@pytest.mark.rule("E8")
def test_a_silent_name_server_costs_one_attempt_and_one_thread(lookups: list[str]) -> None:
    with bounded(), pytest.raises(NoAnswerError, match="no answer in time for its name") as failure:
        gateway_to((NAME, 2379)).call(*READ, deadline_in(1.0))
    assert not failure.value.outcome_unknown
    gateway = gateway_to((NAME, 2379), good())
    for _ in range(3):
        with bounded():
            assert "header" in gateway.call(*READ, deadline_in(20.0))
        gateway._preferred = 0
    assert len(lookups) == 2, "each gateway has asked once, and is waiting"


@pytest.mark.rule("E8")
def test_a_name_that_does_not_exist_is_reported_and_the_next_endpoint_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(NoAnswerError, match="its name has no address"):
        gateway_to((NAME, 2379)).call(*READ, deadline_in(1.0))


@pytest.mark.rule("E8")
def test_known_addresses_of_a_name_are_used_while_the_name_server_is_silent(
    lookups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, (host, port) = gateway_to((NAME, 2379)), good()
    name = gateway._connections[0]._name
    name._addresses = [(socket.AF_INET, (host, port))]
    for _ in range(3):
        gateway.close()
        assert "header" in gateway.call(*READ, deadline_in(20.0))
    wait_until(lambda: len(lookups) == 1)


@pytest.mark.rule("E8")
def test_of_several_addresses_those_after_one_that_does_not_answer_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_CONNECT_TIMEOUT", 10.0)
    with black_hole() as bad:
        gateway = gateway_to((NAME, 2379))
        name = gateway._connections[0]._name
        name._addresses = [(socket.AF_INET, ("127.0.0.1", 1)), (socket.AF_INET, bad), (socket.AF_INET, good())]
        name._fresh_until = float("inf")
        assert "header" in gateway.call(*READ, deadline_in(40.0))


@pytest.mark.rule("E8")
def test_a_connection_that_the_endpoint_has_closed_is_not_used_again() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n"
    closed = threading.Event()

    def answer_once(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(head + b'{"header":{"cluster_id":"1","x":"yyy"}}')
        connection.close()
        closed.set()

    with endpoint(answer_once) as once:
        gateway = gateway_to(once)
        for _ in range(3):
            closed.clear()
            assert "header" in gateway.call(*READ, deadline_in(20.0), idempotent=False)
            assert closed.wait(60)
            (idle,) = gateway._connections[0]._idle
            wait_until(lambda idle=idle: not idle.wire.is_quiet())  # type: ignore[misc]


@pytest.mark.rule("E8")
def test_an_endpoint_that_answers_slowly_is_left_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = gateway_to(good(), ("127.0.0.1", 1))
    monkeypatch.setattr("mcp_claims.stores.etcd.gateway._SLOW", 0.0)
    assert "header" in gateway.call(*READ, deadline_in(20.0))
    assert gateway._preferred == 1


@pytest.mark.rule("E8")
def test_processes_do_not_all_begin_with_the_same_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert {gateway_to(("a.test", 1), ("b.test", 1), ("c.test", 1))._preferred for _ in range(200)} == {0, 1, 2}


@pytest.mark.rule("E8")
@pytest.mark.parametrize("name", ["no..name", "a" * 64])
def test_a_host_that_cannot_be_a_name_leaves_the_others(name: str) -> None:
    with bounded():
        assert "header" in gateway_to((name, 1), good()).call(*READ, deadline_in(20))


@pytest.mark.rule("E8")
def test_a_name_is_looked_up_later_where_there_was_no_thread_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = gateway_to(("localhost", good()[1]))

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(connections, "start_daemon_thread", no_thread)
        with pytest.raises(NoAnswerError, match="can't start new thread"):
            gateway.call(*READ, deadline_in(0.5))
    assert "header" in gateway.call(*READ, deadline_in(20))


@pytest.mark.rule("E8")
def test_without_a_descriptor_nothing_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    gateway = gateway_to(good())
    monkeypatch.setattr(SOCKET, none_left)
    with pytest.raises(NoAnswerError, match="Too many open files") as raised:
        gateway.call(*READ, deadline_in(0.5))
    assert not raised.value.outcome_unknown


@pytest.mark.rule("E8")
def test_an_address_of_a_family_that_the_kernel_lacks_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    real, look_up = socket.socket, socket.getaddrinfo

    class WithoutIpv6(real):  # type: ignore[valid-type, misc]
        def __init__(self, family: int = -1, *arguments: int, **more: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *arguments, **more)

    def with_ipv6_first(host: str, port: int, **more: Any) -> list[Any]:
        return [*look_up("::1", port, type=more["type"]), *look_up("127.0.0.1", port, type=more["type"])]

    gateway = gateway_to(("localhost", good()[1]))
    monkeypatch.setattr(SOCKET, WithoutIpv6)
    monkeypatch.setattr(socket, "getaddrinfo", with_ipv6_first)
    assert "header" in gateway.call(*READ, deadline_in(20))
