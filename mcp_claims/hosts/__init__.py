"""The hosts that run agents: where each keeps its list of MCP servers, and how to add and remove one there.

Only `install`, `uninstall` and `doctor` import this; servers and short commands do not.
"""

from mcp_claims.hosts.atomic_file import Change
from mcp_claims.hosts.catalog import HOSTS, Host, UserEnvironment
from mcp_claims.hosts.codex_approval import unapproved_events
from mcp_claims.hosts.entries import Launch, parse_entry
from mcp_claims.hosts.hook_catalog import HOOKS
from mcp_claims.hosts.hooks import DEFAULT_MODE, DEFAULT_SERVER, MODES, OFF, Hook
from mcp_claims.hosts.install import install, installed_hook, is_allowed, read_servers, uninstall
from mcp_claims.hosts.installation import Installation, find_installation
from mcp_claims.hosts.plugin import PLUGIN, plugin_file
from mcp_claims.hosts.vendor_cli import add_with_own_command

__all__ = [
    "DEFAULT_MODE",
    "DEFAULT_SERVER",
    "HOOKS",
    "HOSTS",
    "MODES",
    "OFF",
    "PLUGIN",
    "Change",
    "Hook",
    "Host",
    "Installation",
    "Launch",
    "UserEnvironment",
    "add_with_own_command",
    "find_installation",
    "install",
    "installed_hook",
    "is_allowed",
    "parse_entry",
    "plugin_file",
    "read_servers",
    "unapproved_events",
    "uninstall",
]
