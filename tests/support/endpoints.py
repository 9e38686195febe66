"""Endpoints that do not serve as etcd does: silent, slow, beyond a firewall, of another protocol."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Thread

from mcp_claims.stores.etcd.config import Endpoint

Answer = Callable[[socket.socket, Event], None]
"""Answers a request on a connection until the event is set."""

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{"


def silent(_: socket.socket, ended: Event) -> None:
    """Accept, and never answer, like a node that is stopped."""
    ended.wait()


def dripping(connection: socket.socket, ended: Event) -> None:
    """Send a byte now and then."""
    for byte in itertools.chain(_HEAD, itertools.repeat(0x20)):
        connection.sendall(bytes([byte]))
        if ended.wait(0.1):
            return


def endless_header(connection: socket.socket, ended: Event) -> None:
    """Send header fields without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not ended.is_set():
        connection.sendall(b"X: y\r\n" * 1_000)


def endless_body(connection: socket.socket, ended: Event) -> None:
    """Send a body without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
    while not ended.wait(0.01):
        connection.sendall(b"1," * 10_000)


def sending(answer: bytes) -> Answer:
    """Return what sends *answer* and closes the connection."""

    def send(connection: socket.socket, _: Event) -> None:
        connection.sendall(answer)

    return send


GARBAGE = {
    "SSH": sending(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    "zeros": sending(bytes(100)),
    "nothing": sending(b""),
    "half a response": sending(_HEAD),
    "a page": sending(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
    "a bad chunk": sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a header without end": endless_header,
}
"""Answers that are not etcd's, by what they are."""


@contextmanager
def endpoint(answer: Answer) -> Iterator[Endpoint]:
    """Listen on a free port of loopback, and *answer* each request there."""
    ended = Event()
    with ExitStack() as open_connections, socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        open_connections.callback(ended.set)

        def serve(connection: socket.socket) -> None:
            with suppress(OSError), connection:
                connection.recv(65_536)
                answer(connection, ended)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                Thread(target=serve, args=(connection,), daemon=True).start()

        accepting = Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()
        finally:
            # `shutdown` wakes the thread in `accept`; `close` alone does not.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def black_hole() -> Iterator[Endpoint]:
    """Listen, with a queue that is full: what comes to it is dropped, as by a firewall."""
    with ExitStack() as fillers, socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        while True:
            filler = fillers.enter_context(socket.socket())
            filler.settimeout(0.5)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                break
        yield listener.getsockname()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once *condition* holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
