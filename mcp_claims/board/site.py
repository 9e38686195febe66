"""Answers the requests of the page: itself, its stream of changes, the release by force.  Knows no server.

The page has nothing in it that is worth a secret, so anybody may have it.  What it shows and does needs the token, which it has
from the fragment of its address, or asks for: no browser sends that to anybody by itself, as it would a cookie.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mcp_claims.board.live import Board, Snapshot
from mcp_claims.errors import ClaimsError
from mcp_claims.model.names import is_same_session
from mcp_claims.model.text import one_line
from mcp_claims.session.session import Session

PAGE, STREAM, RELEASE = "/", "/board/stream", "/board/release"
MAX_BODY_BYTES = 64 * 1024
_HEARTBEAT = 10.0  # s
_JSON = "application/json"
_SAME_ORIGIN = ("same-origin", "none")


class Request(NamedTuple):
    """A request; the names of its *headers* are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


class Response(NamedTuple):
    """An answer; a body of several parts goes on until whoever asked has gone."""

    status: int
    body: bytes | Iterator[bytes] = b""
    kind: str = _JSON
    headers: Mapping[str, str] = {}

    def all_headers(self) -> dict[str, str]:
        """Return all headers, but for those of the transport."""
        return {
            "Content-Type": f"{self.kind}; charset=utf-8",
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            **self.headers,
        }


class Gate(NamedTuple):
    """Who may ask.

    `accepts` says whether a token is valid; without it anybody who reaches the server may read, and nobody may change anything.
    `is_own` says whether a `Host` is a name of this server: a website must not reach it through a name of its own that it has
    pointed at this machine.
    """

    accepts: Callable[[str], bool] | None
    is_own: Callable[[str], bool]

    def refuse(self, headers: Mapping[str, str]) -> Response | None:
        """Return the refusal of a request with *headers*, whose names are in lower case; `None` if it may be answered."""
        if not self.is_own(headers.get("host", "")):
            return refusal(403, "This is not a name of this server.")
        # Only browsers send it, with each request; no script of a website can set it.
        if headers.get("sec-fetch-site", "none") not in _SAME_ORIGIN:
            return refusal(403, "Only the page itself may ask for this.")
        kind, _, token = headers.get("authorization", "").partition(" ")
        if self.accepts is not None and not (kind.lower() == "bearer" and self.accepts(token.strip())):
            return refusal(401, "A token is needed.", {"WWW-Authenticate": "Bearer"})
        return None


class Site:
    """The board to its viewers, for whom *person* revokes."""

    def __init__(self, board: Board, person: Session, gate: Gate) -> None:
        self._board, self._person, self._gate = board, person, gate

    def respond(self, request: Request) -> Response:
        """Answer *request*.  A stream blocks while nothing changes; so does a release, for as long as the store does."""
        known = {PAGE: "GET", STREAM: "GET", RELEASE: "POST"}
        if request.path not in known:
            return refusal(404, "There is nothing here.")
        if request.method != known[request.path]:
            return refusal(405, f"Only {known[request.path]} is answered here.")
        if request.path == PAGE:
            # It has nothing that is worth a secret.  A link from elsewhere may lead to it, a foreign name may not.
            if not self._gate.is_own(request.headers.get("host", "")):
                return refusal(403, "This is not a name of this server.")
            return Response(200, page().encode(), "text/html", {"Content-Security-Policy": _policy()})
        if (refused := self._gate.refuse(request.headers)) is not None:
            return refused
        return self._release(request) if request.path == RELEASE else Response(200, self._stream(), "text/event-stream")

    def _stream(self) -> Iterator[bytes]:
        sent: Snapshot | None = None
        while True:
            snapshot = self._board.wait(sent, _HEARTBEAT)
            if snapshot is None or snapshot is sent:
                yield b":\n\n"  # Shows whether anybody still reads.
            else:
                if sent is None:
                    # What is held is drawn while what has happened is still on its way.
                    sent = snapshot._replace(events=(), total=snapshot.total - len(snapshot.events))
                    releases = self._gate.accepts is not None
                    yield b"data: " + as_json(everything(self._board, sent, releases=releases)) + b"\n\n"
                yield b"data: " + as_json(changes(sent, snapshot)) + b"\n\n"
                sent = snapshot

    def _release(self, request: Request) -> Response:
        origin = urlsplit(request.headers.get("origin", ""))
        if origin.netloc.lower() != request.headers.get("host", "").lower() or not origin.netloc:
            return refusal(403, "Only the page itself may ask for this.")
        if self._gate.accepts is None:
            return refusal(403, "Without a token nobody releases anything here: start the server with one.")
        try:
            asked: dict[str, Any] = json.loads(request.body)
            row, generation, holder, reason = (asked.get(name) for name in ("row", "generation", "session", "reason"))
        except (ValueError, AttributeError, RecursionError):
            return refusal(400, "The request cannot be read.")
        found = self._board.claim_of(row) if isinstance(row, str) else None
        # The person has confirmed the end of this grant, not of the one that has come after it.
        is_meant = (
            found is not None
            and found.ended is None
            and found.generation == (generation or 0)
            and isinstance(holder, str)
            and is_same_session(one_line(found.holder.name), holder)
        )
        try:
            released = is_meant and found is not None and self._person.revoke(found, reason or None)
        except ClaimsError as error:
            return refusal(503, one_line(str(error)))
        finally:
            self._board.refresh()
        if not released:
            return refusal(409, "It has changed meanwhile; look again.")
        return Response(200, as_json({"released": True}))


def everything(board: Board, snapshot: Snapshot, *, releases: bool) -> dict[str, Any]:
    """Return what a page that has nothing yet needs to show *snapshot* of *board*."""
    about = {"where": board.where, "history": board.has_history, "releases": releases}
    return about | changes(None, snapshot)


def changes(sent: Snapshot | None, now: Snapshot) -> dict[str, Any]:
    """Return what a page that has *sent* lacks to show *now*; without *sent* it is everything."""
    before = {} if sent is None else sent.rows
    rows: list[tuple[str, Any]] = [(row, facts) for row, facts in now.rows.items() if before.get(row) is not facts]
    rows += [(row, None) for row in before if row not in now.rows]
    new = len(now.events) if sent is None else min(now.total - sent.total, len(now.events))
    facts: dict[str, Any] = {"now": now.at, "rows": rows, "problem": now.problem}
    if sent is None or sent.waits != now.waits:
        facts["waits"] = now.waits
    if new:
        facts["events"] = now.events[-new:]
    return facts


@cache
def page() -> str:
    """Return the page."""
    return resources.files("mcp_claims.board").joinpath("page.html").read_text(encoding="utf-8")


@cache
def _policy() -> str:
    """Return the policy under which a browser runs the page: its own script and style, and requests to its own server."""

    def hashes(element: str) -> str:
        parts = re.findall(rf"<{element}>(.*?)</{element}>", page(), re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts
        )

    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {hashes('script')}",
            f"style-src {hashes('style')}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            # Text that others wrote cannot become markup, even by a mistake in the script.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def as_json(facts: object) -> bytes:
    """Return *facts* as JSON on one line."""
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def refusal(status: int, problem: str, headers: Mapping[str, str] = {}) -> Response:
    """Return the answer to a request that is refused."""
    return Response(status, as_json({"problem": problem}), headers=headers)
