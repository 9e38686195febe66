"""`mcp-claims history`, `why` and `top`: what happened, why a key is not free, and which keys sessions meet at."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from mcp_claims.cli.errors import YES, UsageError
from mcp_claims.cli.options import (
    HOUR,
    SECOND,
    add_epilog,
    add_json,
    add_key,
    add_namespace,
    add_store_options,
    chosen_store,
    duration,
)
from mcp_claims.cli.output import print_result, write_line
from mcp_claims.errors import InvalidInputError
from mcp_claims.model import tickets
from mcp_claims.model.contention import KeyUse, median_of, uses
from mcp_claims.model.history import Event, Kind, facts_of, to_line
from mcp_claims.model.keys import is_file_key
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.model.validation import DEFAULT_NAMESPACE, scoped_key
from mcp_claims.render import phrases
from mcp_claims.render.history import event_line, who
from mcp_claims.render.listed import listed_facts, listed_line
from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store
from mcp_claims.stores.history.reader import HistoryReader

_DAY = 24.0 * HOUR
_PAUSE = 0.2  # s between two looks at what is new
_SHOWN = 10
_LONGEST = 3_650 * _DAY


def configure_history(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `history`."""
    add_epilog(
        parser,
        "  mcp-claims history --since 2h\n  mcp-claims history deploy:staging --follow\n"
        "  mcp-claims history --by claude-code --json | jq .note",
        "0 printed",
    )
    add_store_options(parser)
    parser.add_argument("key", nargs="?", metavar="KEY", help="only what happened to this key")
    add_namespace(parser, purpose="only this namespace; that of KEY is default unless it is given")
    add_since(parser)
    parser.add_argument(
        "--by", metavar="SESSION", help="only of sessions with this in name, label or client, or this id"
    )
    parser.add_argument("--follow", action="store_true", help="go on: print what happens from now on, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, for scripts")
    parser.set_defaults(run=_history)


def add_since(parser: argparse.ArgumentParser, default: float | None = _DAY) -> None:
    """Add how far back to look."""
    parser.add_argument(
        "--since",
        type=duration(SECOND),
        default=default,
        metavar="DURATION",
        help=f"how far back: 30m, 2h, 7d; a number is seconds ({'1d' if default else 'all that is kept'})",
    )


def since(options: argparse.Namespace) -> datetime | None:
    """Return the time that `--since` means; raises `InvalidInputError` for one out of range."""
    if options.since is None:
        return None
    if not 0 <= options.since <= _LONGEST:
        raise InvalidInputError("--since", "must be from 0 to 3,650 days")
    return datetime.now(UTC) - timedelta(seconds=options.since)


def history_directory(store: Store) -> str:
    """Return where the history of *store* is; raises `UsageError` if it keeps none."""
    if store.history is None:
        raise UsageError("This store keeps no history.")
    return store.history.directory


def _history(options: argparse.Namespace) -> int:
    store = chosen_store(options)
    scoped = None
    if options.key is not None:
        scoped = process_session(store).resolve(scoped_key(options.key, options.namespace or DEFAULT_NAMESPACE))
    namespace = options.namespace if scoped is None else scoped.namespace
    reader = HistoryReader(history_directory(store), namespace)
    wanted = _filter(scoped, options.by)
    first = since(options)
    if options.follow:
        reader.new_events()  # From here on; what comes while we read the rest is printed once.
        first = first or datetime.now(UTC)
    until = datetime.now(UTC) if options.follow else None
    try:
        if not _print(filter(wanted, reader.events(first, until)), options) or not options.follow:
            return YES
        while _print([each for each in reader.new_events() if wanted(each) and _is_new(each, until)], options):
            time.sleep(_PAUSE)
    except KeyboardInterrupt:
        pass
    return YES


def _is_new(event: Event, until: datetime | None) -> bool:
    return until is None or event.at >= until


def _filter(scoped: ScopedKey | None, by: str | None) -> Callable[[Event], bool]:
    def wanted(event: Event) -> bool:
        if scoped is not None and event.scoped != scoped:
            return False
        texts = (event.holder, event.label or "", event.client or "")
        return by is None or event.host_session == by or any(by in text for text in texts)

    return wanted


def _print(events: Iterable[Event], options: argparse.Namespace) -> bool:
    """Print *events*; return whether anybody reads them."""
    now = datetime.now(UTC)
    for event in events:
        line = to_line(event).decode().rstrip("\n") if options.json else event_line(event, now)
        if not write_line(line):
            return False
    return True


def configure_why(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `why`."""
    add_epilog(parser, "  mcp-claims why deploy:staging\n  mcp-claims why file:src/app.py --json", "0 printed")
    add_store_options(parser)
    add_key(parser)
    add_since(parser)
    add_json(parser)
    parser.set_defaults(run=_why)


def _why(options: argparse.Namespace) -> int:
    store = chosen_store(options)
    session = process_session(store)
    scoped = session.resolve(scoped_key(options.key, options.namespace))
    now = session.now()
    page = session.read(scoped.key, scoped.namespace)
    holders = [listed_line(listed, page.now) for listed in page.claims] or ["nobody has it"]
    near = _overlapping(session, store, scoped)
    waiting = [
        ticket for ticket in tickets.wanting(session.queue.read_all(), scoped) if tickets.is_waiting(ticket, now)
    ]
    events = _events_of(store, scoped, options)
    refused = Counter[str]()
    for event in events:
        if event.kind is Kind.REFUSED:
            refused[who(event)] += event.times or 1
    ends = [event for event in events if event.kind.ends and not event.turn][-_SHOWN:]
    facts: dict[str, object] = {
        "key": phrases.shown(scoped.key),
        "namespace": phrases.shown(scoped.namespace),
        "holders": [listed_facts(listed, page.now) for listed in page.claims],
        "overlapping": [phrases.shown(claim.scoped.base.key) for claim in near],
        "waiting": [{"holder": ticket.holder.name, "since": ticket.taken.wall.isoformat()} for ticket in waiting],
        "refused": [{"who": name, "times": times} for name, times in refused.most_common()],
        "ended": [facts_of(event) for event in ends],
    }
    sections = [
        ("Now", holders),
        ("Held beside it, on files that overlap", [f"{phrases.held_by((claim,))}" for claim in near]),
        ("Waiting, in their order", [f"{phrases.shown(ticket.holder.name)}" for ticket in waiting]),
        ("Refused", [f"{name}: {_times(times)}" for name, times in refused.most_common(_SHOWN)]),
        ("What the last holders left", [event_line(event, now.wall) for event in ends]),
    ]
    text = "\n\n".join(f"{title}:\n" + "\n".join(f"  {line}" for line in lines) for title, lines in sections if lines)
    print_result(text, facts, as_json=options.json)
    return YES


def _overlapping(session: Session, store: Store, scoped: ScopedKey) -> list[Claim]:
    if not is_file_key(scoped):
        return []
    return [found for found in store.overlapping(scoped) if isinstance(found, Claim) and found.ended is None]


def _events_of(store: Store, scoped: ScopedKey, options: argparse.Namespace) -> list[Event]:
    if store.history is None:
        return []
    reader = HistoryReader(store.history.directory, scoped.namespace)
    return [event for event in reader.events(since(options)) if event.scoped == scoped]


def configure_top(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `top`."""
    add_epilog(parser, "  mcp-claims top --since 7d\n  mcp-claims top -n ci --json", "0 printed")
    add_store_options(parser)
    add_namespace(parser, purpose="only this namespace")
    add_since(parser)
    parser.add_argument("--limit", type=int, default=_SHOWN, metavar="N", help="show N keys at most (%(default)s)")
    add_json(parser)
    parser.set_defaults(run=_top)


def _top(options: argparse.Namespace) -> int:
    if options.limit < 1:
        raise InvalidInputError("--limit", "must be a number from 1 up")
    reader = HistoryReader(history_directory(chosen_store(options)), options.namespace)
    found = uses(reader.events(since(options)))
    prevented = sum(use.duplicates_prevented for use in found)
    shown = found[: options.limit]
    facts = {
        "duplicates_prevented": prevented,
        "grants": sum(use.grants for use in found),
        "takeovers": sum(use.takeovers for use in found),
        "keys": [_facts_of_use(use) for use in shown],
    }
    head = f"{_times(prevented).capitalize()} a session was kept from what another one did or had done; keys: {len(found):,}."
    print_result("\n".join([head, *_table(shown)]), facts, as_json=options.json)
    return YES


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _facts_of_use(use: KeyUse) -> dict[str, object]:
    return {
        "key": phrases.shown(use.scoped.key),
        "namespace": phrases.shown(use.scoped.namespace),
        "duplicates_prevented": use.duplicates_prevented,
        "refusals": use.refusals,
        "grants": use.grants,
        "takeovers": use.takeovers,
        "held_seconds": {"median": median_of(use.held), "longest": max(use.held, default=None)},
        "waited_seconds": {"median": median_of(use.waited), "longest": max(use.waited, default=None)},
    }


def _table(shown: Sequence[KeyUse]) -> list[str]:
    rows = [("PREVENTED", "REFUSALS", "GRANTS", "TAKEN OVER", "HELD", "WAITED", "KEY")]
    rows += [
        (
            str(use.duplicates_prevented),
            str(use.refusals),
            str(use.grants),
            str(use.takeovers),
            _span(use.held),
            _span(use.waited),
            phrases.shown(use.scoped.key),
        )
        for use in shown
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return ["", *lines, "", "HELD and WAITED: the median / the longest."] if shown else []


def _span(seconds: list[float]) -> str:
    """Return the median and the longest."""
    if not seconds:
        return ""
    return " / ".join(phrases.span(timedelta(seconds=each)) for each in (median_of(seconds) or 0.0, max(seconds)))
