"""The hosts' own commands for adding a server, for who prefers them (`install --use-cli`).

They are not the default: `claude mcp add` refuses what is there already, the others replace it silently, most rewrite the
file in their own form, and none sets all the time-outs.  So they only add what is not there, and what they did is checked.
`code --add-mcp` is not among them: it hands the entry to a window and cannot tell what became of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping

from mcp_claims.hosts.catalog import Host, Surroundings
from mcp_claims.hosts.entries import Launch, started_by
from mcp_claims.hosts.errors import HostCommandError
from mcp_claims.hosts.install import configured

_PATIENCE = 60  # s

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


def add_by_command(host: Host, where: Surroundings, name: str, launch: Launch) -> None:
    """Let *host* itself add the server *name*, unless something of that name is there.

    Raises `HostCommandError` if it has no command for that, or the command fails or did something else, and
    `HostFileUnfitError` for a file that does not parse, before the command is run.
    """
    content, before = configured(host, where)
    if name in before:
        return
    if host.name not in _COMMANDS:
        raise HostCommandError(host.title, "has no command for that which tells what became of it")
    command = _COMMANDS[host.name](name, launch)
    program = shutil.which(command[0], path=where.environment.get("PATH"))
    if program is None:
        raise HostCommandError(host.title, f"is not here: there is no `{command[0]}` on the PATH")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            env=dict(where.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostCommandError(host.title, f"could not run `{' '.join(command[:3])}`: {error}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        raise HostCommandError(host.title, f"refused with `{' '.join(command[:3])}`: {said}")
    _, after = configured(host, where)
    started = started_by(after.get(name))
    if started is None or (started.command, started.arguments) != (launch.command, launch.arguments):
        raise HostCommandError(host.title, f"did not add what it was told to {content.path}")
    if lost := before.keys() - after.keys():
        raise HostCommandError(host.title, f"has lost {', '.join(sorted(lost))} from {content.path}")
