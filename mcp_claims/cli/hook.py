"""`mcp-claims hook`: the command that a host runs at its events.  The host describes the event on standard input."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from mcp_claims.cli.errors import STORE_ERROR, describe
from mcp_claims.cli.options import add_epilog, add_store_options, chosen_store, shown_directory
from mcp_claims.cli.output import write_error, write_line
from mcp_claims.errors import ClaimsError
from mcp_claims.guard import NOT_SEEN
from mcp_claims.guard.dialects import DIALECTS, Answer, HookEvent, Kind, read_event
from mcp_claims.guard.guard import Guard, GuardSettings, Mode
from mcp_claims.liveness import local_machine
from mcp_claims.session.handles import Handles
from mcp_claims.session.host_session import host_session
from mcp_claims.session.identity import guarded_session, process_session
from mcp_claims.stores.threads import call_within

_DEFAULT_HOST = "claude-code"
_SESSION_END, _GUARD = "session-end", "guard"
_DEFAULT_EVENTS = {_GUARD: "PreToolUse", _SESSION_END: "SessionEnd"}
_PROJECT_VARIABLES = ("CLAUDE_PROJECT_DIR", "GEMINI_PROJECT_DIR", "QWEN_PROJECT_DIR", "COPILOT_PROJECT_DIR")
_MAX_INPUT_BYTES = 64 * 1024 * 1024
_ANSWER_TIMEOUT, _END_TIMEOUT, _SECRET_TIMEOUT = 0.9, 2.5, 0.3
"""Seconds: a store in trouble delays an edit by at most one, and an end by less than any host waits for one (Codex: three)."""

_ENDS = (Kind.TURN_END, Kind.AGENT_END, Kind.SESSION_END)


def configure_hook(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `hook`."""
    add_epilog(
        parser,
        "  mcp-claims hook guard --host codex --mode deny < event.json\n  mcp-claims hook session-end < event.json",
        "0 answered, 1 no event or wrong usage (never 2, which a host takes for a denial)",
        trouble=f"{STORE_ERROR} session-end: the store cannot answer",
    )
    add_store_options(parser)
    parser.add_argument(
        "hook",
        choices=(_SESSION_END, _GUARD),
        help="guard claims files before they are edited, denies what another session holds, tells sub-agents apart, renews "
        "and releases; session-end, which earlier versions installed, is guard --mode off. " + NOT_SEEN,
    )
    parser.add_argument(
        "--host",
        choices=DIALECTS,
        help=f"the host that runs the hook (without it {_DEFAULT_HOST}, whose guard only denies, as earlier versions' did)",
    )
    parser.add_argument(
        "--mode",
        type=Mode,
        choices=Mode,
        metavar="MODE",
        help="before an edit: claim its files and deny what others hold (claim, the default), only deny (deny), also deny "
        "what the session has not claimed by a tool (require), or nothing (off)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="also deny where it cannot be known whose a claim is, and while the store cannot answer",
    )
    parser.add_argument(
        "--server", default="claims", metavar="NAME", help="what the host calls our server (%(default)s)"
    )
    parser.set_defaults(run=_hook)


def _hook(options: argparse.Namespace) -> int:
    ending = options.hook == _SESSION_END
    # What an earlier version has installed has no hook that would end a claim.
    mode = Mode.OFF if ending else options.mode or (Mode.CLAIM if options.host else Mode.DENY)
    pages: list[None] = []
    settings = GuardSettings(
        mode, options.strict and not ending, options.server, _project(), lambda: pages.append(None)
    )
    data = _read_input()
    if data is None:
        return _fail("a hook needs a JSON object on standard input that describes the event", options, settings, code=1)
    event = read_event(options.host or _DEFAULT_HOST, data, _DEFAULT_EVENTS[options.hook])
    if event is None:
        return 0
    seconds = _END_TIMEOUT if event.kind in _ENDS else _ANSWER_TIMEOUT
    try:
        answer = call_within(seconds, partial(_answer, options, event, settings), lambda: len(pages))
    except TimeoutError:
        problem = f"the claims store has not answered within {seconds:g} s. `mcp-claims doctor` examines it."
        return _fail(problem, options, settings, event, code=STORE_ERROR if ending else 0)
    except ClaimsError as error:
        return _fail(describe(error, options), options, settings, event, code=STORE_ERROR if ending else 0)
    except Exception as error:
        # A defect: a host lets the tool call pass when its hook fails.
        if not settings.strict:
            raise
        return _fail(f"the guard itself failed ({type(error).__name__}: {error})", options, settings, event, code=0)
    _write(options, event, answer)
    return 0


def _answer(options: argparse.Namespace, event: HookEvent, settings: GuardSettings) -> Answer:
    store, machine = chosen_store(options), local_machine()
    host = options.host or _DEFAULT_HOST
    dialect = DIALECTS[host]
    us = host_session(host, event.session, event.agent, os.environ, machine)
    handle = None
    # Without the id of the host's session nothing says for certain for which agent the hook acts.
    if us.id is None or not store.has_places:
        session = process_session(store, machine)
        session.act_in(us)
    else:
        nonce = None
        if us.agent is not None or dialect.hands_to_all:
            handles = Handles(store.secret(lock_timeout=_SECRET_TIMEOUT))
            handle, opened = handles.issue_for_agent(us.id, us.agent or "")
            nonce = opened.nonce
        session = guarded_session(store, machine, nonce, us)
        session.describe_client(f"{host} guard")
        session.describe(directory=shown_directory(event.cwd))
    guard = Guard(session, us, machine, dialect, settings, handle)
    return guard.answer(event)


def _project() -> str | None:
    """Return the directory from which the host's agents name files, if its environment says so."""
    return next((os.environ[name] for name in _PROJECT_VARIABLES if os.environ.get(name)), None)


def _read_input() -> Mapping[str, Any] | None:
    """Return the object on standard input; `None` if there is none."""
    try:
        data = json.loads(sys.stdin.buffer.read(_MAX_INPUT_BYTES))
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _fail(
    problem: str, options: argparse.Namespace, settings: GuardSettings, event: HookEvent | None = None, *, code: int
) -> int:
    """Print the *problem* that keeps the hook from its work; if it is strict, deny the tool call.  Return the exit code."""
    write_error(problem)
    event = event or HookEvent(Kind.BEFORE_TOOL, _DEFAULT_EVENTS[options.hook])
    if not settings.strict or event.kind is not Kind.BEFORE_TOOL:
        return code
    _write(options, event, Answer(f"The claims cannot be read, and this guard is strict: {problem}"))
    return 0


def _write(options: argparse.Namespace, event: HookEvent, answer: Answer) -> None:
    """Print *answer* as the host wants it; nothing if it is empty."""
    dialect = DIALECTS[options.host or _DEFAULT_HOST]
    if answer != Answer() and (output := dialect.answer(event, answer)) is not None:
        write_line(json.dumps(output))
