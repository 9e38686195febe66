"""The hosts that people run agents in: where each keeps its MCP servers, and how ours gets in and out again.

Nothing here runs when a server or a short command does: `install`, `uninstall` and `doctor --hosts` import it.
"""

from mcp_claims.hosts.atomic_file import Change
from mcp_claims.hosts.catalog import HOSTS, Host, Surroundings
from mcp_claims.hosts.entries import Launch, Started, started_by
from mcp_claims.hosts.install import configured, install, uninstall

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
