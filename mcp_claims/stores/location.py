"""Where the claims are when nobody says: one directory per user, the same for every host and rig."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mcp_claims.errors import InvalidInputError

DIRECTORY_VARIABLE = "MCP_CLAIMS_DIR"


def claims_directory(option: str | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the claims directory: *option* (`--dir`), else `MCP_CLAIMS_DIR`, else the user's state directory.

    Not the cache directory, as in the original: caches may be purged at any time, and a claim that is purged while
    its holder works is a key with two holders.

    Raises `InvalidInputError` for an empty or relative path: hosts start servers in directories of their choosing,
    and two rigs that each used their own would never see each other's claims.
    """
    return located(option, environment)[0]


def located(option: str | None = None, environment: Mapping[str, str] = os.environ) -> tuple[Path, str]:
    """Return the claims directory, as `claims_directory` does, and who chose it, for people."""
    for name, path in (("--dir", option), (DIRECTORY_VARIABLE, environment.get(DIRECTORY_VARIABLE))):
        if path is not None:
            try:
                expanded = Path(path).expanduser()
            except RuntimeError as error:
                raise InvalidInputError(name, f"names the home of nobody known here: {path!r}") from error
            if not expanded.is_absolute():
                raise InvalidInputError(name, f"must be an absolute path, not {path!r}")
            return expanded, name
    # Imported here: it costs a third of a short command's time, and most rigs that use one set the variable.
    from platformdirs import user_state_path

    return user_state_path("mcp-claims", appauthor=False) / "claims", "the default of this user"
