"""`mcp-claims install` and `uninstall`: connect a host without reading its manual."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_claims.cli.options import add_store_options, chosen_store
from mcp_claims.cli.output import write_line
from mcp_claims.cli.serve import hours
from mcp_claims.errors import InvalidInputError
from mcp_claims.model import validation
from mcp_claims.session.identity import named_session
from mcp_claims.stores.config import (
    AGENT_AWARENESS,
    DIRECTORY_VARIABLE,
    LAYOUT_VARIABLE,
    PROVIDER_VARIABLE,
    chosen_cluster,
    located,
)
from mcp_claims.stores.etcd.config import CREDENTIALS

if TYPE_CHECKING:
    from mcp_claims.hosts import Change, Launch, Surroundings

# Said here too, so that the help of other commands does not import what edits files; a test compares.
HOST_NAMES = (
    *("claude-code", "claude-desktop", "codex", "copilot-cli", "gemini-cli", "cursor", "vscode", "windsurf", "zed"),
    *("opencode", "cline", "continue"),
)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Handed to `serve`; the variables count for `install`, since many hosts do not pass them on.
_PASSED_ON = {
    "layout": LAYOUT_VARIABLE,
    "provider": PROVIDER_VARIABLE,
    # Not its variable: two hosts with one identity would be one holder.
    "session": None,
    "keep_alive_hours": None,
    "retention_hours": None,
}


def add_install(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `install` and its options."""
    install = commands.add_parser(
        "install",
        help="make a host start the server: " + ", ".join(HOST_NAMES),
        description="Make a host start the server: write the entry into its user-level file. All else in the file stays "
        "as it is, and a copy of what was there is kept beside it.",
        epilog="example: mcp-claims install claude-code --hooks; exit codes: 0 done, or nothing to do; 2 wrong usage; "
        "3 the host's file cannot be edited safely, or not written",
    )
    _add_common(install)
    install.add_argument("--print", action="store_true", help="only print the entry to paste")
    install.add_argument(
        "--use-cli", action="store_true", help="let the host's own command add the entry, where it has one"
    )
    served = install.add_argument_group("what the server is started with")
    add_store_options(served)
    served.add_argument("--session", metavar="NAME", help="as for serve")
    served.add_argument("--keep-alive-hours", type=float, metavar="H", help="as for serve")
    served.add_argument("--retention-hours", type=float, metavar="H", help="as for serve")
    hooks = install.add_argument_group("Claude Code only")
    hooks.add_argument(
        "--hooks", action="store_true", help="also free a session's claims when it ends, after /clear too"
    )
    hooks.add_argument(
        "--guard",
        nargs="?",
        choices=("lenient", "strict"),
        const="lenient",
        help="also deny what touches a key or path that another session has claimed; strict: and where the store cannot answer",
    )
    install.set_defaults(run=_install)


def add_uninstall(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `uninstall` and its options."""
    uninstall = commands.add_parser(
        "uninstall",
        help="take the server out of a host again",
        description="Take the server, and its hooks, out of the host's file; all else stays as it is.",
        epilog="example: mcp-claims uninstall claude-code; exit codes as for install",
    )
    _add_common(uninstall)
    uninstall.set_defaults(run=_uninstall)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("host", metavar="HOST", choices=HOST_NAMES, help=", ".join(HOST_NAMES))
    command.add_argument("--name", default="claims", help="name of the server in the host (%(default)s)")
    command.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")


def _install(options: argparse.Namespace) -> int:
    from mcp_claims.hosts import HOSTS, Launch, install

    host, where = HOSTS[options.host], _surroundings()
    if (options.hooks or options.guard) and host.name != "claude-code":
        raise InvalidInputError("--hooks", "is for claude-code")
    name = _named(options.name)
    _check(options)
    launch = Launch(_interpreter(), ("-P", "-m", "mcp_claims", "serve", *_served_with(options, where.environment)))
    if options.print:
        write_line(host.format.show(host.place, name, host.entry(launch).merged(None)).removesuffix("\n"))
        return 0
    if options.use_cli and not options.dry_run:
        from mcp_claims.hosts.vendor_cli import add_by_command

        add_by_command(host, where, name, launch)
    changes = [install(host, where, name, launch)]
    if options.hooks or options.guard:
        changes.append(_hooks(where, launch, options.guard))
    if _carry_out(changes, options.dry_run):
        write_line(f"{host.title} starts it as {name!r}. {host.after}")
        if unwritten := sorted(each for each in where.environment if each.startswith(CREDENTIALS)):
            write_line(
                f"Not written down, as others may read it: the host itself has to be started with {', '.join(unwritten)}."
            )
        if host.official:
            write_line(f"Its own command for that is `{host.official}`.")
    return 0


def _uninstall(options: argparse.Namespace) -> int:
    from mcp_claims.hosts import HOSTS, uninstall

    host, where = HOSTS[options.host], _surroundings()
    changes = [uninstall(host, where, _named(options.name))]
    if host.name == "claude-code":
        from mcp_claims.hosts.claude_hooks import uninstall_hooks

        changes.append(uninstall_hooks(where))
    _carry_out(changes, options.dry_run)
    return 0


def _hooks(where: Surroundings, launch: Launch, guard: str | None) -> Change:
    from mcp_claims.hosts import Launch
    from mcp_claims.hosts.claude_hooks import GUARD, SESSION_END, install_hooks

    # The same store, or the hooks would look at other claims than the server.
    words = launch.arguments
    store = [
        word
        for option in ("--dir", "--layout", "--provider", "--store")
        if option in words
        for word in (option, words[words.index(option) + 1])
    ]

    def told(*program: str) -> Launch:
        return Launch(launch.command, ("-P", "-m", "mcp_claims", "hook", *program, *store))

    wanted = [(SESSION_END, told(SESSION_END.program))]
    if guard is not None:
        wanted.append((GUARD, told(GUARD.program, *(["--strict"] if guard == "strict" else []))))
    return install_hooks(where, wanted)


def _carry_out(changes: list[Change], dry_run: bool) -> bool:
    """Write, or show, what *changes* say; return whether something was written."""
    for change in changes:
        if not change:
            write_line(f"{change.path}: nothing to do")
        elif dry_run:
            write_line(change.diff().removesuffix("\n"))
        else:
            change.write()
            kept = f" (what was there: {change.backup.name})" if change.before.data is not None else ""
            write_line(f"{change.path}: {'removed' if change.after is None else 'written'}{kept}")
    return not dry_run and any(changes)


def _surroundings() -> Surroundings:
    from mcp_claims.hosts import Surroundings

    return Surroundings(Path.home(), sys.platform, os.environ)


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInputError("--name", "must be 1 to 64 letters, digits, - or _")
    return name


def _interpreter() -> str:
    if not os.path.isabs(sys.executable):
        raise InvalidInputError("the interpreter", f"must have an absolute path, not {sys.executable!r}")
    # Not resolved: what is in a virtual environment is a link to an interpreter that does not know the package.
    return os.path.abspath(sys.executable)


def _served_with(options: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    """Return the options of `serve` to write into the entry.

    Hosts give servers an environment of their own choosing: what chooses the directory here is written down, or two
    hosts would keep their claims in different places, and a key would have two holders.
    """
    if (
        cluster := chosen_cluster(options.dir, options.layout, options.provider, options.store, environment)
    ) is not None:
        return ["--store", cluster[0], *_passed_on(options, {})]
    arguments: list[str] = []
    theirs = (options.layout or environment.get(LAYOUT_VARIABLE)) == AGENT_AWARENESS
    if options.dir is not None or DIRECTORY_VARIABLE in environment or ("XDG_STATE_HOME" in environment and not theirs):
        arguments += ["--dir", located(options.dir, environment)[0]]
    return arguments + _passed_on(options, environment)


def _passed_on(options: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    arguments: list[str] = []
    for option, variable in _PASSED_ON.items():
        value = getattr(options, option)
        if value is None and variable is not None:
            value = environment.get(variable)
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else value]
    return arguments


def _check(options: argparse.Namespace) -> None:
    """Raise what `serve` would raise for these options, so that no host is given what cannot start."""
    store = chosen_store(options)
    if options.session is not None:
        named_session(store, options.session)
    if options.keep_alive_hours is not None:
        hours("--keep-alive-hours", options.keep_alive_hours)
    if options.retention_hours is not None:
        validation.retention(options.retention_hours)
