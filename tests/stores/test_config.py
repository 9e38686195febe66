"""Which store the arguments and the environment choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_claims.errors import InvalidInputError
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.config import choose_store, open_store
from mcp_claims.stores.files.store import FileStore
from tests.cli.test_command_line import run
from tests.support.servers import PYTHON_ENVIRONMENT, raw_server

LAYOUT = {"MCP_CLAIMS_LAYOUT": "agent-awareness"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def test_the_store_has_its_own_layout_by_default(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), environment={})
    assert isinstance(store, FileStore)
    assert store.directory == str(tmp_path)


@pytest.mark.rule("A1")
@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ({"layout": "agent-awareness", "provider": "codex"}, {}),
        ({"provider": "codex"}, LAYOUT),
        ({}, LAYOUT | {"MCP_CLAIMS_PROVIDER": "codex"}),
    ],
)
def test_the_original_s_layout_is_in_the_directory_of_the_provider(
    home: Path, options: dict[str, Any], environment: dict[str, str]
) -> None:
    store = open_store(**options, environment=environment)
    assert isinstance(store, AgentAwarenessStore)
    assert Path(store.directory) == home / ".cache" / "agent-awareness" / "codex" / "claims"


@pytest.mark.parametrize("variable", [True, False])
def test_a_given_directory_is_used_in_the_original_s_layout_too(tmp_path: Path, variable: bool) -> None:
    environment = {"MCP_CLAIMS_DIR": str(tmp_path)} if variable else {}
    store = open_store(None if variable else str(tmp_path), layout="agent-awareness", environment=environment)
    assert isinstance(store, AgentAwarenessStore)
    assert store.directory == str(tmp_path)


def test_the_argument_comes_before_the_variable(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path), layout="mcp-claims", environment=LAYOUT), FileStore)


@pytest.mark.parametrize(
    ("options", "environment", "rule"),
    [
        ({"layout": "original"}, {}, "layout must be mcp-claims or agent-awareness, not 'original'"),
        ({}, {"MCP_CLAIMS_LAYOUT": ""}, "MCP_CLAIMS_LAYOUT must be mcp-claims or agent-awareness"),
        ({"provider": "claude"}, {}, "layout must be agent-awareness where a provider is given"),
        ({"layout": "agent-awareness", "provider": "../x"}, {}, "provider must be the name of a directory"),
        ({"layout": "agent-awareness", "provider": ""}, {}, "provider must be the name of a directory"),
        ({"layout": "agent-awareness", "directory": "claims"}, {}, "directory must be an absolute path"),
    ],
)
def test_a_value_that_no_store_has_is_refused(options: dict[str, Any], environment: dict[str, str], rule: str) -> None:
    with pytest.raises(InvalidInputError, match=rule):
        open_store(**options, environment=environment)


def test_a_choice_names_what_chose_it(tmp_path: Path) -> None:
    directory, url = str(tmp_path), "etcd://n1:2379/p"
    choices = [
        choose_store(directory, environment={}),
        choose_store(environment={"MCP_CLAIMS_DIR": directory}),
        choose_store(environment={}),
        choose_store(url=url, environment={}),
        choose_store(environment={"MCP_CLAIMS_STORE": url}),
    ]
    assert [choice.chosen_by for choice in choices] == [
        "directory",
        "MCP_CLAIMS_DIR",
        "default",
        "url",
        "MCP_CLAIMS_STORE",
    ]
    assert [choice.url for choice in choices] == [None, None, None, url, url]


def test_the_owner_of_a_lock_is_dead_if_no_process_here_has_its_pid(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), layout="agent-awareness", environment={})
    assert isinstance(store, AgentAwarenessStore)
    assert store.pid_is_gone(2**22 + 1)
    assert not store.pid_is_gone(1)


def test_the_command_line_names_its_option_and_the_layouts() -> None:
    done = run("serve", "--layout", "original")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--layout must be mcp-claims or agent-awareness" in done.stderr


def test_a_server_in_the_original_s_layout_claims_where_the_original_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PYTHON_ENVIRONMENT, "MCP_CLAIMS_LAYOUT", "agent-awareness")
    with raw_server(tmp_path / "claims") as server:
        assert server.call("try_claim", key="vercel/next.js#4521", namespace="ci")["claimed"]
        assert (tmp_path / "claims" / "ci" / "vercel_next.js_4521.json").is_file()
        assert server.call("release", key="vercel/next.js#4521", namespace="ci")["released"]
