"""Where the claims are when nobody says: one directory per user, the same for every host and rig."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from mcp_claims.errors import InvalidInputError
from mcp_claims.typed import TYPE_CHECKING

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
    # Imported here, like `platformdirs` below: each takes half as long as a whole check.
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
    state = _plain_state_directory(environment)
    if state is None:
        from platformdirs import user_state_dir

        state = user_state_dir(appauthor=False)
    return os.path.join(state, "mcp-claims", "claims"), "the default of this user"


def _plain_state_directory(environment: Mapping[str, str]) -> str | None:
    """Return what `platformdirs` answers where that is plain: on Linux, with absolute paths in the environment.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    home, state = environment.get("HOME", ""), environment.get("XDG_STATE_HOME")
    if sys.platform != "linux" or "ANDROID_DATA" in environment or not home.startswith("/"):
        return None
    if state is None:
        return f"{home.rstrip('/')}/.local/state"
    return state if state.startswith("/") and state == state.strip() else None
