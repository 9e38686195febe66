"""`mcp-claims install` and `uninstall`: add the server to a host's configuration, and remove it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence

from mcp_claims import hosts
from mcp_claims.cli.errors import STORE_ERROR, USAGE_ERROR
from mcp_claims.cli.options import add_epilog, add_store_options, chosen_store, store_choice
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
)
from mcp_claims.stores.etcd.config import VARIABLE_PREFIX

_SERVER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Options that are passed on to `serve`, with the variable that counts where an option is missing.
_SERVE_OPTIONS = {
    "layout": LAYOUT_VARIABLE,
    "provider": PROVIDER_VARIABLE,
    # MCP_CLAIMS_SESSION does not count: written into two hosts, it would make them one holder.
    "session": None,
    "keep_alive_hours": None,
    "retention_hours": None,
}
_STORE_OPTIONS = ("--dir", "--layout", "--provider", "--store")


def configure_install(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `install`."""
    _add_common(parser, "  mcp-claims install claude-code --hooks")
    parser.add_argument("--print", action="store_true", help="only print the entry, for pasting")
    parser.add_argument(
        "--use-cli", action="store_true", help="add the entry with the host's own command, if it has one"
    )
    server = parser.add_argument_group("options of the server")
    add_store_options(server)
    server.add_argument("--session", metavar="NAME", help="as for serve")
    server.add_argument("--keep-alive-hours", type=float, metavar="H", help="as for serve")
    server.add_argument("--retention-hours", type=float, metavar="H", help="as for serve")
    hooks = parser.add_argument_group("Claude Code only")
    hooks.add_argument(
        "--hooks", action="store_true", help="also release a session's claims when it ends, even by /clear"
    )
    hooks.add_argument(
        "--guard",
        nargs="?",
        choices=("lenient", "strict"),
        const="lenient",
        help="also block edits and commands that touch a key or path claimed by another session; "
        "strict: and those while the store cannot answer",
    )
    parser.set_defaults(run=_install)


def configure_uninstall(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `uninstall`."""
    _add_common(parser, "  mcp-claims uninstall claude-code")
    parser.set_defaults(run=_uninstall)


def _add_common(parser: argparse.ArgumentParser, example: str) -> None:
    trouble = f"{USAGE_ERROR} wrong usage, {STORE_ERROR} the host's file cannot be edited safely or not written"
    add_epilog(parser, example, "0 done, with a backup beside the file, or nothing to do", trouble=trouble)
    parser.add_argument("host", metavar="HOST", choices=hosts.HOSTS, help=", ".join(hosts.HOSTS))
    parser.add_argument("--name", default="claims", help="name of the server in the host (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")


def _install(options: argparse.Namespace) -> int:
    host, user, name = hosts.HOSTS[options.host], hosts.UserEnvironment.current(), options.name
    if (options.hooks or options.guard) and host.name != "claude-code":
        raise InvalidInputError("--hooks" if options.hooks else "--guard", "is for claude-code only")
    _validate(options)
    serve = ("-P", "-m", "mcp_claims", "serve", *_serve_arguments(options, user.environment))
    launch = hosts.Launch(_interpreter(), serve)
    for word in (launch.command, *serve):
        if word != word.encode(errors="replace").decode():
            raise InvalidInputError("the server's command", f"must be UTF-8, as the host's file is, not {word!r}")
    if options.print:
        entry = host.make_entry(launch).merged_into(None)
        write_line(host.format.snippet(host.key_path, name, entry).removesuffix("\n"))
        return 0
    if options.use_cli and not options.dry_run:
        hosts.add_with_own_command(host, user, name, launch)
    changes = [hosts.install(host, user, name, launch)]
    if options.hooks or options.guard:
        changes.append(_hooks(user, launch, options.guard))
    if _apply(changes, dry_run=options.dry_run):
        write_line(f"{host.title} starts it as {name!r}. {host.next_step}")
        if credentials := sorted(each for each in user.environment if each.startswith(VARIABLE_PREFIX)):
            write_line(
                f"The file has no credentials, as others may read it: start the host with {', '.join(credentials)} set."
            )
        if host.own_command:
            write_line(f"The host's own command for adding a server is `{host.own_command}`.")
    return 0


def _uninstall(options: argparse.Namespace) -> int:
    _validate_name(options.name)
    host, user = hosts.HOSTS[options.host], hosts.UserEnvironment.current()
    changes = [hosts.uninstall(host, user, options.name)]
    if host.name == "claude-code":
        changes.append(hosts.uninstall_hooks(user))
    _apply(changes, dry_run=options.dry_run)
    return 0


def _hooks(user: hosts.UserEnvironment, launch: hosts.Launch, guard: str | None) -> hosts.Change:
    """Return the change that installs the hooks.  They use the store of the server, *launch*."""
    words = launch.arguments
    store = [words[at + offset] for at, word in enumerate(words) if word in _STORE_OPTIONS for offset in (0, 1)]

    def launch_of(hook: hosts.Hook, *arguments: str) -> hosts.Launch:
        return hosts.Launch(launch.command, ("-P", "-m", "mcp_claims", "hook", hook.command, *arguments, *store))

    wanted = [(hosts.SESSION_END, launch_of(hosts.SESSION_END))]
    if guard is not None:
        strict = ["--strict"] if guard == "strict" else []
        wanted.append((hosts.GUARD, launch_of(hosts.GUARD, *strict)))
    return hosts.install_hooks(user, wanted)


def _apply(changes: Sequence[hosts.Change], *, dry_run: bool) -> bool:
    """Write the changes, or print them for a dry run; return whether anything was written."""
    for change in changes:
        if not change:
            write_line(f"{change.path}: nothing to do")
        elif dry_run:
            write_line(change.diff().removesuffix("\n"))
        else:
            change.write()
            backup = "" if change.before.data is None else f" (backup: {change.backup.name})"
            write_line(f"{change.path}: {'removed' if change.after is None else 'written'}{backup}")
    return not dry_run and any(changes)


def _interpreter() -> str:
    if not os.path.isabs(sys.executable):
        raise InvalidInputError("the interpreter", f"must have an absolute path, not {sys.executable!r}")
    # Not resolved: in a virtual environment it is a link to an interpreter that does not find the package.
    return os.path.abspath(sys.executable)


def _serve_arguments(options: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    """Return the arguments of `serve` in the entry: the store and the options.

    What chooses the store in *environment* is written down.  Hosts pass on few variables, and two hosts with different
    stores would give one key two holders.
    """
    choice = store_choice(options)
    if choice.url is not None:
        return ["--store", choice.url, *_passed_on(options, {})]
    chosen = options.dir is not None or (DIRECTORY_VARIABLE in environment and options.provider is None)
    if chosen:
        # `serve` refuses a directory and a provider at once.
        environment = {name: value for name, value in environment.items() if name != PROVIDER_VARIABLE}
    if chosen or ("XDG_STATE_HOME" in environment and choice.layout != AGENT_AWARENESS):
        return ["--dir", choice.directory, *_passed_on(options, environment)]
    return _passed_on(options, environment)


def _passed_on(options: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    arguments: list[str] = []
    for option, variable in _SERVE_OPTIONS.items():
        value = getattr(options, option)
        if value is None and variable is not None:
            value = environment.get(variable)
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else value]
    return arguments


def _validate(options: argparse.Namespace) -> None:
    """Raise the error that `serve` would raise for these options: no host may get an entry that cannot start."""
    _validate_name(options.name)
    store = chosen_store(options)
    if options.session is not None:
        named_session(store, options.session)
    if options.keep_alive_hours is not None:
        hours("--keep-alive-hours", options.keep_alive_hours)
    if options.retention_hours is not None:
        validation.parse_retention(options.retention_hours)


def _validate_name(name: str) -> None:
    if not _SERVER_NAME.fullmatch(name):
        raise InvalidInputError("--name", "must be 1 to 64 letters, digits, - or _")
