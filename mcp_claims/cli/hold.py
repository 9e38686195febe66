"""`mcp-claims hold KEY --until 18:00`: a person holds a key, without any process, until a time."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta

from mcp_claims.cli.claim_commands import print_claim
from mcp_claims.cli.options import MINUTE, add_epilog, add_json, add_key, add_store_options, chosen_store, duration
from mcp_claims.errors import InvalidInputError
from mcp_claims.model.validation import ClaimRequest, parse_ttl
from mcp_claims.session.identity import person_session
from mcp_claims.session.results import Status

_TIME_OF_DAY = re.compile(r"(\d\d?):(\d\d)")
_HINTS = {
    Status.HELD: "To wait until it is free: mcp-claims wait KEY. To take it from a holder that hangs: mcp-claims release "
    "KEY --force.",
    Status.DONE: "The work on it is recorded as done. To hold it all the same: first mcp-claims forget KEY.",
}
_END_IT = "To end it: mcp-claims release KEY. To move its end: mcp-claims hold KEY again."


def configure_hold(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `hold`."""
    add_epilog(
        parser,
        "  mcp-claims hold deploy:staging --until 18:00 --note 'release in progress'\n"
        "  mcp-claims hold deploy:staging --until 17:30             # moves the end, also to an earlier time\n"
        "  mcp-claims hold schema:orders --for 2h\n"
        "  mcp-claims release deploy:staging                        # from any shell of the same user",
        "0 you hold it, 1 held by another session or done",
    )
    add_store_options(parser)
    add_key(parser)
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument(
        "--until",
        type=lambda text: parse_time(text, datetime.now(UTC)),
        metavar="TIME",
        help="18:00 (tomorrow's if today's has passed) or 2026-11-30T09:00, in local time; at most 24 hours from now",
    )
    end.add_argument(
        "--for",
        dest="minutes",
        type=duration(MINUTE),
        metavar="DURATION",
        help="how long from now: 30m, 2h; a number is minutes; at most 24 hours",
    )
    parser.add_argument("--note", metavar="TEXT", help="why, shown to the others")
    add_json(parser)
    parser.set_defaults(run=_hold)


def _hold(options: argparse.Namespace) -> int:
    request = ClaimRequest.parse(options.key, options.namespace, note=options.note)
    session = person_session(chosen_store(options))
    request = session.resolved(request)
    minutes = options.minutes
    if minutes is None:
        minutes = (options.until - session.now().wall) / timedelta(minutes=1)
    try:
        request = request._replace(ttl=parse_ttl(minutes))
    except InvalidInputError as error:
        option = "--until" if options.minutes is None else "--for"
        raise InvalidInputError(option, "must be from one second to 24 hours from now") from error
    result = session.try_request(request)
    return print_claim(session, request.scoped, result, options, _HINTS.get(result.status, _END_IT))


def parse_time(text: str, now: datetime) -> datetime:
    """Return the moment that *text* names: a time of day, the next one after *now*, or a date with a time.

    Both are in local time, a date with a time in the zone that it names, if any.  Raises `argparse.ArgumentTypeError`.
    """
    try:
        if (found := _TIME_OF_DAY.fullmatch(text)) is None:
            return _with_time(text).astimezone()
        # Without a zone, so that a change of the clocks before that time counts.
        today = now.astimezone().replace(tzinfo=None, hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        # Where the clocks are set back, a time of day comes twice.
        times = (today.replace(fold=0), today.replace(fold=1), today + timedelta(days=1))
        return next(at for time in times if (at := time.astimezone()) > now)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"must be a time such as 18:00 or 2026-11-30T09:00, not {text!r}") from None


def _with_time(text: str) -> datetime:
    if ":" not in text:
        raise ValueError("a date without a time")
    return datetime.fromisoformat(text)
