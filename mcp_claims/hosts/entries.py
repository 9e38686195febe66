"""The entry of the server in a host's file: its command, and the time-outs that the server needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# `try_claim` waits up to 300 s, and a server on a loaded machine needs up to 5 s for its first answer.
CALL_SECONDS = 330
START_SECONDS = 30

# Fields of a remote server, as the hosts name them.  Beside a command Codex refuses the whole file, and Gemini CLI connects
# to the URL, which `--allow` would let act without asking.
_REMOTE_FIELDS = frozenset(
    [
        *("url", "httpUrl", "serverUrl", "tcp", "headers", "headersHelper", "requestOptions", "apiKey"),
        *("bearer_token", "bearer_token_env_var", "http_headers", "env_http_headers"),
        *("oauth", "oauth_resource", "auth", "authProviderType"),
    ]
)
_TRANSPORT_FIELDS, _LOCAL_TRANSPORTS = frozenset(["type", "transport", "transportType"]), frozenset(["stdio", "local"])


@dataclass(frozen=True, slots=True)
class Launch:
    """The command that starts a server, and the variables that the host adds to its environment."""

    command: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """The entry of a server: *required* replaces what a file has, *defaults* only fill in what it lacks."""

    required: dict[str, Any]
    defaults: dict[str, Any] = field(default_factory=dict)

    def merged_into(self, existing: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the entry to write in place of *existing*, keeping what others added to that (approvals, variables).

        The fields of a remote server go.
        """
        if existing is None:
            return {**self.required, **self.defaults}
        kept = {name: value for name, value in existing.items() if not _is_remote(name, value)}
        return {**self.defaults, **kept, **self.required}


def _is_remote(name: str, value: object) -> bool:
    return name in _REMOTE_FIELDS or (name in _TRANSPORT_FIELDS and value not in _LOCAL_TRANSPORTS)


def plain(launch: Launch) -> Entry:
    """Return the entry that most hosts understand."""
    return Entry({"command": launch.command, "args": list(launch.arguments)})


def with_transport(launch: Launch) -> Entry:
    """Return the entry of hosts that require the transport."""
    return Entry({"type": "stdio", **plain(launch).required})


def claude_code(launch: Launch) -> Entry:
    """Return the entry of Claude Code, which otherwise hides the tools behind a search, and does not wait for them."""
    return Entry(with_transport(launch).required, {"alwaysLoad": True})


def qwen(launch: Launch) -> Entry:
    """Return the entry of Qwen Code, which otherwise hides the tools behind a search."""
    return Entry(plain(launch).required, {"alwaysLoadTools": True})


def with_timeout(launch: Launch) -> Entry:
    """Return the entry of Zed and Cline, which by default give a call 60 s."""
    return Entry(plain(launch).required, {"timeout": CALL_SECONDS})


def codex(launch: Launch) -> Entry:
    """Return the entry of Codex, which by default gives a server 10 s to start and a call 60 s.

    Without `required` its first turn does not wait for the server, and the model has no tools.
    """
    time_limits = {"startup_timeout_sec": START_SECONDS, "tool_timeout_sec": CALL_SECONDS}
    return Entry(plain(launch).required, {"required": True, **time_limits})


def copilot(launch: Launch) -> Entry:
    """Return the entry of Copilot CLI, which requires the tools to offer and counts milliseconds."""
    return Entry({"type": "local", **plain(launch).required}, {"tools": ["*"], "timeout": CALL_SECONDS * 1000})


def opencode(launch: Launch) -> Entry:
    """Return the entry of opencode, whose command is one list and whose time-out is in milliseconds."""
    required = {"type": "local", "command": [launch.command, *launch.arguments]}
    return Entry(required, {"enabled": True, "timeout": CALL_SECONDS * 1000})


def continue_dev(launch: Launch) -> Entry:
    """Return the entry of Continue, whose time-out for connecting is in milliseconds."""
    return Entry(plain(launch).required, {"connectionTimeout": START_SECONDS * 1000})


def parse_entry(entry: object) -> Launch | None:
    """Return what a host starts for *entry*; `None` if that is not a command, as for a remote server."""
    if not isinstance(entry, dict):
        return None
    command, arguments = entry.get("command"), entry.get("args", [])
    if isinstance(command, list) and command:
        command, arguments = command[0], command[1:]
    if not isinstance(command, str) or not isinstance(arguments, list):
        return None
    variables = entry.get("env", entry.get("environment"))
    if not isinstance(variables, dict):
        variables = {}
    return Launch(
        command, tuple(str(each) for each in arguments), {str(key): str(value) for key, value in variables.items()}
    )
