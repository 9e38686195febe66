"""A TCP proxy that a test can cut, or have lose an answer, or delay a request."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread

_CHUNK = 65_536


class Proxy:
    """Forwards connections to `port` to *target*, a port of loopback.

    *admits* receives the port that a connection comes from; where it returns false, the connection is closed.
    """

    def __init__(self, target: int, admits: Callable[[int], bool] = lambda _: True) -> None:
        self._target, self._admits = target, admits
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = Lock()
        self._open: list[tuple[int, socket.socket, socket.socket]] = []
        self._cut = self._cut_after_loss = False
        self._lose: bytes | None = None
        self._hold: bytes | None = None
        self._held: list[bytes] = []
        self._unanswered: set[socket.socket] = set()
        self.triggered = Event()
        """Set once the answer that a test wanted lost is lost, or the request that it wanted held is held."""
        Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and admit none."""
        self._cut = True
        self.break_connections(lambda _: True)

    def mend(self) -> None:
        self._cut = False

    def break_connections(self, matches: Callable[[int], bool]) -> None:
        """Break the connections whose source port *matches*."""
        with self._lock:
            broken = [each for each in self._open if matches(each[0])]
        for _, client, server in broken:
            _close(client)
            _close(server)

    def lose_answer_to(self, request: bytes, *, then_cut: bool = False) -> None:
        """Forward the next message that contains *request*, and break its connection (or `cut`) before it is answered."""
        self.triggered.clear()
        self._lose, self._cut_after_loss = request, then_cut

    def hold(self, request: bytes) -> None:
        """Keep the next message that contains *request*, and break its connection."""
        self.triggered.clear()
        self._hold = request

    def deliver(self) -> bytes:
        """Send the message that was held; return the beginning of the answer."""
        with socket.create_connection(("127.0.0.1", self._target)) as late:
            late.sendall(self._held.pop())
            return late.recv(_CHUNK)

    def close(self) -> None:
        self.cut()
        # `shutdown` wakes the thread in `accept`; `close` alone does not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, (_, source) = self._listener.accept()
            except OSError:
                return
            if self._cut or not self._admits(source):
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open.append((source, client, server))
            if self._cut:
                # It was cut while we connected, and did not see this connection.
                _close(client)
                _close(server)
            for forward in (self._forward_requests, self._forward_answers):
                Thread(target=forward, args=(client, server), daemon=True).start()

    def _forward_requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            message = b""
            while data := client.recv(_CHUNK):
                message = data if data.startswith(b"POST ") else message + data
                if self._hold and self._hold in message:
                    message += _receive_rest(client, message)
                    self._hold = None
                    self._held.append(message)
                    break
                if self._lose and self._lose in message:
                    self._lose = None
                    self._unanswered.add(server)
                server.sendall(data)
            else:
                _close(server)
                return
            # Before the client sees the end: a test asks at once whether this fault is what it saw.
            self.triggered.set()
            _close(client)
            _close(server)

    def _forward_answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while (data := server.recv(_CHUNK)) and server not in self._unanswered:
                client.sendall(data)
        if server in self._unanswered:
            self.triggered.set()
            if self._cut_after_loss:
                self.cut()
            _close(server)
        _close(client)


def _receive_rest(client: socket.socket, message: bytes) -> bytes:
    """Return what is missing of *message*, an HTTP request: its head and its body may arrive apart."""
    head, _, body = message.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    rest = b""
    while len(body) + len(rest) < length:
        rest += client.recv(_CHUNK)
    return rest


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        connection.close()
