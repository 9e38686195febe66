"""The hooks in Claude Code's user settings: the release at the end of a session, and the guard.

https://code.claude.com/docs/en/hooks: `hooks` has a list of groups for each event, and a group has a list of commands.
Each of our hooks has a group of its own, so that its removal leaves all others as they are.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

from mcp_claims.hosts.entries import Launch
from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.jsonc import JsonText
from mcp_claims.hosts.parts import Elements

_EDITING_TOOLS = "Edit|MultiEdit|Write|NotebookEdit|Bash"


@dataclass(frozen=True, slots=True)
class Hook:
    """One of our hooks.  *command* follows `mcp-claims hook`; *timeout* is in seconds."""

    event: str
    command: str
    timeout: int
    matcher: str | None = None

    def part(self, launch: Launch | None, platform: str) -> Elements:
        """Return its part of the settings, which runs *launch*; without one it can only be found and removed."""
        groups = [] if launch is None else [self._group(launch, platform)]
        return Elements(JsonText(), ("hooks", self.event), groups, self._is_ours)

    def _group(self, launch: Launch, platform: str) -> dict[str, Any]:
        # A shell runs the command, on Windows that of Git.
        words = [launch.command.replace("\\", "/") if platform == "win32" else launch.command, *launch.arguments]
        command = {"type": "command", "command": shlex.join(words), "timeout": self.timeout}
        return {**({"matcher": self.matcher} if self.matcher else {}), "hooks": [command]}

    def _is_ours(self, group: object) -> bool:
        """Return whether *group* runs this hook, with any interpreter.

        Raises `UneditableTextError` if it runs others too.
        """
        commands = group.get("hooks") if isinstance(group, dict) else None
        ours = [self._runs_in(command) for command in commands] if isinstance(commands, list) else []
        if any(ours) and not all(ours):
            raise UneditableTextError(f"has our {self.event} hook in one group with others; remove it by hand")
        return any(ours)

    def _runs_in(self, command: object) -> bool:
        line = command.get("command") if isinstance(command, dict) else None
        return isinstance(line, str) and re.search(rf"mcp[-_]claims hook {self.command}\b", line) is not None


SESSION_END = Hook("SessionEnd", "session-end", 10)
GUARD = Hook("PreToolUse", "guard", 5, _EDITING_TOOLS)
HOOKS = (SESSION_END, GUARD)
