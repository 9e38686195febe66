"""`mcp-claims run KEY -- COMMAND…`: a claim for as long as a command runs, and what became of it afterwards."""

from __future__ import annotations

import argparse
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mcp_claims.cli.options import NO, USAGE_ERROR, add_command, add_key, chosen_store
from mcp_claims.cli.output import write_error
from mcp_claims.liveness import local_machine
from mcp_claims.model import validation
from mcp_claims.model.records import Claim, Outcome

if TYPE_CHECKING:
    from mcp_claims.cli.supervisor import Child
    from mcp_claims.session.session import Session

_SHARE = 3
"""The claim is renewed when a third of its TTL has passed, so that two renewals may fail before it runs out."""

_LOOK_EVERY, _LOOK_FAR_EVERY = 2.0, 15.0
"""Seconds after which it is looked whether the claim was taken away; the longer ones over a network."""

_PATIENCE_AFTER_LOSS = 10.0
"""Seconds at most that a command has to end in when its claim was lost, before it is killed."""

_LEAST_ASKED = 0.5  # s, however late it is: who was stopped for long may still have its claim.
_KILLED_BEFORE = 0.1  # s before the time of the claim is up.


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
    from mcp_claims.cli.supervisor import CannotStartError, Child
    from mcp_claims.render import text
    from mcp_claims.session.acquire import acquire
    from mcp_claims.session.identity import process_session, session_for_process

    command = options.after_dashes
    if not command:
        write_error("there has to be a command: mcp-claims run KEY -- COMMAND")
        return USAGE_ERROR
    scoped = validation.scoped_key(options.key, options.namespace)
    patience = validation.patience(options.wait, "--wait")
    validation.ttl(options.ttl, "--ttl")
    validation.retention(options.retention, "--retention")
    store = chosen_store(options)
    with Child(command) as child:
        # The claim is the child's: whatever happens to this process, it stays as long as the command runs.
        session = process_session(store) if child.pid is None else session_for_process(store, child.pid)
        session.describe_client(f"mcp-claims run {command[0]}")
        attempt = acquire(session, scoped, patience, ttl_minutes=options.ttl, note=options.note, redo=options.redo)
        if not attempt.claimed or not isinstance(attempt.found, Claim):
            write_error(text.attempt_lead(scoped, attempt))
            return int(options.held_exit_code)
        try:
            child.start()
        except CannotStartError as error:
            session.release(scoped.key, scoped.namespace)
            write_error(str(error))
            return error.exit_code
        kept = _keep(session, attempt.found, options.ttl, child)
        if kept and not options.forget:
            outcome = Outcome.DONE if child.exit_code == 0 else Outcome.FAILED
            note = None if child.exit_code == 0 else f"exit code {child.exit_code}"
            session.release(scoped.key, scoped.namespace, outcome=outcome, note=note, retention_hours=options.retention)
        elif kept:
            session.release(scoped.key, scoped.namespace)
        return child.exit_code


def _keep(session: Session, granted: Claim, ttl_minutes: float, child: Child) -> bool:
    """Renew *granted* until *child* has ended; end it if the claim is lost.  Tell whether it was kept."""
    from concurrent.futures import ThreadPoolExecutor

    from mcp_claims.errors import ClaimsError

    machine = local_machine()
    ttl = validation.ttl(ttl_minutes) / timedelta(seconds=1)
    # Ended before the time of its claim is up, as from then on somebody else may hold the key and act.
    grace = min(_PATIENCE_AFTER_LOSS, ttl / _SHARE)
    ends, due = granted.expires.ticks, machine.now().ticks + ttl / _SHARE
    look_every = _LOOK_FAR_EVERY if session.remote else _LOOK_EVERY
    # In a thread: over a network an answer takes seconds at worst, and the command has to end when the claim runs out.
    asking = ThreadPoolExecutor(1)
    # Where all of us were stopped meanwhile, the timer has run out, so that this is looked at first of all.
    while not child.wait(min(max(0.0, due - machine.now().ticks), look_every)):
        asked = machine.now().ticks
        left = max(_LEAST_ASKED, ends - grace - asked)
        try:
            if asked < due:
                kept = asking.submit(_is_in_force, session, granted).result(left)
            else:
                renewed = asking.submit(session.renew, granted, ttl_minutes).result(left)
                kept = renewed is not None
                if renewed is not None:
                    ends, due = renewed.expires.ticks, asked + ttl / _SHARE
        except (ClaimsError, TimeoutError) as error:
            # There may be time for more tries.
            kept = machine.now().ticks < ends - grace
            due = max(due, asked + min(ttl / _SHARE / 10, max(0.05, ends - grace - asked)))
            if not kept:
                write_error(f"the claim could not be renewed in time: {str(error) or 'the store has not answered'}")
        if not kept:
            write_error("the claim is lost, so the command is stopped")
            child.stop(min(_PATIENCE_AFTER_LOSS, max(0.0, ends - _KILLED_BEFORE - machine.now().ticks)))
            return False
    return True


def _is_in_force(session: Session, granted: Claim) -> bool:
    scoped = granted.scoped
    return bool(session.inspect(scoped.key, scoped.namespace, generation=granted.generation).in_force)
