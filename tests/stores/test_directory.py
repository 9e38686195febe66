"""Which directory the claims are in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import platformdirs
import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.stores.config import claims_directory


def test_the_option_beats_the_variable_and_the_variable_beats_the_default(tmp_path: Path) -> None:
    variable = {"MCP_CLAIMS_DIR": str(tmp_path / "variable")}
    assert claims_directory(str(tmp_path / "option"), environment=variable) == tmp_path / "option"
    assert claims_directory(None, environment=variable) == tmp_path / "variable"
    assert claims_directory(None, environment={}) not in (tmp_path / "option", tmp_path / "variable")


def test_the_default_is_in_the_users_state_directory_and_not_in_a_cache() -> None:
    directory = claims_directory(None, environment={})
    assert directory == platformdirs.user_state_path("mcp-claims", appauthor=False) / "claims"
    assert platformdirs.user_cache_path("mcp-claims", appauthor=False) not in directory.parents


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG directories of Linux")
def test_the_default_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert claims_directory(None, environment={}) == tmp_path / "mcp-claims" / "claims"


def test_a_home_directory_may_be_written_as_a_tilde() -> None:
    assert claims_directory("~/claims", environment={}) == Path(os.path.expanduser("~")) / "claims"


@pytest.mark.parametrize("path", ["", ".", "claims", "../claims"])
def test_a_relative_path_is_refused_since_rigs_start_in_different_places(path: str) -> None:
    with pytest.raises(InvalidInputError, match="directory must be an absolute path"):
        claims_directory(path, environment={})
