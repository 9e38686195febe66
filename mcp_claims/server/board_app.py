"""The resources of the board as an MCP App: the page, and what it shows.  Knows neither the SDK nor an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mcp_claims.liveness import local_machine
from mcp_claims.server.apps import BOARD, MIME_TYPE
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.server.resource_list import JSON_TYPE
from mcp_claims.session.session import Session

if TYPE_CHECKING:
    from mcp_claims.board.live import Board, Snapshot

_MAX_SHOWN = 2_000
"""Claims, and events, in one reading: a host passes all of them on every two seconds."""


ReadBoard = Callable[[Session, Callable[[], "Snapshot"]], Awaitable["Snapshot"]]
"""Reads a board without blocking other calls."""


class BoardApp:
    """The resources of the board, with the claims of *registry*."""

    def __init__(self, registry: SessionRegistry) -> None:
        self._registry = registry
        self._board: Board | None = None

    async def contents(self, uri: str, read: ReadBoard) -> list[dict[str, Any]]:
        """Return what `resources/read` answers for *uri*, which is `BOARD` or `BOARD_DATA`, in the order of the SDK."""
        # Imported here: few hosts ever read it.
        from mcp_claims.board.live import Board
        from mcp_claims.board.past import past_of
        from mcp_claims.board.site import as_json, everything, page

        if uri == BOARD:
            meta = {"ui": {"prefersBorder": True}}
            return [{"_meta": meta, "mimeType": MIME_TYPE, "text": page(), "uri": uri}]
        registry = self._registry
        if self._board is None:
            past = past_of(registry.store)
            self._board = Board(registry.store, registry.read_only, local_machine(), where="", past=past)
        board = self._board
        snapshot = await read(registry.read_only, board.read)
        facts = everything(board, snapshot, releases=False)
        held_first = sorted(facts["rows"], key=lambda row: row[1]["state"] != "held")
        facts |= {"rows": held_first[:_MAX_SHOWN], "left_out": max(0, len(held_first) - _MAX_SHOWN)}
        facts["events"] = facts.get("events", ())[-_MAX_SHOWN:]
        return [{"mimeType": JSON_TYPE, "text": as_json(facts).decode(), "uri": uri}]
