"""`mcp-claims list` and `show`: who is on what, as a table, as JSON, or redrawn as it changes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mcp_claims.cli.options import (
    NO,
    YES,
    add_command,
    add_identity,
    add_json,
    add_key,
    chosen_session,
    chosen_store,
    say,
)
from mcp_claims.cli.output import format_json, write_error, write_line
from mcp_claims.model import expiry, validation
from mcp_claims.model.records import Claim, Moment
from mcp_claims.session.results import ClaimPage, ListedClaim
from mcp_claims.session.session import Session

if TYPE_CHECKING:
    from rich.table import Table

_AT_MOST = 1_000
_WIDE = 1_000
_REDRAW_EVERY = 1.0  # s, as time passes
_TOGETHER = 0.05  # s, in which changes are gathered


def add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `list`."""
    command = add_command(
        commands,
        "list",
        "list what is claimed, done or dead",
        "  mcp-claims list --watch\n  mcp-claims list -n ci --json | jq '.claims[].key'",
    )
    command.add_argument("-n", "--namespace", metavar="NAME", help="only this one")
    command.add_argument("--mine", action="store_true", help="only those of --for-pid or --session")
    add_identity(command)
    command.add_argument("--watch", action="store_true", help="go on, and show each change as it comes")
    add_json(command)
    command.set_defaults(run=_list)


def add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `show`."""
    command = add_command(commands, "show", "show all there is to know of one key", "  mcp-claims show nightly --json")
    add_key(command)
    add_json(command)
    command.set_defaults(run=_show)


def _list(options: SimpleNamespace) -> int:
    from mcp_claims.errors import InvalidInputError
    from mcp_claims.session.identity import process_session

    store = chosen_store(options)
    session = chosen_session(options, store)
    if options.mine and session is None:
        raise InvalidInputError("--mine", "needs --for-pid or --session")
    session = session or process_session(store)

    def read() -> ClaimPage:
        return session.listing(options.namespace, mine=options.mine, at_most=_AT_MOST)

    if options.watch:
        _watch(session, options, read)
    elif options.json:
        say("", _as_json(read()), as_json=True)
    else:
        write_line(_drawn(read()))
    return YES


def _watch(session: Session, options: SimpleNamespace, read: Callable[[], ClaimPage]) -> None:
    try:
        if options.json:
            for listing in _changes(session, options.namespace, read, as_time_passes=False):
                if not write_line(format_json(_as_json(listing))):
                    return  # Nobody can see any more.
        elif not sys.stdout.isatty():
            for listing in _changes(session, options.namespace, read, as_time_passes=False):
                if not write_line(_drawn(listing)):
                    return
        else:
            from rich.live import Live

            with Live(auto_refresh=False, vertical_overflow="crop") as live:
                for listing in _changes(session, options.namespace, read, as_time_passes=True):
                    live.update(_table(listing), refresh=True)
    except KeyboardInterrupt:
        return


def _drawn(listing: ClaimPage) -> str:
    """Return the table for what stdout is; nothing is cut to a width where it goes into a file or a pipe."""
    from io import StringIO

    from rich.console import Console

    on_terminal, drawn = sys.stdout.isatty(), StringIO()
    # Rich writes to its file even where it captures, which fails where the disk is full.
    Console(file=drawn, force_terminal=on_terminal, width=None if on_terminal else _WIDE).print(_table(listing))
    return drawn.getvalue().removesuffix("\n")


def _changes(
    session: Session, namespace: str | None, read: Callable[[], ClaimPage], *, as_time_passes: bool
) -> Iterator[ClaimPage]:
    """Yield what is stored whenever that has changed, for ever; a cluster that answered once is waited for."""
    from mcp_claims.errors import StoreUnavailableError

    changed = Event()
    last: list[object] | None = None
    silent = False
    while True:
        with session.watch(namespace, changed.set) as watched:
            while True:
                changed.clear()
                try:
                    listing = read()
                except StoreUnavailableError as error:
                    if last is None or not session.remote:
                        raise
                    if not silent:
                        write_error(f"{error} What is shown is of before; it goes on when the cluster does.")
                    silent = True
                    time.sleep(_REDRAW_EVERY)
                    continue
                silent = False
                seen: list[object] = list(listing.page)
                if as_time_passes or seen != last:
                    last = seen
                    yield listing
                changed.wait(_REDRAW_EVERY)
                if changed.is_set():
                    time.sleep(_TOGETHER)
                if not watched:
                    break  # Perhaps it can be watched by now.


def _show(options: SimpleNamespace) -> int:
    from mcp_claims.render import text
    from mcp_claims.render.structured import listed_facts
    from mcp_claims.session.identity import process_session

    scoped = validation.scoped_key(options.key, options.namespace)
    stored = process_session(chosen_store(options)).stored(scoped.key, scoped.namespace)
    if not stored.page:
        say(
            "Nobody holds it.",
            {"key": scoped.key, "namespace": scoped.namespace, "status": "free"},
            as_json=options.json,
        )
        return NO
    facts = listed_facts(stored.page[0], stored.now)
    lines = [text.listed_text(stored.page[0], stored.now), ""]
    width = max(map(len, facts))
    lines += [f"{name:{width}}  {value}" for name, value in facts.items()]
    say("\n".join(lines), facts, as_json=options.json)
    return YES


def _as_json(listing: ClaimPage) -> dict[str, object]:
    from mcp_claims.render.structured import listed_facts

    claims = [listed_facts(listed, listing.now) for listed in listing.page]
    return {"claims": claims, **({"more": True} if listing.after is not None else {})}


def _table(listing: ClaimPage) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NAMESPACE", "KEY", "STATUS", "LEFT", "GEN", "HOLDER", "NOTE"):
        table.add_column(title, overflow="fold", no_wrap=title in ("STATUS", "LEFT", "GEN"))
    for listed in listing.page:
        cells = _cells(listed, listing.now)
        style = {"held": "green", "done": "blue", "unreadable": "red"}.get(cells[2], "dim")
        # Never as markup: these are other people's words.
        table.add_row(*(Text(cell, style=style if index == 2 else "") for index, cell in enumerate(cells)))
    if not listing.page:
        table.caption = "Nothing is claimed."
    if listing.after is not None:
        table.caption = f"The first {_AT_MOST:,}; -n NAME shows one namespace."
    return table


def _cells(listed: ListedClaim, now: Moment) -> tuple[str, ...]:
    from mcp_claims.render import phrases

    found = listed.found
    if not isinstance(found, Claim):
        return "", phrases.shown(found.where) or "", "unreadable", "", "", "", phrases.shown(found.problem) or ""
    left = expiry.remaining(found.expires, now)
    return (
        phrases.shown(found.scoped.namespace) or "",
        phrases.shown(found.scoped.key) or "",
        found.ended.outcome.value if found.ended else listed.state.value,
        phrases.span(left) if left > timedelta(0) else "",
        str(found.generation or ""),
        phrases.client(found) or phrases.shown(found.holder.name) or "",
        phrases.shown(found.note) or "",
    )
