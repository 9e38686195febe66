"""What a host is told about the server: the command, and how long it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# `try_claim` waits up to 300 s, and a server on a loaded machine takes up to 5 s to answer first.
CALL_SECONDS = 330
START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Launch:
    """The command that starts the server: an absolute path and its arguments."""

    command: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """What a host's file says of the server: *ours* has to be so, *defaults* only if nothing else is said there."""

    ours: dict[str, Any]
    defaults: dict[str, Any]

    def merged(self, found: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the entry to write where *found* is: what others added to it (approvals, variables) stays."""
        return {**self.ours, **self.defaults} if found is None else {**self.defaults, **found, **self.ours}


@dataclass(frozen=True, slots=True)
class Started:
    """What a host would start, as its file says."""

    command: str
    arguments: tuple[str, ...]
    variables: dict[str, str]


def plain(launch: Launch) -> Entry:
    """Return the entry that most hosts understand."""
    return Entry({"command": launch.command, "args": list(launch.arguments)}, {})


def typed(launch: Launch) -> Entry:
    """Return the entry of hosts that want the transport named."""
    return Entry({"type": "stdio", **plain(launch).ours}, {})


def codex(launch: Launch) -> Entry:
    """Return the entry of Codex, which gives a server 10 s to start and a call 60 s unless told otherwise."""
    return Entry(plain(launch).ours, {"startup_timeout_sec": START_SECONDS, "tool_timeout_sec": CALL_SECONDS})


def seconds(launch: Launch) -> Entry:
    """Return the entry of Zed and Cline, which give a call 60 s unless told otherwise."""
    return Entry(plain(launch).ours, {"timeout": CALL_SECONDS})


def copilot(launch: Launch) -> Entry:
    """Return the entry of Copilot CLI, which wants the tools to offer and counts milliseconds."""
    return Entry({"type": "local", **plain(launch).ours}, {"tools": ["*"], "timeout": CALL_SECONDS * 1000})


def opencode(launch: Launch) -> Entry:
    """Return the entry of opencode, whose command is one list and whose time-out is in milliseconds."""
    ours = {"type": "local", "command": [launch.command, *launch.arguments]}
    return Entry(ours, {"enabled": True, "timeout": CALL_SECONDS * 1000})


def continue_dev(launch: Launch) -> Entry:
    """Return the entry of Continue, which counts milliseconds to connect."""
    return Entry(plain(launch).ours, {"connectionTimeout": START_SECONDS * 1000})


def started_by(entry: object) -> Started | None:
    """Return what a host starts for *entry*; `None` if that is no command, as for a remote server."""
    if not isinstance(entry, dict):
        return None
    command, arguments = entry.get("command"), entry.get("args", [])
    if isinstance(command, list) and command:
        command, arguments = command[0], command[1:]
    if not isinstance(command, str) or not isinstance(arguments, list):
        return None
    variables = entry.get("env", entry.get("environment"))
    named = {str(key): str(value) for key, value in variables.items()} if isinstance(variables, dict) else {}
    return Started(command, tuple(str(each) for each in arguments), named)
