"""The hosts that people run agents in: where each keeps its MCP servers, and how ours gets in and out again.

Nothing here runs when a server or a short command does: `install`, `uninstall` and `doctor --hosts` import it.
"""

from mcp_claims.hosts.entries import Launch, Started, started_by
from mcp_claims.hosts.files import Change
from mcp_claims.hosts.installing import configured, install, uninstall
from mcp_claims.hosts.table import HOSTS, Host, Surroundings

__all__ = [
    "HOSTS",
    "Change",
    "Host",
    "Launch",
    "Started",
    "Surroundings",
    "configured",
    "install",
    "started_by",
    "uninstall",
]
