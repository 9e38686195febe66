"""`mcp-claims run KEY -- COMMAND…`: a claim for as long as a command runs, and what became of it afterwards."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mcp_claims import rules
from mcp_claims.cli.options import NO, USAGE_ERROR, add_command, add_key, chosen_store
from mcp_claims.record import Claim, Outcome

if TYPE_CHECKING:
    from mcp_claims.claims import Claims
    from mcp_claims.cli.child import Child

_SHARE = 3
"""The claim is renewed when a third of its TTL has passed, so that two renewals may fail before it runs out."""

_PATIENCE_AFTER_LOSS = 10.0
"""Seconds that a command has to end in when its claim was lost, before it is killed."""


def add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `run`."""
    command = add_command(
        commands,
        "run",
        "run a command while holding a key, if nobody else does",
        "  mcp-claims run nightly -- make nightly\n  mcp-claims run deploy --wait 300 --forget -- ./deploy.sh staging",
    )
    add_key(command)
    command.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="if held, up to 300")
    command.add_argument("--ttl", type=float, default=30, metavar="MINUTES", help="between renewals (%(default)g)")
    command.add_argument("--note", metavar="TEXT", help="what it is for, for the others")
    command.add_argument("--redo", action="store_true", help="run though it is done")
    command.add_argument(
        "--forget", action="store_true", help="just free the key afterwards, not as done or failed by the exit code"
    )
    command.add_argument(
        "--retention", type=float, default=24, metavar="HOURS", help="how long the outcome is known (%(default)g)"
    )
    command.add_argument(
        "-E",
        "--held-exit-code",
        type=int,
        default=NO,
        metavar="N",
        help="exit code if it is held or done (%(default)s)",
    )
    command.usage = "mcp-claims run [options] KEY -- COMMAND [ARGUMENT ...]"
    command.set_defaults(run=_run)


def _run(options: SimpleNamespace) -> int:
    from mcp_claims import wording
    from mcp_claims.cli.child import CannotStartError, Child
    from mcp_claims.patience import claim_now_or_later
    from mcp_claims.sessions.identity import process_session, session_for_process

    command = options.after_dashes
    if not command:
        print("mcp-claims: there has to be a command: mcp-claims run KEY -- COMMAND", file=sys.stderr)
        return USAGE_ERROR
    scoped = rules.scoped_key(options.key, options.namespace)
    patience = rules.patience(options.wait, "--wait")
    rules.retention(options.retention)
    store = chosen_store(options)
    with Child(command) as child:
        # The claim is the child's: whatever happens to this process, it stays as long as the command runs.
        session = process_session(store) if child.pid is None else session_for_process(store, child.pid)
        session.describe_client(f"mcp-claims run {command[0]}")
        try:
            attempt = claim_now_or_later(
                session, scoped, patience, ttl_minutes=options.ttl, note=options.note, redo=options.redo
            )
        except KeyboardInterrupt:
            return 130
        if not attempt.claimed or not isinstance(attempt.found, Claim):
            print(f"mcp-claims: {wording.attempt_lead(scoped, attempt)}", file=sys.stderr)
            return int(options.held_exit_code)
        try:
            child.start()
        except CannotStartError as error:
            session.release(scoped.key, scoped.namespace)
            print(f"mcp-claims: {error}", file=sys.stderr)
            return error.exit_code
        kept = _keep(session, attempt.found, options.ttl, child)
        if kept and not options.forget:
            outcome = Outcome.DONE if child.exit_code == 0 else Outcome.FAILED
            note = None if child.exit_code == 0 else f"exit code {child.exit_code}"
            session.release(scoped.key, scoped.namespace, outcome=outcome, note=note, retention_hours=options.retention)
        elif kept:
            session.release(scoped.key, scoped.namespace)
        return child.exit_code


def _keep(session: Claims, granted: Claim, ttl_minutes: float, child: Child) -> bool:
    """Renew *granted* until *child* has ended; end it if the claim is lost.  Tell whether it was kept."""
    import time
    from concurrent.futures import ThreadPoolExecutor

    from mcp_claims.errors import ClaimsError

    ttl = rules.ttl(ttl_minutes) / timedelta(seconds=1)
    valid_until = time.monotonic() + ttl
    due = ttl / _SHARE
    # In a thread: over a network an answer takes seconds at worst, and the command has to end when the claim runs out.
    asking = ThreadPoolExecutor(1)
    while not child.wait(due):
        asked = time.monotonic()
        try:
            renewal = asking.submit(session.prolong, granted, ttl_minutes)
            renewed = renewal.result(max(0.0, valid_until - asked))
        except (ClaimsError, TimeoutError) as error:
            # There may be time for more tries before it runs out.
            if (left := valid_until - time.monotonic()) > 0:
                due = min(ttl / _SHARE / 10, left)
                continue
            problem = str(error) or "the store has not answered"
            print(f"mcp-claims: the claim could not be renewed in time: {problem}", file=sys.stderr)
            renewed = None
        if renewed is None:
            print("mcp-claims: the claim is lost, so the command is stopped", file=sys.stderr)
            child.stop(_PATIENCE_AFTER_LOSS)
            return False
        valid_until, due = asked + ttl, ttl / _SHARE
    return True
