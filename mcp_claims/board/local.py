"""Serves the board to one person: on loopback, on a free port, under a token that is made for this run."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import NamedTuple

from mcp_claims.board.live import Board
from mcp_claims.board.site import MAX_BODY_BYTES, Gate, Request, Response, Site
from mcp_claims.session.session import Session

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_SILENCE = 30.0  # s for which a browser may neither send nor read


class LocalBoard(NamedTuple):
    """A server that waits for requests: *url* has the token in its fragment, which no browser sends."""

    url: str
    serve: Callable[[], None]


@contextmanager
def local_board(board: Board, person: Session, port: int) -> Iterator[LocalBoard]:
    """Listen on *port*, 0 for a free one, during the block; raises `OSError` if that is not possible."""
    token = secrets.token_urlsafe(24)
    names: set[str] = set()
    gate = Gate(
        accepts=lambda given: hmac.compare_digest(given.encode(errors="replace"), token.encode()),
        is_own=lambda host: host.lower() in names,
    )
    site = Site(board, person, gate)
    with _Server((HOST, port), partial(_Handler, site)) as server:
        number = server.server_address[1]
        names |= {f"{name}:{number}" for name in _NAMES}
        yield LocalBoard(f"http://{HOST}:{number}/#{token}", partial(server.serve_forever, 0.1))


class _Server(ThreadingHTTPServer):
    # On Windows it would let another program listen on the same port.
    allow_reuse_address = os.name == "posix"

    def server_bind(self) -> None:
        # That of the base class asks for the name of the host, which may take seconds.
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: it is a browser that has gone, or sent no HTTP."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _SILENCE

    def __init__(self, site: Site, *connection: object) -> None:
        self._site = site
        super().__init__(*connection)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self._send(Response(413))
            return
        self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._send(self._site.respond(Request(self.command, self.path.partition("?")[0], headers, body)))

    def _send(self, response: Response) -> None:
        self.send_response_only(response.status)
        for name, value in response.all_headers().items():
            self.send_header(name, value)
        if isinstance(response.body, bytes):
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        with suppress(OSError):  # The browser has gone.
            for part in [response.body] if isinstance(response.body, bytes) else response.body:
                self.wfile.write(part)

    def log_message(self, *arguments: object) -> None:
        """Write no log: the terminal is the person's."""
