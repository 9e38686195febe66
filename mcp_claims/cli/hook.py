"""`mcp-claims hook`: commands that a host runs at its events, as Claude Code's hooks; https://code.claude.com/docs/en/hooks.

The host describes the event on standard input.  A hook recognises its own session by the processes: the
claims server of a session is a child of the host's process, perhaps through a shell, and so is the hook.  The session
id that the host passes is not enough: a host inside another host inherits it, and `/clear` changes it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from mcp_claims.cli.errors import STORE_ERROR, describe
from mcp_claims.cli.options import add_epilog, add_store_options, chosen_store
from mcp_claims.cli.output import write_error, write_line
from mcp_claims.cli.run import RUN_CLIENT
from mcp_claims.errors import ClaimsError, InvalidInputError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import BRANCH, FILE, conflict, is_branch_key, is_file_key
from mcp_claims.model.records import ALONE, Claim, ScopedKey
from mcp_claims.model.validation import scoped_key
from mcp_claims.render.lists import listed_line
from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session

_SESSION_END, _GUARD = "session-end", "guard"
_PAGE = 5_000
_IN_THE_WAY = (ClaimState.HELD, ClaimState.RESERVED)
_MIN_KEY_IN_COMMAND = 4
"""Characters of a key that is searched for in commands: a shorter one is in many of them by chance."""

_WORD = re.compile(r"[\w-]+")
"""A key that is one word, such as `main`, means something else in each project."""

_PUSH = re.compile(r"\bgit\b[^;|&\n]*?\bpush\b([^;|&\n]*)")
_MAX_REFS = 8
_MAX_WORDS = 500
_MAX_PATH = 4_096
"""Characters: no system opens a longer path, and to resolve the links in one takes seconds."""

_PROJECT_VARIABLE = "CLAUDE_PROJECT_DIR"
_PATH_FIELDS = ("file_path", "notebook_path", "path")
_MAX_INPUT_BYTES = 64 * 1024 * 1024


def configure_hook(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `hook`."""
    add_epilog(
        parser,
        "  mcp-claims hook session-end < event.json\n  mcp-claims hook guard --strict < event.json",
        "0 answered, 1 no event or wrong usage (never 2, which a host takes for a denial)",
        trouble=f"{STORE_ERROR} session-end: the store cannot answer",
    )
    add_store_options(parser)
    parser.add_argument(
        "hook",
        choices=(_SESSION_END, _GUARD),
        help="session-end releases the claims of the session; guard denies what touches a key or path that another "
        "session has claimed",
    )
    parser.add_argument(
        "--strict", action="store_true", help="guard: also deny everything while the store cannot answer"
    )
    parser.set_defaults(run=_hook)


def _hook(options: argparse.Namespace) -> int:
    ending = options.hook == _SESSION_END
    strict = options.strict and not ending
    event = _read_event()
    if event is None:
        return _fail("a hook needs a JSON object on standard input that describes the event", strict=strict, code=1)
    try:
        machine = local_machine()
        session = process_session(chosen_store(options), machine)
        if ending:
            _end_session(session, machine, event)
        elif (reason := _conflict(session, machine, event)) is not None:
            _deny(reason)
    except ClaimsError as error:
        return _fail(describe(error, options), strict=strict, code=STORE_ERROR if ending else 0)
    except Exception as error:
        # A defect: a host lets the tool call pass when its hook fails.
        if not strict:
            raise
        return _fail(f"the guard itself failed ({type(error).__name__}: {error})", strict=True, code=0)
    return 0


def _read_event() -> dict[str, Any] | None:
    """Return the event on standard input; `None` if there is none."""
    try:
        event = json.loads(sys.stdin.buffer.read(_MAX_INPUT_BYTES))
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _fail(problem: str, *, strict: bool, code: int) -> int:
    """Print the *problem* that keeps the hook from its work; deny if it is *strict*, else return the exit code *code*."""
    write_error(problem)
    if not strict:
        return code
    _deny(f"The claims cannot be read, and this guard is strict: {problem}")
    return 0


def _end_session(session: Session, machine: Machine, event: dict[str, Any]) -> None:
    """Revoke the claims of this host's servers: the conversation that made them is over, even if the servers go on."""
    why = event.get("reason")
    session.describe_client("mcp-claims hook session-end")
    for claim in _held_claims(session):
        if _has_our_host(claim, machine):
            session.revoke(claim, f"its session has ended ({why})" if isinstance(why, str) else "its session has ended")


def _conflict(session: Session, machine: Machine, event: dict[str, Any]) -> str | None:
    """Return why the tool call of *event* must be denied: another session has claimed what it touches; else `None`."""
    tool_input = event.get("tool_input")
    if not isinstance(tool_input, dict):
        return None
    here, command = _working_directory(event.get("cwd")), tool_input.get("command")
    paths = [tool_input[name] for name in _PATH_FIELDS if isinstance(tool_input.get(name), str)]
    if isinstance(command, str):
        paths += _paths_in(command)
    # The host may have gone to another directory than the one from which its agents name files.
    bases = {here, _working_directory(project) if (project := os.environ.get(_PROJECT_VARIABLE)) else here}
    paths = [os.path.join(here, path) for path in paths]
    spellings = {spelling for path in paths for spelling in _spellings(path, bases)}
    branches = set(_pushed(session, command)) if isinstance(command, str) else set()
    files = [file for path in paths if (file := _file_key(session, path)) is not None]
    for claim in _held_claims(session):
        key = claim.scoped.base.key
        if is_file_key(claim.scoped):
            touched = any(conflict(claim.scoped, file) for file in files)
        elif claim.use != ALONE:
            continue  # Others may be there, too: what a command may do beside them is for its session to claim.
        elif is_branch_key(claim.scoped):
            touched = claim.scoped in branches
        else:
            of = _directory_of(claim)
            touched = _is_path(key if of is None else os.path.join(of, key), spellings) or (
                isinstance(command, str)
                and _is_in_command(key, command)
                and (of is None or not _WORD.fullmatch(key) or _is_near(of, here))
            )
        if touched and not _has_our_host(claim, machine):
            stored = session.read(key, claim.scoped.namespace)
            # Of several who share it, this one.
            now = [
                each for each in stored.claims if isinstance(each.found, Claim) and each.found.scoped == claim.scoped
            ]
            if not now or now[0].state not in _IN_THE_WAY:
                continue
            line = listed_line(now[0], stored.now)
            verb = "has claimed" if now[0].state is ClaimState.HELD else "is next for"
            return f"Another session {verb} this: {line} Leave it alone; go on with something else, or report it."
    return None


def _held_claims(session: Session) -> Iterator[Claim]:
    """Yield the live claims, and the reservations; what is done is in the list, too, so a list that ends at a limit could hide them all."""
    after: str | None = ""
    while after is not None:
        page = session.list_claims(after=after, limit=_PAGE)
        for listed in page.claims:
            if listed.state in _IN_THE_WAY and isinstance(listed.found, Claim):
                yield listed.found
        after = page.after


def _working_directory(cwd: object) -> str:
    """Return the directory from which the host names paths, which it describes as *cwd*."""
    try:
        return os.path.join(os.getcwd(), cwd if isinstance(cwd, str) else "")
    except FileNotFoundError:  # Our own working directory has been removed.
        return os.path.join("/", cwd if isinstance(cwd, str) else "")


def _paths_in(command: str) -> list[str]:
    """Return the words of *command* that may be paths, at most the first `_MAX_WORDS`."""
    words = (found[0] for found in re.finditer(r"[^\s'\"`;|&<>()=,:]+", command))
    return list(itertools.islice((word for word in words if "/" in word), _MAX_WORDS))


def _file_key(session: Session, path: str) -> ScopedKey | None:
    """Return the key of the file at *path*; `None` where no claim can be about it."""
    if len(path) > _MAX_PATH:
        return None
    with suppress(InvalidInputError):
        return session.resolve(scoped_key(f"{FILE}{path}"))
    return None


def _pushed(session: Session, command: str) -> Iterator[ScopedKey]:
    """Yield the keys of the branches that a `git push` in *command* names: each word behind it that may be one."""
    for arguments in _PUSH.findall(command):
        for word in arguments.split()[:_MAX_REFS]:
            name = word.removeprefix("+").rpartition(":")[2].removeprefix("refs/heads/")
            with suppress(InvalidInputError):
                yield session.resolve(scoped_key(f"{BRANCH}{name}"))


def _directory_of(claim: Claim) -> str | None:
    """Return the directory in which the session of *claim* works, if it is known whole."""
    directory = os.path.expanduser(claim.holder.directory or "")
    return directory if os.path.isabs(directory) else None


def _is_near(one: str, other: str) -> bool:
    """Return whether one of two directories is in the other."""
    one, other = (os.path.join(_resolved(each), "") for each in (one, other))
    return one.startswith(other) or other.startswith(one)


def _spellings(path: str, bases: set[str]) -> Iterator[str]:
    """Yield the names of *path*: absolute, and relative to each of *bases*, with links as they are and resolved."""
    path = os.path.normpath(path)
    if len(path) > _MAX_PATH:
        return
    for normalise in (os.path.normpath, _resolved):
        yield (absolute := normalise(path))
        for base in bases:
            # On Windows no relative path leads from one drive to another.
            with suppress(ValueError):
                yield os.path.relpath(absolute, normalise(base))


def _resolved(path: str) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # ValueError: it contains a NUL, so there is no such file.
        return os.path.normpath(path)


def _is_path(key: str, spellings: set[str]) -> bool:
    """Return whether *key* names a path with one of *spellings*, or a directory above it."""
    if not (plain := key.rstrip("/")) or not spellings:
        return False
    keys = {plain, os.path.normpath(plain)} | ({_resolved(plain)} if os.path.isabs(plain) else set())
    return any(path == each or path.startswith(f"{each}/") for path in spellings for each in keys)


def _is_in_command(key: str, command: str) -> bool:
    """Return whether *command* contains *key* as a word of its own."""
    if len(key) < _MIN_KEY_IN_COMMAND or key not in command:  # Takes no time; the pattern below does.
        return False
    return re.search(rf"(?<![\w./-]){re.escape(key)}(?![\w.-])", command) is not None


def _has_our_host(claim: Claim, machine: Machine) -> bool:
    """Return whether one host has started both the process that holds *claim* and this one."""
    ours = machine.proof()
    theirs = claim.holder.proof
    if theirs.boot is None or (theirs.boot, theirs.pid_namespace) != (ours.boot, ours.pid_namespace):
        return False
    host = machine.program_above(machine.pid())
    above = machine.program_above(claim.holder.pid)
    if above is not None and (claim.holder.client or "").startswith(RUN_CLIENT):
        above = machine.program_above(above)  # The holder is the guardian, which `run` has started.
    return host is not None and above == host


def _deny(reason: str) -> None:
    decision = {"hookEventName": "PreToolUse", "permissionDecision": "deny", "permissionDecisionReason": reason}
    write_line(json.dumps({"hookSpecificOutput": decision}))
