"""`mcp-claims hook`: what a host runs by itself, as Claude Code's hooks; https://code.claude.com/docs/en/hooks.

The host tells on standard input what is about to happen.  Who "we" are is told by the processes: the claims server of a
session is a child of the host's process, perhaps through a shell, and so is the hook.  A session's own name, which the
host also tells, is not enough: a host that is started inside another one may inherit it, and `/clear` changes it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace

from mcp_claims.claims import Claims
from mcp_claims.cli.options import add_command, chosen_store
from mcp_claims.errors import ClaimsError
from mcp_claims.machine import Machine, local_machine
from mcp_claims.record import Claim
from mcp_claims.rules import Standing
from mcp_claims.typed import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from typing import Any

_MOST_LOOKED_AT = 5_000
_LEAST_IN_COMMAND = 4
"""Characters of a key that is looked for in commands: a shorter one is in many of them by chance."""

_PATHS = ("file_path", "notebook_path", "path")
_INPUT_BYTES = 64 * 1024 * 1024


def add_hook(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "hook",
        "answer a host's hook; `mcp-claims install claude-code --hooks` makes it run this",
        "  mcp-claims hook session-end < event.json\n  mcp-claims hook guard --strict < event.json",
    )
    command.add_argument(
        "hook",
        choices=("session-end", "guard"),
        help="session-end frees what the session holds; guard denies what touches a key or path that others hold",
    )
    command.add_argument("--strict", action="store_true", help="guard: deny, too, where the store cannot answer")
    command.set_defaults(run=hook)


def hook(options: SimpleNamespace) -> int:
    """Run `hook`."""
    from mcp_claims.sessions.identity import process_session

    try:
        told = json.loads(sys.stdin.buffer.read(_INPUT_BYTES))
    except ValueError:
        told = None
    if not isinstance(told, dict):
        print("mcp-claims: a host has to tell a hook on standard input what happens, as JSON", file=sys.stderr)
        return 1
    machine = local_machine()
    if options.hook == "session-end":
        _end_session(process_session(chosen_store(options), machine), machine, told)
        return 0
    try:
        # Also what is wrong with the choice of the store: to the host, exit code 2 would be a refusal.
        reason = _objection(process_session(chosen_store(options), machine), machine, told)
    except ClaimsError as error:
        print(f"mcp-claims: {error}", file=sys.stderr)
        reason = f"The claims cannot be looked at, and this guard is strict: {error}" if options.strict else None
    if reason is not None:
        _deny(reason)
    return 0


def _end_session(session: Claims, machine: Machine, told: dict[str, Any]) -> None:
    """Free what the servers of our host hold: the conversation that claimed it is over, though they may go on."""
    why = told.get("reason")
    session.describe_client("mcp-claims hook session-end")
    for claim in _held(session):
        if _is_of_our_host(claim, machine):
            session.revoke(claim, f"its session has ended ({why})" if isinstance(why, str) else "its session has ended")


def _objection(session: Claims, machine: Machine, told: dict[str, Any]) -> str | None:
    """Return why what is about to happen must not, if that is so."""
    from mcp_claims import wording

    asked = told.get("tool_input")
    if not isinstance(asked, dict):
        return None
    cwd = told.get("cwd")
    here = cwd if isinstance(cwd, str) else os.getcwd()
    paths = [os.path.normpath(os.path.join(here, asked[name])) for name in _PATHS if isinstance(asked.get(name), str)]
    command = asked.get("command")
    for claim in _held(session):
        key = claim.scoped.key
        by_path = any(_names_path(key, path, here) for path in paths)
        by_command = isinstance(command, str) and _is_in_command(key, command)
        if (by_path or by_command) and not _is_of_our_host(claim, machine):
            listed = session.stored(key, claim.scoped.namespace)
            if not listed.page or listed.page[0].standing is not Standing.HELD:
                continue
            said = wording.listed_text(listed.page[0], listed.now)
            return f"Another session has claimed this: {said} Leave it alone; go on with something else, or report it."
    return None


def _held(session: Claims) -> Iterator[Claim]:
    """Yield live claims, the first ones where there are very many."""
    for listed in session.listing(at_most=_MOST_LOOKED_AT).page:
        if listed.standing is Standing.HELD and isinstance(listed.found, Claim):
            yield listed.found


def _names_path(key: str, path: str, here: str) -> bool:
    """Tell whether *key* is *path*, absolute or from *here*, or a directory that it is in."""
    return any(
        spelt == key.rstrip("/") or spelt.startswith(f"{key.rstrip('/')}/")
        for spelt in (path, os.path.relpath(path, here))
        if key.rstrip("/")
    )


def _is_in_command(key: str, command: str) -> bool:
    """Tell whether *command* has *key* in it as a word of its own."""
    if len(key) < _LEAST_IN_COMMAND:
        return False
    return re.search(rf"(?<![\w./-]){re.escape(key)}(?![\w.-])", command) is not None


def _is_of_our_host(claim: Claim, machine: Machine) -> bool:
    """Tell whether the process that holds *claim* and this one have been started by the same host."""
    ours = machine.proof()
    theirs = claim.holder.proof
    if theirs.boot is None or (theirs.boot, theirs.pid_namespace) != (ours.boot, ours.pid_namespace):
        return False
    host = machine.program_above(machine.pid())
    return host is not None and machine.program_above(claim.holder.pid) == host


def _deny(reason: str) -> None:
    decision = {"hookEventName": "PreToolUse", "permissionDecision": "deny", "permissionDecisionReason": reason}
    print(json.dumps({"hookSpecificOutput": decision}), flush=True)
