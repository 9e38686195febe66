"""The default claims directory is where platformdirs puts the state of a user."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from mcp_claims.stores.config import claims_directory

ENVIRONMENTS = [
    {"HOME": "/home/kim"},
    {"HOME": "/home/kim/"},
    {"HOME": "/"},
    {"HOME": "/home/kim", "XDG_STATE_HOME": "/var/kim"},
    {"HOME": "/home/kim", "XDG_STATE_HOME": "/var/kim/"},
    {"HOME": "/home/kim", "XDG_STATE_HOME": ""},
    {},
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_it_is_the_state_directory_of_platformdirs(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_STATE_HOME", "MCP_CLAIMS_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert claims_directory(environment=os.environ) == (
        Path(platformdirs.user_state_path("mcp-claims", appauthor=False)) / "claims"
    )
