"""The board as an MCP App: a host that declares the extension shows it beside the answers of `list_claims`.

To any other client not a byte of it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXTENSION = "io.modelcontextprotocol/ui"
MIME_TYPE = "text/html;profile=mcp-app"
BOARD, BOARD_DATA = "ui://claims/board", "ui://claims/board.json"
TOOL = "list_claims"
TOOL_META = {"ui": {"resourceUri": BOARD}}
"""What the definition of `TOOL` has in its `_meta`."""


def shows_apps(extensions: Mapping[str, Any] | None) -> bool:
    """Return whether a client with these *extensions* among its capabilities shows apps that are pages."""
    settings = (extensions or {}).get(EXTENSION)
    kinds = settings.get("mimeTypes") if isinstance(settings, Mapping) else None
    return isinstance(kinds, list | tuple) and MIME_TYPE in kinds
