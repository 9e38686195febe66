"""The hosts' own commands for adding a server (`install --use-cli`).

They are not the default: `claude mcp add` refuses to replace an entry, the others replace it silently, most rewrite the
file in their own form, and none sets all the time-outs.  So they only add entries that do not exist, and the result is
checked.  `code --add-mcp` is not among them: it hands the entry to a window and does not report the result.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping

from mcp_claims.hosts.catalog import Host, UserEnvironment
from mcp_claims.hosts.entries import Launch, parse_entry
from mcp_claims.hosts.errors import HostCommandError
from mcp_claims.hosts.install import read_servers

_TIMEOUT = 60  # s

_COMMANDS: Mapping[str, Callable[[str, Launch], list[str]]] = {
    "claude-code": lambda name, launch: [
        *("claude", "mcp", "add-json", "--scope", "user", name),
        json.dumps({"type": "stdio", "command": launch.command, "args": list(launch.arguments)}),
    ],
    "codex": lambda name, launch: ["codex", "mcp", "add", name, "--", launch.command, *launch.arguments],
    "copilot-cli": lambda name, launch: ["copilot", "mcp", "add", name, "--", launch.command, *launch.arguments],
    "gemini-cli": lambda name, launch: [
        *("gemini", "mcp", "add", "--scope", "user", name),
        *(launch.command, *launch.arguments),
    ],
}


def add_with_own_command(host: Host, user: UserEnvironment, name: str, launch: Launch) -> None:
    """Let *host* itself add the server *name*, unless its file has a server of that name.

    Raises `HostCommandError` if the host has no such command, or the command fails or does something else, and
    `HostFileUneditableError`, before the command is run, for a file that does not parse.
    """
    content, before = read_servers(host, user)
    if name in before:
        return
    if host.name not in _COMMANDS:
        raise HostCommandError(host.title, "has no command for adding a server that reports the result")
    command = _COMMANDS[host.name](name, launch)
    program = shutil.which(command[0], path=user.environment.get("PATH"))
    if program is None:
        raise HostCommandError(host.title, f"was not found: there is no `{command[0]}` on the PATH")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            env=dict(user.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostCommandError(host.title, f"could not run `{' '.join(command[:3])}`: {error}") from error
    if done.returncode:
        output = " ".join((done.stderr or done.stdout).split())[:300]
        raise HostCommandError(host.title, f"refused with `{' '.join(command[:3])}`: {output}")
    _, after = read_servers(host, user)
    added = parse_entry(after.get(name))
    if added is None or (added.command, added.arguments) != (launch.command, launch.arguments):
        raise HostCommandError(host.title, f"did not add the requested entry to {content.path}; check that file")
    if lost := before.keys() - after.keys():
        raise HostCommandError(host.title, f"removed {', '.join(sorted(lost))} from {content.path}; check that file")
