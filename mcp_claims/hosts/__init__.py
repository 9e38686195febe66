"""The hosts that run agents: where each keeps its list of MCP servers, and how to add and remove one there.

Only `install`, `uninstall` and `doctor` import this; servers and short commands do not.
"""

from mcp_claims.hosts.atomic_file import Change
from mcp_claims.hosts.catalog import HOSTS, Host, UserEnvironment
from mcp_claims.hosts.claude_hooks import GUARD, SESSION_END, Hook
from mcp_claims.hosts.entries import Launch, parse_entry
from mcp_claims.hosts.install import install, installed_hooks, is_allowed, read_servers, uninstall
from mcp_claims.hosts.installation import Installation, find_installation
from mcp_claims.hosts.vendor_cli import add_with_own_command

__all__ = [
    "GUARD",
    "HOSTS",
    "SESSION_END",
    "Change",
    "Hook",
    "Host",
    "Installation",
    "Launch",
    "UserEnvironment",
    "add_with_own_command",
    "find_installation",
    "install",
    "installed_hooks",
    "is_allowed",
    "parse_entry",
    "read_servers",
    "uninstall",
]
