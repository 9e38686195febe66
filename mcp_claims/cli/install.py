"""`mcp-claims install` and `uninstall`: add the server to a host's configuration, and remove it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence

from mcp_claims import hosts
from mcp_claims.cli.errors import STORE_ERROR, USAGE_ERROR
from mcp_claims.cli.install_git import GIT, add_git_options, check_options, install_git, uninstall_git
from mcp_claims.cli.install_hooks import add_hook_options, chosen_hook, describe_hook
from mcp_claims.cli.options import HOUR, add_epilog, add_store_options, chosen_store, duration, store_choice
from mcp_claims.cli.output import write_line
from mcp_claims.cli.serve import hours
from mcp_claims.errors import InvalidInputError
from mcp_claims.model import validation
from mcp_claims.session.identity import named_session
from mcp_claims.stores.config import AGENT_AWARENESS, DIRECTORY_VARIABLE, LAYOUT_VARIABLE, PROVIDER_VARIABLE
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


def configure_install(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `install`."""
    _add_common(parser, "  mcp-claims install claude-code --guard")
    parser.add_argument("--print", action="store_true", help="only print the entry, for pasting")
    parser.add_argument(
        "--use-cli", action="store_true", help="add the entry with the host's own command, if it has one"
    )
    parser.add_argument(
        "--allow", action="store_true", help="also let the host call its tools without asking, as unattended runs need"
    )
    server = parser.add_argument_group("options of the server")
    add_store_options(server)
    server.add_argument("--session", metavar="NAME", help="as for serve")
    server.add_argument("--keep-alive-hours", type=duration(HOUR), metavar="H", help="as for serve")
    server.add_argument("--retention-hours", type=duration(HOUR), metavar="H", help="as for serve")
    add_hook_options(parser)
    add_git_options(parser)
    parser.set_defaults(run=_install)


def configure_uninstall(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `uninstall`."""
    _add_common(parser, "  mcp-claims uninstall claude-code")
    add_git_options(parser)
    parser.set_defaults(run=_uninstall)


def _add_common(parser: argparse.ArgumentParser, example: str) -> None:
    trouble = f"{USAGE_ERROR} wrong usage, {STORE_ERROR} the host's file cannot be edited safely or not written"
    add_epilog(parser, example, "0 done, with a backup beside the file, or nothing to do", trouble=trouble)
    names = [*hosts.HOSTS, GIT]
    parser.add_argument("host", metavar="HOST", choices=names, help=", ".join(names))
    parser.add_argument("--name", default="claims", help="name of the server in the host (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")


def _install(options: argparse.Namespace) -> int:
    check_options(options)
    if options.host == GIT:
        return install_git(options)
    host, user, name = hosts.HOSTS[options.host], hosts.UserEnvironment.current(), options.name
    if options.allow and host.permission is None:
        raise InvalidInputError("--allow", f"is not for {host.title}, which has no file for it: allow the tools there")
    _validate(options)
    serve = _serve_arguments(options, user.environment)
    installed = hosts.find_installation(user.environment)
    launch = hosts.Launch(installed.command, (*installed.arguments, "serve", *serve))
    hook = chosen_hook(options, host, user, installed, serve)
    for word in (launch.command, *launch.arguments):
        if word != word.encode(errors="replace").decode():
            raise InvalidInputError("the server's command", f"must be UTF-8, as the host's file is, not {word!r}")
    if options.print:
        fields = host.permission.fields if options.allow and host.permission else {}
        entry = {**host.make_entry(launch).merged_into(None), **fields}
        write_line(host.format.snippet(host.key_path, name, entry).removesuffix("\n"))
        return 0
    if options.use_cli and not options.dry_run:
        hosts.add_with_own_command(host, user, name, launch)
    if not _apply(hosts.install(host, user, name, launch, hook=hook, allow=options.allow), dry_run=options.dry_run):
        return 0
    write_line(f"{host.title} starts it as {name!r}. {host.next_step}")
    if credentials := sorted(each for each in user.environment if each.startswith(VARIABLE_PREFIX)):
        write_line(
            f"The file has no credentials, as others may read it: start the host with {', '.join(credentials)} set."
        )
    if host.own_command:
        write_line(f"The host's own command for adding a server is `{host.own_command}`.")
    if installed.warning:
        write_line(f"Warning: {installed.warning}")
    permission = host.permission
    if permission and permission.unattended and not hosts.is_allowed(host, user, name):
        flags = permission.unattended.replace("{name}", name)
        write_line(f"Unattended runs may not call its tools: run `{flags} ...`, or install with --allow.")
    for line in describe_hook(host, user, hook, name):
        write_line(line)
    return 0


def _uninstall(options: argparse.Namespace) -> int:
    check_options(options)
    if options.host == GIT:
        return uninstall_git(options)
    _validate_name(options.name)
    host, user = hosts.HOSTS[options.host], hosts.UserEnvironment.current()
    _apply(hosts.uninstall(host, user, options.name), dry_run=options.dry_run)
    return 0


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


def _serve_arguments(options: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    """Return the arguments of `serve` in the entry: the store and the options.

    The store is always written down.  A host passes on few variables, or runs in a sandbox with others, and two hosts
    with different stores would give one key two holders.
    """
    choice = store_choice(options)
    if choice.url is not None:
        return ["--store", choice.url, *_passed_on(options, {})]
    chosen = options.dir is not None or (DIRECTORY_VARIABLE in environment and options.provider is None)
    # The original finds its directory by the home directory alone, and so does a host that is to share it.
    if choice.layout == AGENT_AWARENESS and not chosen:
        return _passed_on(options, environment)
    # `serve` refuses a directory and a provider at once.
    environment = {name: value for name, value in environment.items() if name != PROVIDER_VARIABLE}
    return ["--dir", choice.directory, *_passed_on(options, environment)]


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
