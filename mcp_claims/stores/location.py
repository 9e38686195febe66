"""Where the claims are when nobody says: one directory per user, the same for every host and rig."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mcp_claims.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY_VARIABLE = "MCP_CLAIMS_DIR"


def claims_directory(option: str | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the claims directory: *option* (`--dir`), else `MCP_CLAIMS_DIR`, else the user's state directory.

    Not the cache directory, as in the original: caches may be purged at any time, and a claim that is purged while
    its holder works is a key with two holders.

    Raises `InvalidInputError` for an empty or relative path: hosts start servers in directories of their choosing,
    and two rigs that each used their own would never see each other's claims.
    """
    # Imported here, like `platformdirs` below: each costs a tenth of a short command's time and more.
    from pathlib import Path

    return Path(located(option, environment)[0])


def located(option: str | None = None, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return the claims directory, as `claims_directory` does, and who chose it, for people."""
    for name, path in (("--dir", option), (DIRECTORY_VARIABLE, environment.get(DIRECTORY_VARIABLE))):
        if path is not None:
            expanded = os.path.expanduser(path)
            if expanded.startswith("~"):
                raise InvalidInputError(name, f"names the home of nobody known here: {path!r}")
            if not os.path.isabs(expanded):
                raise InvalidInputError(name, f"must be an absolute path, not {path!r}")
            return expanded, name
    from platformdirs import user_state_dir

    return os.path.join(user_state_dir("mcp-claims", appauthor=False), "claims"), "the default of this user"
