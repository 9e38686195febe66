"""The resources of the board as an MCP App: the page, and what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_claims.liveness import local_machine
from mcp_claims.server.apps import BOARD, MIME_TYPE
from mcp_claims.server.registry import SessionRegistry
from mcp_claims.session.offload import run_scan

if TYPE_CHECKING:
    from mcp_claims.board.live import Board

_MAX_SHOWN = 2_000
"""Claims, and events, in one reading: a host passes all of them on every two seconds."""


class BoardApp:
    """The resources of the board, with the claims of *registry*."""

    def __init__(self, registry: SessionRegistry) -> None:
        self._registry = registry
        self._board: Board | None = None

    async def read(self, uri: str) -> tuple[str, str]:
        """Return the type and the text of *uri*, which is `BOARD` or `BOARD_DATA`."""
        # Imported here: few hosts ever read it.
        from mcp_claims.board.live import Board
        from mcp_claims.board.past import past_of
        from mcp_claims.board.site import as_json, everything, page

        if uri == BOARD:
            return MIME_TYPE, page()
        registry = self._registry
        if self._board is None:
            past = past_of(registry.store)
            self._board = Board(registry.store, registry.read_only, local_machine(), where="", past=past)
        board = self._board
        snapshot = await run_scan(registry.read_only, board.read)
        facts = everything(board, snapshot, releases=False)
        held_first = sorted(facts["rows"], key=lambda row: row[1]["state"] != "held")
        facts |= {"rows": held_first[:_MAX_SHOWN], "left_out": max(0, len(held_first) - _MAX_SHOWN)}
        facts["events"] = facts.get("events", ())[-_MAX_SHOWN:]
        return "application/json", as_json(facts).decode()
