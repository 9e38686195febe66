"""Whether a host has our plugin, which brings the server and the hooks, so that none of them is in the files that `install` edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from mcp_claims.hosts.atomic_file import read
from mcp_claims.hosts.catalog import Host, UserEnvironment, claude_settings, copilot_settings
from mcp_claims.hosts.errors import HostFileUneditableError, UneditableTextError
from mcp_claims.hosts.jsonc import JsonText

PLUGIN = "claims@mcp-claims"
"""Our plugin, as hosts name it: with its marketplace."""

_SETTINGS: Mapping[str, Callable[[UserEnvironment], Path]] = {
    "claude-code": claude_settings,
    "copilot-cli": copilot_settings,
}
_JSONC = JsonText(comments=True, trailing_commas=True)


def plugin_file(host: Host, user: UserEnvironment) -> Path | None:
    """Return the file of the user's settings that switches our plugin on in *host*; `None` if none does.

    A file that cannot be read counts as one without it: who has to edit it says what is wrong there.
    """
    if host.name not in _SETTINGS:
        return None
    with suppress(HostFileUneditableError, UneditableTextError):
        content = read(_SETTINGS[host.name](user))
        if _JSONC.servers(_JSONC.parse(content.text()), ("enabledPlugins",)).get(PLUGIN):
            return content.path
    return None
