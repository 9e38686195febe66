"""The hosts: where each keeps its servers, in which format, and what its entry looks like.

Each has the address of the page that says so, as it was in November 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_claims.hosts import entries
from mcp_claims.hosts.entries import Entry, Launch
from mcp_claims.hosts.format import Format, Unfit
from mcp_claims.hosts.jsonc import JsonText
from mcp_claims.hosts.toml import TomlText
from mcp_claims.hosts.yaml import YamlText

STRICT, COMMENTED, LENIENT = JsonText(), JsonText(comments=True), JsonText(comments=True, trailing=True)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Whose files: the home directory, `sys.platform`, and the environment."""

    home: Path
    platform: str
    environment: Mapping[str, str]

    def chosen(self, variable: str, default: Path) -> Path:
        """Return the directory that *variable* names, else *default*."""
        return Path(self.environment.get(variable) or default)

    def applications(self) -> Path:
        """Return where programs with a window keep their settings."""
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support"
        return self.roaming() if self.platform == "win32" else self.config()

    def roaming(self) -> Path:
        """Return `%APPDATA%`."""
        return self.chosen("APPDATA", self.home / "AppData" / "Roaming")

    def config(self) -> Path:
        """Return `$XDG_CONFIG_HOME` or its default."""
        return self.chosen("XDG_CONFIG_HOME", self.home / ".config")


@dataclass(frozen=True, slots=True)
class Host:
    """A host: *file* is its user-level file, *place* where the servers are in it.

    *official* is the host's own command for adding a server, for people to know of, and *after* what to do once the file
    has changed.
    """

    name: str
    title: str
    source: str
    file: Callable[[Surroundings], Path]
    format: Format
    place: tuple[str, ...]
    entry: Callable[[Launch], Entry]
    after: str = "Restart it to take effect."
    official: str | None = None


def claude_directory(where: Surroundings) -> Path:
    """Return where Claude Code keeps its settings."""
    return where.chosen("CLAUDE_CONFIG_DIR", where.home / ".claude")


def _claude_code(where: Surroundings) -> Path:
    # An older name, which Claude Code goes on using where it is.
    older = claude_directory(where) / ".config.json"
    return older if older.exists() else where.chosen("CLAUDE_CONFIG_DIR", where.home) / ".claude.json"


def _zed(where: Surroundings) -> Path:
    if where.platform == "win32":
        return where.roaming() / "Zed" / "settings.json"
    # Not in Application Support, on macOS either.
    return (where.home / ".config" if where.platform == "darwin" else where.config()) / "zed" / "settings.json"


def _opencode(where: Surroundings) -> Path:
    directory = where.config() / "opencode"
    # It reads both, the one with comments last.
    with_comments = directory / "opencode.jsonc"
    return with_comments if with_comments.exists() else directory / "opencode.json"


def _cline(where: Surroundings) -> Path:
    name = "cline_mcp_settings.json"
    shared = where.chosen("CLINE_DIR", where.home / ".cline") / "data" / "settings" / name
    older = where.applications() / "Code" / "User" / "globalStorage" / "saoudrizwan.claude-dev" / "settings" / name
    return older if older.exists() and not shared.exists() else shared


def _continue(where: Surroundings) -> Path:
    directory = where.chosen("CONTINUE_GLOBAL_DIR", where.home / ".continue")
    file, older = directory / "config.yaml", directory / "config.json"
    if older.exists() and not file.exists():
        # Continue would read the new file alone, and the user's models would be gone.
        raise Unfit(f"does not exist, and would hide {older}; let Continue migrate that first")
    return file


_ALL = (
    Host(
        "claude-code",
        "Claude Code",
        "https://code.claude.com/docs/en/mcp",
        _claude_code,
        STRICT,
        ("mcpServers",),
        entries.typed,
        "New sessions have it; /mcp shows it.",
        "claude mcp add --scope user",
    ),
    Host(
        "claude-desktop",
        "Claude Desktop",
        "https://modelcontextprotocol.io/docs/develop/connect-local-servers",
        lambda where: where.applications() / "Claude" / "claude_desktop_config.json",
        STRICT,
        ("mcpServers",),
        entries.plain,
    ),
    Host(
        "codex",
        "Codex",
        "https://developers.openai.com/codex/mcp",
        lambda where: where.chosen("CODEX_HOME", where.home / ".codex") / "config.toml",
        TomlText(),
        ("mcp_servers",),
        entries.codex,
        "New sessions have it; /mcp shows it.",
        "codex mcp add",
    ),
    Host(
        "copilot-cli",
        "Copilot CLI",
        "https://docs.github.com/en/copilot/how-tos/copilot-cli/customize-copilot/add-mcp-servers",
        lambda where: where.chosen("COPILOT_HOME", where.home / ".copilot") / "mcp-config.json",
        LENIENT,
        ("mcpServers",),
        entries.copilot,
        "New sessions have it; /mcp shows it.",
        "copilot mcp add",
    ),
    Host(
        "gemini-cli",
        "Gemini CLI",
        "https://github.com/google-gemini/gemini-cli/blob/main/docs/tools/mcp-server.md",
        lambda where: where.chosen("GEMINI_CLI_HOME", where.home) / ".gemini" / "settings.json",
        COMMENTED,
        ("mcpServers",),
        entries.plain,
        "New sessions in trusted folders have it; /mcp shows it.",
        "gemini mcp add --scope user",
    ),
    Host(
        "cursor",
        "Cursor",
        "https://cursor.com/docs/context/mcp",
        lambda where: where.home / ".cursor" / "mcp.json",
        LENIENT,
        ("mcpServers",),
        entries.typed,
    ),
    Host(
        "vscode",
        "VS Code",
        "https://code.visualstudio.com/docs/agents/reference/mcp-configuration",
        lambda where: where.applications() / "Code" / "User" / "mcp.json",
        LENIENT,
        ("servers",),
        entries.typed,
        "`MCP: List Servers` shows it.",
        "code --add-mcp",
    ),
    Host(
        "windsurf",
        "Windsurf",
        "https://docs.windsurf.com/windsurf/cascade/mcp",
        lambda where: where.home / ".codeium" / "windsurf" / "mcp_config.json",
        LENIENT,
        ("mcpServers",),
        entries.plain,
        "Refresh its list of MCP servers, or restart it.",
    ),
    Host(
        "zed",
        "Zed",
        "https://zed.dev/docs/ai/mcp",
        _zed,
        LENIENT,
        ("context_servers",),
        entries.seconds,
        "It notices by itself.",
    ),
    Host(
        "opencode",
        "opencode",
        "https://opencode.ai/docs/mcp-servers",
        _opencode,
        LENIENT,
        ("mcp",),
        entries.opencode,
        "New sessions have it; `opencode mcp list` shows it.",
        "opencode mcp add",
    ),
    Host(
        "cline",
        "Cline",
        "https://docs.cline.bot/getting-started/config",
        _cline,
        STRICT,
        ("mcpServers",),
        entries.seconds,
        "It notices by itself.",
    ),
    Host(
        "continue",
        "Continue",
        "https://docs.continue.dev/reference",
        _continue,
        YamlText(),
        ("mcpServers",),
        entries.continue_dev,
        "Its agent mode has it after a reload.",
    ),
)

HOSTS: Mapping[str, Host] = {host.name: host for host in _ALL}
"""The hosts by the name that `install` takes."""
