"""`mcp-claims run KEY -- COMMAND`: hold a key while a command runs, and record afterwards how it ended."""

from __future__ import annotations

import argparse
from datetime import timedelta

from mcp_claims.cli.errors import NO, USAGE_ERROR
from mcp_claims.cli.options import (
    add_claim,
    add_epilog,
    add_label,
    add_retention,
    add_store_options,
    chosen_store,
    claim_request,
    describe_session,
)
from mcp_claims.cli.output import write_error
from mcp_claims.cli.supervisor import CannotStartError, Child
from mcp_claims.errors import InvalidInputError
from mcp_claims.model.records import Claim, Outcome
from mcp_claims.model.validation import ReleaseRequest
from mcp_claims.render.answers import claim_answer
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import process_session, session_for_process
from mcp_claims.session.keepalive import KeepAliveThread
from mcp_claims.session.session import Session

_NOTICE_AFTER, _NOTICE_AFTER_REMOTE = 2.0, 15.0
"""Seconds after which a revoked claim is noticed at the latest, on this machine and over a network."""

_POLL_INTERVAL = 0.5  # s between two checks of what the keep-alive has found out

_STOP_TIMEOUT = 10.0
"""Seconds at most in which a command that has lost its claim has to end, before it is killed."""

_KILL_BEFORE = 0.1  # s before the claim expires
_CATCH_UP = 0.5  # s for a renewal after this process was stopped for longer than that: it may still have its claim


def configure_run(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `run`."""
    add_epilog(
        parser,
        "  mcp-claims run nightly:2026-11-28 -- make nightly\n"
        "  mcp-claims run deploy:staging --wait 300 --forget -- ./deploy.sh staging",
        "that of COMMAND, 126 or 127 COMMAND cannot be run, 1 or N of -E held or done",
    )
    add_store_options(parser)
    add_claim(parser)
    add_label(parser)
    parser.add_argument(
        "--forget",
        action="store_true",
        help="record no outcome, done or failed by the exit code, so that the command can run again",
    )
    add_retention(parser)
    parser.add_argument(
        "-E",
        "--held-exit-code",
        type=int,
        default=NO,
        metavar="N",
        help="exit code if the key is held or done (%(default)s)",
    )
    parser.usage = "mcp-claims run [options] KEY -- COMMAND [ARGUMENT ...]"
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if not options.command:
        write_error("there is no command to run: mcp-claims run KEY -- COMMAND")
        return USAGE_ERROR
    if not 0 <= options.held_exit_code <= 255:
        raise InvalidInputError("held_exit_code", "must be a number from 0 to 255")
    request = claim_request(options)
    released = ReleaseRequest.parse(options.key, options.namespace, retention_hours=options.retention)
    store = chosen_store(options)
    with Child(options.command) as child:
        # The claim is the child's: whatever happens to this process, it stays as long as the command runs.
        session = process_session(store) if child.pid is None else session_for_process(store, child.pid)
        session.describe_client(f"mcp-claims run {options.command[0]}")
        describe_session(session, options)
        result = acquire(session, request)
        if not result.claimed or not isinstance(result.found, Claim):
            write_error(claim_answer(request.scoped, result).lead)
            return int(options.held_exit_code)
        try:
            child.start()
        except CannotStartError as error:
            session.release_request(released)
            write_error(str(error))
            return error.exit_code
        if _hold_until_ended(session, result.found, request.ttl, child):
            if not options.forget:
                released = _with_outcome(released, child.exit_code)
            session.release_request(released)
        return child.exit_code


def _with_outcome(request: ReleaseRequest, exit_code: int) -> ReleaseRequest:
    if exit_code == 0:
        return request._replace(outcome=Outcome.DONE)
    return request._replace(outcome=Outcome.FAILED, note=f"exit code {exit_code}")


def _hold_until_ended(session: Session, grant: Claim, ttl: timedelta, child: Child) -> bool:
    """Keep *grant* alive until *child* has ended; stop it if the claim is lost.  Return whether it was kept."""
    # From the expiry on, another session may hold the key and act, so the command must have ended before.
    stop_timeout = min(_STOP_TIMEOUT, ttl.total_seconds() / 3)
    verify_every = (_NOTICE_AFTER_REMOTE if session.remote else _NOTICE_AFTER) - _POLL_INTERVAL
    expires = grant.expires.ticks
    with KeepAliveThread(session, grant, ttl, verify_every=verify_every) as kept:
        last_awake, resumed = session.now().ticks, 0.0
        # In steps that never reach beyond the last moment for stopping the command.  The keep-alive asks the store in a
        # thread: an answer over a network may take longer than the claim lives.
        while not child.wait(min(_POLL_INTERVAL, max(0.01, expires - stop_timeout - last_awake))):
            now = session.now().ticks
            if now - last_awake > _POLL_INTERVAL + _CATCH_UP:
                resumed = now
            last_awake = now
            claim, problem = kept.claim, kept.problem
            if claim is not None:
                expires = claim.expires.ticks
                if now < max(expires - stop_timeout, resumed + _CATCH_UP):
                    continue
                write_error(f"the claim could not be renewed in time: {problem or 'the store has not answered'}")
            write_error("the claim is lost, so the command is stopped")
            child.stop(min(_STOP_TIMEOUT, max(0.0, expires - _KILL_BEFORE - session.now().ticks)))
            return False
    return True
