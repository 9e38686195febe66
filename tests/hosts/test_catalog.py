"""Where each host keeps its servers, on each system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

from mcp_claims.hosts import HOSTS, Launch, UserEnvironment, parse_entry
from mcp_claims.hosts.errors import UneditableTextError

HOME = Path("/home/ada")
APPLICATIONS = {
    "linux": ".config",
    "darwin": "Library/Application Support",
    "win32": "AppData/Roaming",
}
CLINE = "globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json"
EVERYWHERE = {
    "claude-code": ".claude.json",
    "codex": ".codex/config.toml",
    "copilot-cli": ".copilot/mcp-config.json",
    "gemini-cli": ".gemini/settings.json",
    "qwen-code": ".qwen/settings.json",
    "cursor": ".cursor/mcp.json",
    "windsurf": ".codeium/windsurf/mcp_config.json",
    "opencode": ".config/opencode/opencode.json",
    "cline": ".cline/data/settings/cline_mcp_settings.json",
    "continue": ".continue/config.yaml",
}
MOVED = {
    "CLAUDE_CONFIG_DIR": ("claude-code", ".claude.json"),
    "CODEX_HOME": ("codex", "config.toml"),
    "COPILOT_HOME": ("copilot-cli", "mcp-config.json"),
    "GEMINI_CLI_HOME": ("gemini-cli", ".gemini/settings.json"),
    "QWEN_HOME": ("qwen-code", "settings.json"),
    "CLINE_DIR": ("cline", "data/settings/cline_mcp_settings.json"),
    "CONTINUE_GLOBAL_DIR": ("continue", "config.yaml"),
    "XDG_CONFIG_HOME": ("zed", "zed/settings.json"),
}


def file(host: str, platform: str = "linux", home: Path = HOME, environment: Mapping[str, str] | None = None) -> str:
    return str(
        PurePosixPath(HOSTS[host].config_file(UserEnvironment(home, platform, environment or {})).relative_to(home))
    )


@pytest.mark.parametrize("platform", APPLICATIONS)
def test_each_host_s_file_is_where_the_host_looks_for_it(platform: str) -> None:
    applications = APPLICATIONS[platform]
    zed = "AppData/Roaming/Zed" if platform == "win32" else ".config/zed"
    expected = EVERYWHERE | {
        "claude-desktop": f"{applications}/Claude/claude_desktop_config.json",
        "vscode": f"{applications}/Code/User/mcp.json",
        "zed": f"{zed}/settings.json",
    }
    assert {host: file(host, platform) for host in HOSTS} == expected


@pytest.mark.parametrize("variable", MOVED)
def test_a_host_with_another_directory_is_searched_there(variable: str) -> None:
    host, name = MOVED[variable]
    assert file(host, environment={variable: str(HOME / "else")}) == f"else/{name}"


@pytest.mark.parametrize(
    ("host", "there", "used"),
    [
        ("opencode", [".config/opencode/opencode.jsonc"], ".config/opencode/opencode.jsonc"),
        ("claude-code", [".claude/.config.json"], ".claude/.config.json"),
        ("cline", [f".config/Code/User/{CLINE}"], f".config/Code/User/{CLINE}"),
        ("cline", [f".config/Code/User/{CLINE}", EVERYWHERE["cline"]], EVERYWHERE["cline"]),
        ("continue", [".continue/config.yaml", ".continue/config.json"], ".continue/config.yaml"),
    ],
)
def test_of_several_files_it_is_the_one_that_the_host_reads(
    host: str, there: list[str], used: str, tmp_path: Path
) -> None:
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert file(host, home=tmp_path) == used


def test_no_file_is_made_that_would_hide_an_older_one(tmp_path: Path) -> None:
    (tmp_path / ".continue").mkdir()
    (tmp_path / ".continue" / "config.json").touch()
    with pytest.raises(UneditableTextError, match="would hide"):
        file("continue", home=tmp_path)


def test_each_host_starts_what_it_is_given() -> None:
    launch = Launch("/a b/python", ("-m", "mcp_claims"))
    for host in HOSTS.values():
        started = parse_entry(host.make_entry(launch).merged_into(None))
        assert started is not None
        assert (started.command, started.arguments) == (launch.command, launch.arguments)
        assert host.documentation.startswith("https://")


@pytest.mark.rule("H6")
@pytest.mark.parametrize(
    ("host", "field"), [("claude-code", "alwaysLoad"), ("qwen-code", "alwaysLoadTools"), ("codex", "required")]
)
def test_the_model_has_the_tools_in_its_first_turn_unless_a_person_decided_otherwise(host: str, field: str) -> None:
    entry = HOSTS[host].make_entry(Launch("/a b/python", ("-m", "mcp_claims")))
    assert entry.merged_into(None)[field] is True
    assert entry.merged_into({field: False})[field] is False
