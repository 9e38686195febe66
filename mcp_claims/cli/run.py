"""`mcp-claims run KEY -- COMMAND`: hold a key while a command runs; with `--once`, so that it succeeds only once."""

from __future__ import annotations

import argparse
from datetime import timedelta

from mcp_claims.cli.claim_commands import report_wait
from mcp_claims.cli.errors import USAGE_ERROR, UsageError
from mcp_claims.cli.options import (
    HOUR,
    add_claim,
    add_epilog,
    add_label,
    add_store_options,
    add_ways,
    check_ways,
    chosen_store,
    claim_request,
    describe_session,
    duration,
)
from mcp_claims.cli.output import write_error
from mcp_claims.cli.supervisor import CannotStartError, Child, TooLateError
from mcp_claims.errors import ClaimsError, InvalidInputError
from mcp_claims.model.records import ALONE, Claim, Outcome
from mcp_claims.model.validation import DEFAULT_RETENTION_HOURS, ReleaseRequest, parse_retention
from mcp_claims.render import phrases
from mcp_claims.render.answers import claim_answer, subject
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import process_session
from mcp_claims.session.keepalive import KeepAliveThread
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session

_NOTICE_AFTER, _NOTICE_AFTER_REMOTE = 2.0, 15.0
"""Seconds after which a revoked claim is noticed at the latest, on this machine and over a network."""

_POLL_INTERVAL = 0.5  # s at most between two checks of what the keep-alive has found out
_POLLS_PER_TTL = 20

_STOP_TIMEOUT = 10.0
"""Seconds at most in which a command that has lost its claim has to end, before it is killed."""

_HINTS = {
    Status.HELD: "To wait for it: --wait 5m.",
    Status.DONE: "The next occurrence is a new key. To do the same again: --redo, or first mcp-claims forget KEY.",
}

_DEFAULT_ONCE = f"{DEFAULT_RETENTION_HOURS:g}h"

RUN_CLIENT = "mcp-claims run"
"""How the client of each claim of `run` begins."""

_NOT_RUN = 75
"""The exit code if the command was not run, `EX_TEMPFAIL` of sysexits.h: another attempt may succeed."""


def configure_run(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `run`."""
    add_epilog(
        parser,
        "  mcp-claims run deploy:staging --wait 5m -- ./deploy.sh staging     # one at a time\n"
        "  mcp-claims run --once nightly:2026-11-28 -- make nightly           # by one of all machines' cron jobs\n"
        "  mcp-claims run --once 7d acme/web#12:red@3f2a91c -- ./repair.sh    # never again within a week\n"
        "  mcp-claims run --slots 2 test --wait 1h -- make test               # two at a time; MCP_CLAIMS_SLOT is 0 or 1\n"
        "  mcp-claims run --any port:8001 port:8002 -- ./serve.sh             # MCP_CLAIMS_KEY is the one that was free",
        f"that of COMMAND, 126 or 127 COMMAND cannot be run, {_NOT_RUN} or N of -E the key is held or done",
    )
    add_store_options(parser)
    add_claim(parser).nargs = "*"  # `--once KEY` takes it for a duration.
    add_ways(parser)
    add_label(parser)
    parser.add_argument(
        "--once",
        nargs="?",
        const="",
        metavar="DURATION",
        help="record that the work is done if COMMAND succeeds, and do not run it while that record is kept "
        f"({_DEFAULT_ONCE}); the key has to name the occurrence. Without it the key is free again whatever happened",
    )
    parser.add_argument(
        "-E",
        "--held-exit-code",
        type=int,
        default=_NOT_RUN,
        metavar="N",
        help="exit code if the key is held or done (%(default)s)",
    )
    parser.usage = "mcp-claims run [options] KEY [KEY ...] -- COMMAND [ARGUMENT ...]"
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if not options.command:
        write_error("there is no command to run: mcp-claims run KEY -- COMMAND")
        return USAGE_ERROR
    if not 0 <= options.held_exit_code <= 255:
        raise InvalidInputError("held_exit_code", "must be a number from 0 to 255")
    kept_hours = _take_once(options)
    check_ways(options)
    request = claim_request(options)
    if options.once is not None and request.use != ALONE:
        raise UsageError("--once does not go with --slots or --shared: what is held so is never done.")
    released = ReleaseRequest(request.scoped, retention=parse_retention(kept_hours))
    store = chosen_store(options)
    try:
        child = Child(options.command)
    except CannotStartError as error:  # Nothing is claimed yet.
        write_error(str(error))
        return error.exit_code
    with child:
        # The claim is the guardian's: whatever happens to this process, it stays as long as anything of the command runs.
        session = process_session(store, pid=child.guardian_pid)
        session.describe_client(f"{RUN_CLIENT} {options.command[0]}")
        describe_session(session, options)
        request = session.resolved(request)
        result = acquire(session, request, refused=report_wait(request))
        grant = result.found
        if not result.claimed or not isinstance(grant, Claim):
            answer = claim_answer(subject(request, result), result, keys=request.keys, use=request.use)
            way = phrases.other_way(result.found, request.use, option=True)
            write_error(f"{answer.lead} {way}{_HINTS.get(result.status, '')}".rstrip())
            return int(options.held_exit_code)
        released = released._replace(scoped=grant.scoped)
        variables = {
            "MCP_CLAIMS_KEY": grant.scoped.base.key,
            "MCP_CLAIMS_NAMESPACE": grant.scoped.namespace,
            "MCP_CLAIMS_GENERATION": str(grant.generation),
        }
        if grant.slot is not None:
            variables["MCP_CLAIMS_SLOT"] = str(grant.slot)
        try:
            child.start(variables, *_deadlines(grant, request.ttl))
        except TooLateError:
            write_error("the claim expired before the command was started, so it was not run")
            return int(options.held_exit_code)
        except CannotStartError as error:
            session.release_request(released)
            write_error(str(error))
            return error.exit_code
        if _hold_until_ended(session, grant, request.ttl, child):
            try:
                session.release_request(_with_outcome(released, child, once=options.once is not None))
            except ClaimsError as error:  # The command has run, and its exit code is the answer.
                write_error(f"the claim was not released, and ends with this process: {error}")
        return child.exit_code


def _take_once(options: argparse.Namespace) -> float:
    """Return how many hours an outcome is kept; `--once` may have taken KEY for its duration."""
    parse = duration(HOUR)
    if options.once:
        try:
            parse(options.once)
        except argparse.ArgumentTypeError:
            if options.key and not (options.all or options.any):
                raise UsageError(
                    f"--once takes a duration such as 7d, and {options.once!r} is none; several keys need --all or --any."
                ) from None
            options.key, options.once = [options.once, *options.key], ""
        else:
            if not options.key:
                raise UsageError(f"there is no KEY after --once {options.once}: mcp-claims run --once KEY -- COMMAND")
    if not options.key:
        raise UsageError("there is no KEY: mcp-claims run KEY -- COMMAND")
    try:
        return parse(options.once or _DEFAULT_ONCE)
    except argparse.ArgumentTypeError as error:
        raise InvalidInputError("--once", str(error)) from error


def _with_outcome(request: ReleaseRequest, child: Child, *, once: bool) -> ReleaseRequest:
    if child.exit_code == 0:
        return request._replace(outcome=Outcome.DONE) if once else request
    if child.interrupted_by is not None:
        return request._replace(outcome=Outcome.ABANDONED, note=f"interrupted by {child.interrupted_by}")
    return request._replace(outcome=Outcome.FAILED, note=f"exit code {child.exit_code}")


def _deadlines(claim: Claim, ttl: timedelta) -> tuple[float, float]:
    """Return when the command has to be asked to end, and killed, if *claim* is not renewed.

    From the expiry on another session may hold the key and act, so all of the command must have ended before.
    """
    seconds, expires = ttl.total_seconds(), claim.expires.ticks
    return expires - min(_STOP_TIMEOUT, seconds / 3), expires - min(1.0, seconds / 8)


def _hold_until_ended(session: Session, grant: Claim, ttl: timedelta, child: Child) -> bool:
    """Keep *grant* alive until *child* has ended; stop it if the claim is lost.  Return whether it was kept."""
    verify_every = (_NOTICE_AFTER_REMOTE if session.remote else _NOTICE_AFTER) - _POLL_INTERVAL
    # The keep-alive asks the store in a thread: an answer over a network may take longer than the claim lives.
    poll_interval = min(_POLL_INTERVAL, ttl.total_seconds() / _POLLS_PER_TTL)
    with KeepAliveThread(session, grant, ttl, verify_every=verify_every) as kept:
        deadlines = _deadlines(grant, ttl)
        while not child.wait(poll_interval) and not child.out_of_time:
            claim = kept.claim
            if claim is None:
                write_error("the claim is lost, so the command is stopped")
                child.stop(session.now().ticks + _STOP_TIMEOUT)
                return False
            if deadlines != (deadlines := _deadlines(claim, ttl)):
                child.keep_until(*deadlines)
        if child.out_of_time:
            why = kept.problem or "the store has not answered, or this process was stopped"
            write_error(f"the claim could not be renewed in time, so the command is stopped: {why}")
            child.stop(deadlines[1])
        elif child.guardian_died:
            write_error("the process that guards the command was killed, so the command is too")
    return not child.out_of_time and not child.guardian_died
