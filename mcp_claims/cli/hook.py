"""`mcp-claims hook`: what a host runs by itself, as Claude Code's hooks; https://code.claude.com/docs/en/hooks.

The host tells on standard input what is about to happen.  Who "we" are is told by the processes: the claims server of a
session is a child of the host's process, perhaps through a shell, and so is the hook.  A session's own name, which the
host also tells, is not enough: a host that is started inside another one may inherit it, and `/clear` changes it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mcp_claims.cli.options import STORE_TROUBLE, add_command, chosen_store
from mcp_claims.cli.output import write_error, write_line
from mcp_claims.errors import ClaimsError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim
from mcp_claims.session.session import Session

if TYPE_CHECKING:
    import argparse
    from typing import Any

_MOST_LOOKED_AT = 5_000
_LEAST_IN_COMMAND = 4
"""Characters of a key that is looked for in commands: a shorter one is in many of them by chance."""

_MOST_WORDS = 500
_LONGEST_PATH = 4_096
"""Characters: no system opens a longer one, and to look for links in it takes seconds."""

_PROJECT = "CLAUDE_PROJECT_DIR"
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
    from mcp_claims.session.identity import process_session

    ending = options.hook == "session-end"
    strict = options.strict and not ending
    told = _event()
    if told is None:
        # Not 2: that a hook ends with 2 means to a host that it forbids what is about to happen.
        return _in_trouble("a host has to tell a hook on standard input what happens, as JSON", strict, 1)
    try:
        machine = local_machine()
        session = process_session(chosen_store(options), machine)
        if ending:
            _end_session(session, machine, told)
        elif (reason := _objection(session, machine, told)) is not None:
            _deny(reason)
    except ClaimsError as error:
        return _in_trouble(str(error), strict, STORE_TROUBLE if ending else 0)
    return 0


def _event() -> dict[str, Any] | None:
    """Return what the host tells, `None` if that is no event."""
    try:
        told = json.loads(sys.stdin.buffer.read(_INPUT_BYTES))
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _in_trouble(what: str, strict: bool, code: int) -> int:
    """Say *what* keeps this hook from doing its work, and deny if it is *strict*; return the exit code, *code* if not."""
    write_error(what)
    if not strict:
        return code
    _deny(f"The claims cannot be looked at, and this guard is strict: {what}")
    return 0


def _end_session(session: Session, machine: Machine, told: dict[str, Any]) -> None:
    """Free what the servers of our host hold: the conversation that claimed it is over, though they may go on."""
    why = told.get("reason")
    session.describe_client("mcp-claims hook session-end")
    for claim in _held(session):
        if _is_of_our_host(claim, machine):
            session.revoke(claim, f"its session has ended ({why})" if isinstance(why, str) else "its session has ended")


def _objection(session: Session, machine: Machine, told: dict[str, Any]) -> str | None:
    """Return why what is about to happen must not, if that is so."""
    from mcp_claims.render import text

    asked = told.get("tool_input")
    if not isinstance(asked, dict):
        return None
    here, command = _directory(told.get("cwd")), asked.get("command")
    paths = [asked[name] for name in _PATHS if isinstance(asked.get(name), str)]
    if isinstance(command, str):
        paths += _paths_in(command)
    # The host may have gone to another directory than that from which its agents name files.
    starts = {here, _directory(project) if (project := os.environ.get(_PROJECT)) else here}
    spelt = {spelling for path in paths for spelling in _spellings(os.path.join(here, path), starts)}
    for claim in _held(session):
        key = claim.scoped.key
        by_path = _names_path(key, spelt)
        by_command = isinstance(command, str) and _is_in_command(key, command)
        if (by_path or by_command) and not _is_of_our_host(claim, machine):
            listed = session.stored(key, claim.scoped.namespace)
            if not listed.page or listed.page[0].state is not ClaimState.HELD:
                continue
            said = text.listed_text(listed.page[0], listed.now)
            return f"Another session has claimed this: {said} Leave it alone; go on with something else, or report it."
    return None


def _held(session: Session) -> Iterator[Claim]:
    """Yield live claims, the first ones where there are very many."""
    for listed in session.listing(at_most=_MOST_LOOKED_AT).page:
        if listed.state is ClaimState.HELD and isinstance(listed.found, Claim):
            yield listed.found


def _directory(cwd: object) -> str:
    """Return the directory from which paths are meant."""
    try:
        return os.path.join(os.getcwd(), cwd if isinstance(cwd, str) else "")
    except FileNotFoundError:  # Ours has been removed.
        return os.path.join("/", cwd if isinstance(cwd, str) else "")


def _paths_in(command: str) -> list[str]:
    """Return the words of *command* that can be paths, the first ones where there are very many."""
    words = (found[0] for found in re.finditer(r"[^\s'\"`;|&<>()=,:]+", command))
    return list(itertools.islice((word for word in words if "/" in word), _MOST_WORDS))


def _spellings(path: str, starts: set[str]) -> Iterator[str]:
    """Yield how *path* can be called: absolute or from one of *starts*, by the links that it is spelt with or without."""
    path = os.path.normpath(path)
    if len(path) > _LONGEST_PATH:
        return
    for spell in (os.path.normpath, _resolved):
        yield (absolute := spell(path))
        for start in starts:
            # On Windows no way leads from one drive to another.
            with suppress(ValueError):
                yield os.path.relpath(absolute, spell(start))


def _resolved(path: str) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # ValueError: it has a NUL in it, so there is no such file.
        return os.path.normpath(path)


def _names_path(key: str, spelt: set[str]) -> bool:
    """Tell whether *key* is the path *spelt* so, or a directory that it is in."""
    if not (plain := key.rstrip("/")) or not spelt:
        return False
    keys = {plain, os.path.normpath(plain)} | ({_resolved(plain)} if os.path.isabs(plain) else set())
    return any(path == each or path.startswith(f"{each}/") for path in spelt for each in keys)


def _is_in_command(key: str, command: str) -> bool:
    """Tell whether *command* has *key* in it as a word of its own."""
    if len(key) < _LEAST_IN_COMMAND or key not in command:  # The latter takes no time, the pattern below some.
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
    write_line(json.dumps({"hookSpecificOutput": decision}))
