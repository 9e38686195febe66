"""HTTP connections to one endpoint, on which every step ends by a deadline.

`http.client` knows a time-out for each read only, so that an endpoint which sends a byte a second holds its caller for minutes,
and none for the look-up of a name.  Here a connection has one deadline for all that is done with it, and names are looked up in
a thread that can be left behind.  Deadlines are times of `time.monotonic`.
"""

from __future__ import annotations

import io
import select
import socket
import ssl
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from email.message import Message
from http.client import HTTPConnection, HTTPResponse
from threading import Condition
from typing import NamedTuple, cast

from mcp_claims.stores.etcd.config import Endpoint
from mcp_claims.stores.threads import start_daemon_thread

_CONNECT_TIMEOUT = 1.0  # s, for all addresses of a name: a system that is there accepts at once, however busy it is
_NAME_TIMEOUT = 1.0  # s; a name server that has lost the question is asked again only after 5
_MAX_IDLE = 30.0  # s, after which a connection is not used again: a router may have forgotten it, without a word
_NAME_LASTS = 60.0  # s, after which a name is looked up again, while its old addresses are still used
_MAX_BODY = 64 << 20  # bytes; a page of etcd has fewer, and another server may send without end

_Address = tuple[socket.AddressFamily, tuple[object, ...]]


class NotSentError(Exception):
    """There is no connection, so nothing was sent; the text says why."""


class Response(NamedTuple):
    """A whole response."""

    status: int
    headers: Message
    body: bytes


class Stream:
    """A response that goes on, on a connection of its own."""

    def __init__(self, connection: _Connection, response: HTTPResponse, idle_timeout: float) -> None:
        self._connection, self._response, self._idle_timeout = connection, response, idle_timeout

    def lines(self) -> Iterator[bytes]:
        """Yield its lines as they come; raise `TimeoutError` if one takes longer than the idle time-out."""
        while True:
            self._connection.wire.deadline = time.monotonic() + self._idle_timeout
            if not (line := self._response.readline()):
                return
            yield line

    def end(self) -> None:
        """End it, from any thread."""
        self._connection.wire.shut_down()

    def close(self) -> None:
        """Close its connection, from the thread that reads."""
        self._connection.wire.disconnect()


class Connections:
    """The connections to *endpoint*, over TLS as *tls_context* says; for use by several threads.

    All methods with a deadline raise `NotSentError`, `OSError` and `http.client.HTTPException`.
    """

    def __init__(self, endpoint: Endpoint, tls_context: Callable[[], ssl.SSLContext] | None) -> None:
        self._endpoint, self._tls_context = endpoint, tls_context
        self._name = _Name(*endpoint)
        # The one used last is taken first: the others become idle, and are closed.
        self._idle: deque[_Connection] = deque()

    def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str], deadline: float) -> Response:
        """Send a request and return the whole response."""
        connection = self._take_idle() or self._connect(deadline)
        try:
            connection.wire.deadline = deadline
            connection.http.request(method, path, body, headers)
            with connection.http.getresponse() as response:
                received = Response(response.status, response.headers, response.read(_MAX_BODY))
                can_be_used_again = response.isclosed() and not response.will_close
        except BaseException:
            connection.wire.disconnect()
            # What broke one of them has perhaps broken all.
            self.close_idle()
            raise
        if can_be_used_again:
            connection.wire.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.wire.disconnect()
        return received

    def open_stream(
        self, path: str, body: bytes, headers: Mapping[str, str], deadline: float, idle_timeout: float
    ) -> tuple[Response, Stream]:
        """Send a request; return the head of the response, and its body as a stream.  The head of a failure has the body."""
        connection = self._connect(deadline)
        try:
            connection.wire.deadline = deadline
            connection.http.request("POST", path, body, headers)
            response = connection.http.getresponse()
            body = b"" if response.status == 200 else response.read(_MAX_BODY)
        except BaseException:
            connection.wire.disconnect()
            raise
        return Response(response.status, response.headers, body), Stream(connection, response, idle_timeout)

    def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        with suppress(IndexError):
            while True:
                self._idle.popleft().wire.disconnect()

    def _take_idle(self) -> _Connection | None:
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if time.monotonic() - connection.wire.idle_since < _MAX_IDLE and connection.wire.is_quiet():
                    return connection
                connection.wire.disconnect()
        return None

    def _connect(self, deadline: float) -> _Connection:
        addresses = self._name.addresses(min(deadline, time.monotonic() + _NAME_TIMEOUT))
        plain = self._connect_to_one(addresses, min(deadline, time.monotonic() + _CONNECT_TIMEOUT))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls_context is not None:
                # It bounds the whole handshake.
                plain.settimeout(_left(deadline))
                plain = self._tls_context().wrap_socket(plain, server_hostname=self._endpoint[0])
        except TimeoutError as error:
            plain.close()
            raise NotSentError("no answer in time to the TLS handshake") from error
        except OSError as error:  # A CA file that was removed meanwhile, too.
            plain.close()
            raise NotSentError(f"TLS failed ({error})"[:200]) from error
        http = HTTPConnection(*self._endpoint)
        http.auto_open = 0
        http.sock = cast(socket.socket, wire := _Wire(plain))
        return _Connection(http, wire)

    def _connect_to_one(self, addresses: list[_Address], deadline: float) -> socket.socket:
        problem = "no connection in time"
        for number, (family, address) in enumerate(addresses):
            try:
                plain = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # No descriptor is left, or the kernel has no IPv6.
                problem = f"no connection ({error.strerror or error})"
                continue
            try:
                # An address that does not answer leaves time for those after it.
                plain.settimeout(_left(deadline) / (len(addresses) - number))
                plain.connect(address)
            except TimeoutError:
                plain.close()
            except OSError as error:
                plain.close()
                problem = f"no connection ({error.strerror or error})"
            else:
                return plain
        raise NotSentError(problem)


class _Wire:
    """What `http.client` needs of a socket: it sends, makes a file to read from, and closes; all until `deadline`."""

    def __init__(self, plain: socket.socket) -> None:
        self._socket, self._unsent = plain, b""
        self.deadline = self.idle_since = time.monotonic()
        # Not `__del__`: in a cycle the socket could go first, with a warning.
        self.disconnect = weakref.finalize(self, plain.close)
        self.disconnect.atexit = False

    def sendall(self, data: bytes) -> None:
        # Head and body come one after the other.  Sent at once, they cost one system call, and etcd is woken once.
        self._unsent += data

    def makefile(self, _mode: str) -> io.BufferedReader:
        # Not by the `sendall` of a socket, which for TLS has a time-out for each piece.
        rest, self._unsent = memoryview(self._unsent), b""
        while rest:
            self._socket.settimeout(_left(self.deadline))
            rest = rest[self._socket.send(rest) :]
        return io.BufferedReader(_Received(self))

    def close(self) -> None:
        """Do nothing: `http.client` calls it before the body is read, where no other request may follow."""

    def receive_into(self, buffer: memoryview) -> int:
        self._socket.settimeout(_left(self.deadline))
        return self._socket.recv_into(buffer)

    def is_quiet(self) -> bool:
        """Return whether nothing has come, not even the end of the connection."""
        if sys.platform == "win32":
            return not select.select([self._socket], [], [], 0)[0]
        # `select` takes no descriptor beyond 1,023.
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def shut_down(self) -> None:
        """Let whoever reads from it reach the end, in any thread."""
        with suppress(OSError):
            # `SSLSocket.shutdown` would drop the TLS object by which another thread reads.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Connection(NamedTuple):
    """One connection: the protocol, and below it the socket."""

    http: HTTPConnection
    wire: _Wire


class _Received(io.RawIOBase):
    """What *wire* receives, as a file."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._wire.receive_into(buffer)


class _Name:
    """The addresses of *host*, looked up by at most one thread at a time, which a silent name server holds up for long."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._condition = Condition()
        self._addresses: list[_Address] = []
        self._problem: str | None = None
        self._fresh_until = 0.0
        self._looking_up = False
        with suppress(OSError, UnicodeError):
            self._addresses = self._look_up(socket.AI_NUMERICHOST)
            self._fresh_until = float("inf")

    def addresses(self, deadline: float) -> list[_Address]:
        """Return them, old ones if no others are known; raise `NotSentError`."""
        with self._condition:
            if time.monotonic() >= self._fresh_until and not self._looking_up:
                self._looking_up = True
                try:
                    start_daemon_thread(self._refresh, "mcp-claims name")
                except RuntimeError as error:  # The system has no thread left just now.
                    self._looking_up, self._problem = False, f"its name cannot be looked up ({error})"
            self._condition.wait_for(lambda: self._addresses or not self._looking_up, _left(deadline))
            if not self._addresses:
                raise NotSentError("no answer in time for its name" if self._looking_up else f"{self._problem}")
            return self._addresses

    def _refresh(self) -> None:
        problem, found = None, list[_Address]()
        try:
            found = self._look_up(0)
        except (OSError, UnicodeError) as error:
            problem = f"its name has no address ({getattr(error, 'strerror', None) or error})"
        with self._condition:
            self._looking_up, self._problem = False, problem
            if found:
                self._addresses, self._fresh_until = found, time.monotonic() + _NAME_LASTS
            self._condition.notify_all()

    def _look_up(self, flags: int) -> list[_Address]:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=flags)
        return [(family, address) for family, _, _, _, address in found]


def _left(deadline: float) -> float:
    """Return the seconds until *deadline*; raise `TimeoutError` once it has passed (a time-out of 0 would mean: do not wait)."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
