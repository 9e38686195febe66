"""`mcp-claims list`: who holds what, as a table, as JSON, or redrawn as it changes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from io import StringIO
from threading import Event

from rich.console import Console
from rich.text import Text

from mcp_claims.cli.claim_table import ClaimTable
from mcp_claims.cli.errors import YES, describe
from mcp_claims.cli.holders import holder_details
from mcp_claims.cli.options import (
    add_epilog,
    add_identity,
    add_json,
    add_namespace,
    add_store_options,
    chosen_session,
    chosen_store,
    looking_session,
)
from mcp_claims.cli.output import format_json, print_result, write_error, write_line
from mcp_claims.cli.screen import Screen
from mcp_claims.errors import InvalidInputError, StoreUnavailableError
from mcp_claims.render.listed import listed_facts
from mcp_claims.render.lists import decode_cursor, encode_cursor
from mcp_claims.session.results import ClaimPage, ListedClaim
from mcp_claims.session.session import Session

_LIMIT = 1_000
_WIDER_THAN_ANY_ROW = 20_000
_REDRAW_INTERVAL = 1.0  # s, since the time that is left changes
_SETTLE_TIME = 0.05  # s in which changes are gathered


def configure_list(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `list`."""
    add_epilog(
        parser,
        "  mcp-claims list --watch\n  mcp-claims list -n ci --json | jq '.claims[].key'",
        "0 listed",
    )
    add_store_options(parser)
    add_namespace(parser, purpose="list this namespace only")
    parser.add_argument("--mine", action="store_true", help="list only the claims of --for-pid or --session")
    add_identity(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="go on: redraw the list at a terminal, else print it again after each change",
    )
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--limit", type=int, default=_LIMIT, metavar="N", help="list N claims at most (%(default)s)")
    number.add_argument("--all", action="store_true", help="list all claims, however many")
    parser.add_argument(
        "--cursor", metavar="TEXT", help="start after the page for which `list --json` printed this `cursor`"
    )
    add_json(parser)
    parser.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> int:
    if options.limit < 1:
        raise InvalidInputError("--limit", "must be a number from 1 up")
    if options.cursor is not None and options.watch:
        raise InvalidInputError("--cursor", "is for a list without --watch")
    try:
        after = decode_cursor(options.cursor)
    except InvalidInputError as error:
        raise InvalidInputError("--cursor", "must be exactly what `list --json` printed") from error
    store = chosen_store(options)
    named = chosen_session(options, store)
    if options.mine and named is None:
        raise InvalidInputError("--mine", "needs --for-pid or --session")
    session = looking_session(options, store)
    if options.watch:
        _watch(session, options)
        return YES
    page = _read(session, options, after)
    if options.json:
        print_result("", _page_facts(page, session), as_json=True)
    else:
        write_line(_drawn(page, session))
    return YES


def _read(session: Session, options: argparse.Namespace, after: str = "") -> ClaimPage:
    limit = sys.maxsize if options.all else options.limit
    return session.list_claims(options.namespace, mine=options.mine, after=after, limit=limit)


def _watch(session: Session, options: argparse.Namespace) -> None:
    changed, ended = Event(), Event()
    try:
        if options.json or not sys.stdout.isatty():
            for page in _changes(session, options, changed, ended, as_time_passes=False):
                text = format_json(_page_facts(page, session)) if options.json else _drawn(page, session)
                if not write_line(text):
                    return  # Nobody reads it any more.
        else:
            pages = _changes(session, options, changed, ended, as_time_passes=True)
            screen = Screen(lambda width: ClaimTable(session.is_ours, local=not session.remote, width=width))
            screen.show(pages, ended, changed.set)
    except KeyboardInterrupt:
        return


def _changes(
    session: Session, options: argparse.Namespace, changed: Event, ended: Event, *, as_time_passes: bool
) -> Iterator[ClaimPage]:
    """Yield what is stored now, and again after each change, or *as time passes*, until *ended*; *changed* wakes it.

    If a cluster stops answering after its first answer, wait until it answers again.
    """
    last: tuple[ListedClaim, ...] | None = None
    silent = False
    while not ended.is_set():
        with session.watch(options.namespace, changed.set) as watched:
            while not ended.is_set():
                changed.clear()
                try:
                    page = _read(session, options)
                except StoreUnavailableError as error:
                    if last is None or not session.remote:
                        raise
                    if not silent:
                        write_error(f"{describe(error, options)} The list is out of date until the cluster answers.")
                    silent = True
                    ended.wait(_REDRAW_INTERVAL)
                    continue
                silent = False
                if as_time_passes or page.claims != last:
                    last = page.claims
                    yield page
                changed.wait(_REDRAW_INTERVAL)
                if changed.is_set() and not ended.is_set():
                    time.sleep(_SETTLE_TIME)
                if not watched:
                    break  # Perhaps it can be watched by now.


def _page_facts(page: ClaimPage, session: Session) -> dict[str, object]:
    facts: dict[str, object] = {
        "claims": [
            {**listed_facts(listed, page.now), **holder_details(listed, session.is_ours, local=not session.remote)}
            for listed in page.claims
        ]
    }
    return facts if page.after is None else facts | {"cursor": encode_cursor(page.after)}


def _drawn(page: ClaimPage, session: Session) -> str:
    """Return the table as text, in colour at a terminal; in a file or a pipe nothing is cut to a width."""
    at_terminal, drawn = sys.stdout.isatty(), StringIO()
    # Into a string, since rich writes to its file even where it captures, and fails where the disk is full.
    console = Console(file=drawn, force_terminal=at_terminal, width=None if at_terminal else _WIDER_THAN_ANY_ROW)
    table = ClaimTable(session.is_ours, local=not session.remote, width=console.width if at_terminal else None)
    console.print(table.draw(page.claims, page.now))
    if not page.claims:
        console.print(Text("Nothing is claimed."))
    if page.after is not None:
        console.print(Text(f"There are more than {len(page.claims):,}: --all lists all of them, --limit N up to N."))
    return drawn.getvalue().removesuffix("\n")
