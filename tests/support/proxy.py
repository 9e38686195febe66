"""A way for connections that a test can cut, make deaf, or have hold back what was sent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread

_BYTES = 65_536


class Proxy:
    """Passes on what comes to `port` to *target*, a port of loopback.

    *admits* is asked with the port that a connection comes from; one that it does not admit is closed.
    """

    def __init__(self, target: int, admits: Callable[[int], bool] = lambda _: True) -> None:
        self._target, self._admits = target, admits
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._lock = Lock()
        self._open: list[tuple[int, socket.socket, socket.socket]] = []
        self._cut = self._cut_after = False
        self._deaf_to: bytes | None = None
        self._holds: bytes | None = None
        self._held: list[bytes] = []
        self._unheard: set[socket.socket] = set()
        self.happened = Event()
        Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and admit none."""
        self._cut = True
        self.break_those(lambda _: True)

    def mend(self) -> None:
        self._cut = False

    def break_those(self, concerned: Callable[[int], bool]) -> None:
        """Break the connections from ports that are *concerned*."""
        with self._lock:
            broken = [each for each in self._open if concerned(each[0])]
        for _, client, server in broken:
            _end(client)
            _end(server)

    def lose_answer_to(self, request: bytes, *, and_cut: bool = False) -> None:
        """Pass the next message that has *request* in it on, and break its connection, or all, before it is answered."""
        self.happened.clear()
        self._deaf_to, self._cut_after = request, and_cut

    def hold(self, request: bytes) -> None:
        """Keep the next message that has *request* in it, and break its connection."""
        self.happened.clear()
        self._holds = request

    def deliver(self) -> bytes:
        """Send what was kept after all; return the beginning of the answer."""
        with socket.create_connection(("127.0.0.1", self._target)) as late:
            late.sendall(self._held.pop())
            return late.recv(_BYTES)

    def close(self) -> None:
        self.cut()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, (_, source) = self._listening.accept()
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
            for pump in (self._ask, self._answer):
                Thread(target=pump, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            message = b""
            while data := client.recv(_BYTES):
                message = data if data.startswith(b"POST ") else message + data
                if self._holds and self._holds in message:
                    # Head and body may come apart.
                    message += _rest(client, message)
                    self._holds = None
                    self._held.append(message)
                    break
                if self._deaf_to and self._deaf_to in message:
                    self._deaf_to = None
                    self._unheard.add(server)
                server.sendall(data)
            else:
                _end(server)
                return
            _end(client)
            _end(server)
            self.happened.set()

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while (data := server.recv(_BYTES)) and server not in self._unheard:
                client.sendall(data)
        if server in self._unheard:
            if self._cut_after:
                self.cut()
            _end(server)
            self.happened.set()
        _end(client)


def _rest(client: socket.socket, message: bytes) -> bytes:
    """Return what is still to come of *message*, an HTTP request."""
    head, _, body = message.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    rest = b""
    while len(body) + len(rest) < length:
        rest += client.recv(_BYTES)
    return rest


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        connection.close()
