"""The hooks of `mcp-claims install`: which ones a host gets, and what its user has to know about them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from mcp_claims import hosts
from mcp_claims.errors import InvalidInputError

_STORE_OPTIONS = ("--dir", "--layout", "--provider", "--store")
_PLUGIN = (
    "The plugin has all of this in one, instead: `mcp-claims uninstall claude-code`, and in a clone of the repository "
    f"`claude plugin marketplace add ./`, then `claude plugin install {hosts.PLUGIN}`."
)
_WHAT_IT_DOES = {
    "claim": "before an edit it claims the file for its session, and it denies edits of what another session has claimed",
    "deny": "it denies edits of what another session has claimed",
    "require": "it denies edits of files that their session has not claimed by the tool",
    "off": "they do nothing about edits",
}


def add_hook_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for hooks."""
    group = parser.add_argument_group(f"hooks ({', '.join(hosts.HOOKS)})")
    group.add_argument(
        "--guard",
        nargs="?",
        choices=[mode for mode in hosts.MODES if mode != hosts.OFF],
        const=hosts.DEFAULT_MODE,
        help="also guard edits, even if the model calls no tool: claim (the default) claims each file before its edit and "
        "denies what another session holds, deny only denies, require also denies what was not claimed by the tool",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="with --guard, and for git: also deny what cannot be checked, such as all while the claims cannot be read",
    )
    group.add_argument(
        "--hooks",
        action="store_true",
        help="without a guard: tell sub-agents apart, renew while a session works, and release what it holds when it ends",
    )


def chosen_hook(
    options: argparse.Namespace,
    host: hosts.Host,
    user: hosts.UserEnvironment,
    installed: hosts.Installation,
    serve: Sequence[str],
) -> hosts.Hook | None:
    """Return the hook to install: what is asked for, else what is there already; `None` for none.

    It uses the store of the server, which is started with *serve*: a guard on another one would guard nothing.
    """
    if options.strict and not options.guard:
        raise InvalidInputError("--strict", "is for --guard only")
    asked = "--guard" if options.guard else "--hooks" if options.hooks else None
    if asked and host.name not in hosts.HOOKS:
        raise InvalidInputError(asked, f"is not for {host.title}, only for {', '.join(hosts.HOOKS)}")
    there = hosts.installed_hook(host, user, options.name)
    if options.guard:
        mode, strict = options.guard, options.strict
    elif there is not None:
        mode, strict = there[1].mode, there[1].strict
    elif options.hooks:
        mode, strict = hosts.OFF, False
    else:
        return None
    store = [serve[at + offset] for at, word in enumerate(serve) if word in _STORE_OPTIONS for offset in (0, 1)]
    launch = hosts.Launch(installed.command, installed.arguments)
    return hosts.Hook.of(host.name, launch, options.name, mode, strict, store)


def describe_hook(host: hosts.Host, user: hosts.UserEnvironment, hook: hosts.Hook | None, name: str) -> Iterator[str]:
    """Yield the lines about *hook*, which was installed for the server *name*."""
    if hook is not None:
        what = "Its hooks" if hook.mode == hosts.OFF else "Its guard"
        strict = ", and those that it cannot check" if hook.strict else ""
        yield (
            f"{what}: {_WHAT_IT_DOES[hook.mode]}{strict}. Where {host.title} names sub-agents, each is told apart, and what "
            "one holds is released when it ends."
        )
        unapproved = hosts.unapproved_events(user, name) if host.name == "codex" else []
        if unapproved:
            yield (
                "Codex skips hooks that nobody has approved, and `codex exec` says nothing about it: start `codex`, which asks "
                f"for it, or enter /hooks and approve those of {', '.join(unapproved)}. `mcp-claims doctor --hosts` shows "
                "whether that is done."
            )
        if hook.mode != hosts.OFF and (limits := hosts.HOOKS[host.name].limits):
            yield f"What it cannot do: {limits}"
    if hosts.plugin_file(host, user) is not None:
        yield (
            f"Warning: the plugin {hosts.PLUGIN} is on, too, so sessions have the tools twice: `mcp-claims uninstall "
            f"{host.name}`, or remove the plugin in {host.title}."
        )
    elif host.name == "claude-code":
        yield _PLUGIN
