"""Which directory the claims are in."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.stores.config import choose_store, claims_directory, open_store


def test_the_argument_comes_before_the_variable_and_the_variable_before_the_default(tmp_path: Path) -> None:
    variable = {"MCP_CLAIMS_DIR": str(tmp_path / "variable")}
    assert claims_directory(str(tmp_path / "argument"), environment=variable) == tmp_path / "argument"
    assert claims_directory(None, environment=variable) == tmp_path / "variable"
    assert claims_directory(None, environment={}) not in (tmp_path / "argument", tmp_path / "variable")


def test_the_default_is_in_the_users_state_directory_and_not_in_a_cache() -> None:
    directory = claims_directory(None, environment={})
    assert directory == platformdirs.user_state_path("mcp-claims", appauthor=False) / "claims"
    assert platformdirs.user_cache_path("mcp-claims", appauthor=False) not in directory.parents


@pytest.mark.skipif(sys.platform == "win32", reason="has no XDG directories")
def test_the_default_follows_xdg_of_this_process_and_of_a_given_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert claims_directory() == tmp_path / "mcp-claims" / "claims"
    other = {"XDG_STATE_HOME": str(tmp_path / "other")}
    assert claims_directory(environment=other) == tmp_path / "other" / "mcp-claims" / "claims"


@pytest.mark.skipif(sys.platform == "win32", reason="has no XDG directories")
@pytest.mark.parametrize("state", ["state", "./state", " /state", "~/state"])
def test_a_relative_state_directory_is_refused_and_not_used(state: str) -> None:
    with pytest.raises(InvalidInputError, match="XDG_STATE_HOME"):
        claims_directory(environment={"XDG_STATE_HOME": state})


@pytest.mark.parametrize("function", [claims_directory, choose_store, open_store])
def test_no_signature_shows_the_environment(function: Callable[..., object]) -> None:
    assert inspect.signature(function).parameters["environment"].default is None


def test_a_home_directory_may_be_written_as_a_tilde() -> None:
    assert claims_directory("~/claims", environment={}) == Path(os.path.expanduser("~")) / "claims"


@pytest.mark.parametrize("path", ["", ".", "claims", "../claims"])
def test_a_relative_path_is_refused_since_servers_start_in_different_places(path: str) -> None:
    with pytest.raises(InvalidInputError, match="directory must be an absolute path"):
        claims_directory(path, environment={})
