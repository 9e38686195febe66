"""`mcp-claims list`: who holds what, as a table, as JSON, or redrawn as it changes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from threading import Event

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mcp_claims.cli.errors import YES, describe
from mcp_claims.cli.options import (
    add_epilog,
    add_identity,
    add_json,
    add_namespace,
    add_store_options,
    chosen_session,
    chosen_store,
)
from mcp_claims.cli.output import format_json, print_result, write_error, write_line
from mcp_claims.errors import InvalidInputError, StoreUnavailableError
from mcp_claims.model import expiry
from mcp_claims.model.records import Claim, Moment
from mcp_claims.render import phrases
from mcp_claims.render.lists import listed_facts
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ClaimPage, ListedClaim
from mcp_claims.session.session import Session

_MAX_LISTED = 1_000
_MAX_WIDTH = 1_000
_REDRAW_INTERVAL = 1.0  # s, since the time that is left changes
_SETTLE_TIME = 0.05  # s in which changes are gathered
_STYLES = {"held": "green", "done": "blue"}
_UNREADABLE_STYLE = "red"


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
    parser.add_argument("--watch", action="store_true", help="go on, and print the list again after each change")
    add_json(parser)
    parser.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> int:
    store = chosen_store(options)
    session = chosen_session(options, store)
    if options.mine and session is None:
        raise InvalidInputError("--mine", "needs --for-pid or --session")
    session = session or process_session(store)
    if options.watch:
        _watch(session, options)
        return YES
    page = _read(session, options)
    if options.json:
        print_result("", _page_facts(page), as_json=True)
    else:
        write_line(_drawn(page))
    return YES


def _read(session: Session, options: argparse.Namespace) -> ClaimPage:
    return session.list_claims(options.namespace, mine=options.mine, limit=_MAX_LISTED)


def _watch(session: Session, options: argparse.Namespace) -> None:
    try:
        if options.json or not sys.stdout.isatty():
            for page in _changes(session, options, as_time_passes=False):
                if not write_line(format_json(_page_facts(page)) if options.json else _drawn(page)):
                    return  # Nobody reads it any more.
        else:
            with Live(auto_refresh=False, vertical_overflow="crop") as live:
                for page in _changes(session, options, as_time_passes=True):
                    live.update(_table(page), refresh=True)
    except KeyboardInterrupt:
        return


def _changes(session: Session, options: argparse.Namespace, *, as_time_passes: bool) -> Iterator[ClaimPage]:
    """Yield what is stored now, and again after each change, or *as time passes*, for ever.

    If a cluster stops answering after its first answer, wait until it answers again.
    """
    changed = Event()
    last: tuple[ListedClaim, ...] | None = None
    silent = False
    while True:
        with session.watch(options.namespace, changed.set) as watched:
            while True:
                changed.clear()
                try:
                    page = _read(session, options)
                except StoreUnavailableError as error:
                    if last is None or not session.remote:
                        raise
                    if not silent:
                        write_error(f"{describe(error, options)} The list is out of date until the cluster answers.")
                    silent = True
                    time.sleep(_REDRAW_INTERVAL)
                    continue
                silent = False
                if as_time_passes or page.claims != last:
                    last = page.claims
                    yield page
                changed.wait(_REDRAW_INTERVAL)
                if changed.is_set():
                    time.sleep(_SETTLE_TIME)
                if not watched:
                    break  # Perhaps it can be watched by now.


def _page_facts(page: ClaimPage) -> dict[str, object]:
    facts: dict[str, object] = {"claims": [listed_facts(listed, page.now) for listed in page.claims]}
    return facts if page.after is None else facts | {"more": True}


def _drawn(page: ClaimPage) -> str:
    """Return the table as text, in colour at a terminal; in a file or a pipe nothing is cut to a width."""
    at_terminal, drawn = sys.stdout.isatty(), StringIO()
    # Into a string, since rich writes to its file even where it captures, and fails where the disk is full.
    Console(file=drawn, force_terminal=at_terminal, width=None if at_terminal else _MAX_WIDTH).print(_table(page))
    return drawn.getvalue().removesuffix("\n")


def _table(page: ClaimPage) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NAMESPACE", "KEY", "STATE", "LEFT", "GEN", "HOLDER", "NOTE"):
        table.add_column(title, overflow="fold", no_wrap=title in ("STATE", "LEFT", "GEN"))
    for listed in page.claims:
        namespace, key, state, *others = _cells(listed, page.now)
        style = _STYLES.get(state, "dim") if isinstance(listed.found, Claim) else _UNREADABLE_STYLE
        # As `Text`, never as markup: others have written keys and notes.
        table.add_row(Text(namespace), Text(key), Text(state, style=style), *map(Text, others))
    if not page.claims:
        table.caption = "Nothing is claimed."
    if page.after is not None:
        table.caption = f"The first {_MAX_LISTED:,}; -n NAME lists one namespace."
    return table


def _cells(listed: ListedClaim, now: Moment) -> tuple[str, ...]:
    found = listed.found
    if not isinstance(found, Claim):
        problem = f"cannot be read: {phrases.shown(found.problem)}"
        return "", phrases.shown(found.where), listed.state.value, "", "", "", problem
    left = expiry.remaining(found.expires, now)
    return (
        phrases.shown(found.scoped.namespace),
        phrases.shown(found.scoped.key),
        listed.state.value,
        phrases.span(left) if left > timedelta(0) else "",
        str(found.generation or ""),
        phrases.client(found) or phrases.shown(found.holder.name),
        phrases.shown(found.note or ""),
    )
