"""The hosts: where each keeps its MCP servers, in which format, and the form of an entry.

The documentation of each host was read in November 2026.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mcp_claims.errors import InvalidInputError
from mcp_claims.hosts import entries
from mcp_claims.hosts.entries import Entry, Launch
from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.format import Format
from mcp_claims.hosts.jsonc import JsonText
from mcp_claims.hosts.parts import Elements, Member, Part
from mcp_claims.hosts.toml import TomlText
from mcp_claims.hosts.yaml import YamlText

_JSON = JsonText()
_JSON_WITH_COMMENTS = JsonText(comments=True)
_JSONC = JsonText(comments=True, trailing_commas=True)


@dataclass(frozen=True, slots=True)
class UserEnvironment:
    """The user whose files are meant: home directory, `sys.platform` and environment variables."""

    home: Path
    platform: str
    environment: Mapping[str, str]

    @classmethod
    def current(cls) -> UserEnvironment:
        """Return the environment of the user who runs this process; raise `InvalidInputError` if that has no home."""
        home = os.path.expanduser("~")
        if not os.path.isabs(home):  # The user id has no name, as in many containers.
            raise InvalidInputError("HOME", f"must be the absolute path of this user's home ({home!r} is none)")
        return cls(Path(home), sys.platform, os.environ)

    def directory_in(self, variable: str, default: Path) -> Path:
        """Return the directory in the environment *variable*, else *default*."""
        return Path(self.environment.get(variable) or default)

    def application_settings(self) -> Path:
        """Return where desktop applications keep their settings."""
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support"
        return self.appdata() if self.platform == "win32" else self.xdg_config()

    def appdata(self) -> Path:
        """Return `%APPDATA%`."""
        return self.directory_in("APPDATA", self.home / "AppData" / "Roaming")

    def xdg_config(self) -> Path:
        """Return `$XDG_CONFIG_HOME` or its default."""
        return self.directory_in("XDG_CONFIG_HOME", self.home / ".config")


@dataclass(frozen=True, slots=True)
class Permission:
    """How a user lets a host call every tool of a server without asking."""

    unattended: str | None = None
    """What has to be passed to an unattended run without the permission, for the server {name}; `None`: nothing."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """Its fields in the entry of the server."""
    parts: Callable[[UserEnvironment, str], Sequence[tuple[Path, Part]]] = lambda user, name: ()
    """Returns its parts of files, for the server of a name."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host and its user-level configuration file."""

    name: str
    title: str
    documentation: str
    config_file: Callable[[UserEnvironment], Path]
    """Returns the path of the file.  Raises `UneditableTextError` if it must not be made."""
    format: Format
    key_path: tuple[str, ...]
    """The keys that lead to the servers in the file."""
    make_entry: Callable[[Launch], Entry]
    next_step: str = "Restart it to take effect."
    """What the user has to do, or can check, once the file has changed."""
    own_command: str | None = None
    """The host's own command for adding a server."""
    permission: Permission | None = None
    """`None` for a host that keeps permissions where no file of the user has them."""


def claude_settings(user: UserEnvironment) -> Path:
    """Return the file of Claude Code's settings, which has hooks and permissions."""
    return user.directory_in("CLAUDE_CONFIG_DIR", user.home / ".claude") / "settings.json"


def copilot_settings(user: UserEnvironment) -> Path:
    """Return the file of Copilot's settings."""
    return _copilot_directory(user) / "settings.json"


def _claude_permission(user: UserEnvironment, name: str) -> list[tuple[Path, Part]]:
    rule = f"mcp__{name}"
    return [(claude_settings(user), Elements(_JSON, ("permissions", "allow"), [rule], lambda each: bool(each == rule)))]


def _copilot_permission(user: UserEnvironment, name: str) -> list[tuple[Path, Part]]:
    # Copilot keeps permissions for each project; a hook holds for all.  The pattern has to match the whole name of a tool;
    # a server with a longer name has a hyphen behind this one.
    answer = '{"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "allow"}}'
    matcher = f"{name}-[a-z_]+"
    group = {"matcher": matcher, "hooks": [{"type": "command", "command": f"echo '{answer}'", "timeout": 10}]}
    ours = Elements(
        _JSONC, ("hooks", "PreToolUse"), [group], lambda each: isinstance(each, dict) and each.get("matcher") == matcher
    )
    return [(copilot_settings(user), ours)]


def _opencode_permission(user: UserEnvironment, name: str) -> list[tuple[Path, Part]]:
    # Of the rules that match a tool the last one counts, so that ours overrides one for all tools.
    return [(_opencode(user), Member(_JSONC, ("permission",), f"{name}_*", lambda _: "allow"))]


def _copilot_directory(user: UserEnvironment) -> Path:
    return user.directory_in("COPILOT_HOME", user.home / ".copilot")


def _claude_code(user: UserEnvironment) -> Path:
    # Claude Code still uses the older name where that file exists.
    older = claude_settings(user).with_name(".config.json")
    return older if older.exists() else user.directory_in("CLAUDE_CONFIG_DIR", user.home) / ".claude.json"


def _zed(user: UserEnvironment) -> Path:
    if user.platform == "win32":
        return user.appdata() / "Zed" / "settings.json"
    # Not in Application Support, not even on macOS.
    return (user.home / ".config" if user.platform == "darwin" else user.xdg_config()) / "zed" / "settings.json"


def _opencode(user: UserEnvironment) -> Path:
    directory = user.xdg_config() / "opencode"
    # opencode reads both; the file with comments wins.
    with_comments = directory / "opencode.jsonc"
    return with_comments if with_comments.exists() else directory / "opencode.json"


def _cline(user: UserEnvironment) -> Path:
    name = "cline_mcp_settings.json"
    shared = user.directory_in("CLINE_DIR", user.home / ".cline") / "data" / "settings" / name
    older = (
        user.application_settings() / "Code" / "User" / "globalStorage" / "saoudrizwan.claude-dev" / "settings" / name
    )
    return older if older.exists() and not shared.exists() else shared


def _continue(user: UserEnvironment) -> Path:
    directory = user.directory_in("CONTINUE_GLOBAL_DIR", user.home / ".continue")
    file, older = directory / "config.yaml", directory / "config.json"
    if older.exists() and not file.exists():
        # Continue would then ignore the older file, and the user's models would be gone.
        raise UneditableTextError(f"does not exist, and would hide {older}; let Continue migrate that first")
    return file


_ALL = (
    Host(
        "claude-code",
        "Claude Code",
        "https://code.claude.com/docs/en/mcp",
        _claude_code,
        _JSON,
        ("mcpServers",),
        entries.claude_code,
        next_step="New sessions have it; /mcp shows it.",
        own_command="claude mcp add --scope user",
        permission=Permission("claude -p --allowedTools mcp__{name}", parts=_claude_permission),
    ),
    Host(
        "claude-desktop",
        "Claude Desktop",
        "https://modelcontextprotocol.io/docs/develop/connect-local-servers",
        lambda user: user.application_settings() / "Claude" / "claude_desktop_config.json",
        _JSON,
        ("mcpServers",),
        entries.plain,
    ),
    Host(
        "codex",
        "Codex",
        "https://developers.openai.com/codex/mcp",
        lambda user: user.directory_in("CODEX_HOME", user.home / ".codex") / "config.toml",
        TomlText(),
        ("mcp_servers",),
        entries.codex,
        next_step="New sessions have it; /mcp shows it.",
        own_command="codex mcp add",
        permission=Permission(fields={"default_tools_approval_mode": "approve"}),
    ),
    Host(
        "copilot-cli",
        "Copilot CLI",
        "https://docs.github.com/en/copilot/how-tos/copilot-cli/customize-copilot/add-mcp-servers",
        lambda user: _copilot_directory(user) / "mcp-config.json",
        _JSONC,
        ("mcpServers",),
        entries.copilot,
        next_step="New sessions have it; /mcp shows it.",
        own_command="copilot mcp add",
        permission=Permission("copilot -p --allow-tool={name}", parts=_copilot_permission),
    ),
    Host(
        "gemini-cli",
        "Gemini CLI",
        "https://github.com/google-gemini/gemini-cli/blob/main/docs/tools/mcp-server.md",
        lambda user: user.directory_in("GEMINI_CLI_HOME", user.home) / ".gemini" / "settings.json",
        _JSON_WITH_COMMENTS,
        ("mcpServers",),
        entries.plain,
        next_step="New sessions in trusted folders have it; /mcp shows it.",
        own_command="gemini mcp add --scope user",
        permission=Permission("gemini -p --allowed-tools 'mcp_{name}_*'", {"trust": True}),
    ),
    Host(
        "qwen-code",
        "Qwen Code",
        "https://qwenlm.github.io/qwen-code-docs/en/users/features/mcp",
        lambda user: user.directory_in("QWEN_HOME", user.home / ".qwen") / "settings.json",
        _JSON_WITH_COMMENTS,
        ("mcpServers",),
        entries.qwen,
        next_step="New sessions have it; /mcp shows it.",
        permission=Permission("qwen -p --allowed-tools mcp__{name}", {"trust": True}),
    ),
    Host(
        "cursor",
        "Cursor",
        "https://cursor.com/docs/context/mcp",
        lambda user: user.home / ".cursor" / "mcp.json",
        _JSONC,
        ("mcpServers",),
        entries.with_transport,
    ),
    Host(
        "vscode",
        "VS Code",
        "https://code.visualstudio.com/docs/agents/reference/mcp-configuration",
        lambda user: user.application_settings() / "Code" / "User" / "mcp.json",
        _JSONC,
        ("servers",),
        entries.with_transport,
        next_step="`MCP: List Servers` shows it.",
        own_command="code --add-mcp",
    ),
    Host(
        "windsurf",
        "Windsurf",
        "https://docs.windsurf.com/windsurf/cascade/mcp",
        lambda user: user.home / ".codeium" / "windsurf" / "mcp_config.json",
        _JSONC,
        ("mcpServers",),
        entries.plain,
        next_step="Refresh its list of MCP servers, or restart it.",
    ),
    Host(
        "zed",
        "Zed",
        "https://zed.dev/docs/ai/mcp",
        _zed,
        _JSONC,
        ("context_servers",),
        entries.with_timeout,
        next_step="It notices by itself.",
    ),
    Host(
        "opencode",
        "opencode",
        "https://opencode.ai/docs/mcp-servers",
        _opencode,
        _JSONC,
        ("mcp",),
        entries.opencode,
        next_step="New sessions have it; `opencode mcp list` shows it.",
        own_command="opencode mcp add",
        permission=Permission(parts=_opencode_permission),
    ),
    Host(
        "cline",
        "Cline",
        "https://docs.cline.bot/getting-started/config",
        _cline,
        _JSON,
        ("mcpServers",),
        entries.with_timeout,
        next_step="It notices by itself.",
    ),
    Host(
        "continue",
        "Continue",
        "https://docs.continue.dev/reference",
        _continue,
        YamlText(),
        ("mcpServers",),
        entries.continue_dev,
        next_step="Its agent mode has it after a reload.",
    ),
)

HOSTS: Mapping[str, Host] = {host.name: host for host in _ALL}
"""The hosts by the name that `mcp-claims install` takes."""
