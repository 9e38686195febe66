"""`mcp-claims verify`: whether the history of claims keeps what is promised."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import UTC, datetime

from mcp_claims.cli.errors import NO, YES, UsageError
from mcp_claims.cli.history import add_since, history_directory, since
from mcp_claims.cli.options import add_epilog, add_json, add_store_options, chosen_store, store_choice
from mcp_claims.cli.output import print_result
from mcp_claims.model.history import Event, facts_of
from mcp_claims.model.promises import Findings, by_revision, check
from mcp_claims.render.history import findings_text, violation_text
from mcp_claims.stores.config import OWN_LAYOUT
from mcp_claims.stores.history.files import DIRECTORY
from mcp_claims.stores.history.reader import HistoryReader

_SHOWN = 20


def configure_verify(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `verify`."""
    add_epilog(
        parser,
        "  mcp-claims verify --since 7d\n  mcp-claims verify machine-1/history machine-2/history",
        "0 clean, 1 a promise was broken",
    )
    add_store_options(parser)
    parser.add_argument(
        "directories",
        nargs="*",
        metavar="DIR",
        help="claims directories, or histories; those of several machines that share a cluster are put together",
    )
    add_since(parser, default=None)
    add_json(parser)
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    complete = True
    if options.directories:
        directories = list(map(_history_in, options.directories))
    else:
        choice = store_choice(options)
        # The original takes over and releases claims, and writes no history.
        complete = choice.url is not None or choice.layout == OWN_LAYOUT
        directories = [history_directory(chosen_store(options))]
    readers = [HistoryReader(directory, gaps=True) for directory in directories]
    findings = check_histories([list(reader.events(since(options))) for reader in readers], complete=complete)
    damaged = sum(reader.damaged for reader in readers)
    now = datetime.now(UTC)
    broken = [violation_text(each, now) for each in findings.violations[:_SHOWN]]
    if len(findings.violations) > _SHOWN:
        broken.append(f"… and {len(findings.violations) - _SHOWN:,} more")
    facts: dict[str, object] = {
        "clean": not findings.violations,
        "grants": findings.grants,
        "reservations": findings.reservations,
        "refusals": findings.refusals,
        "in_force": findings.in_force,
        "unknown": findings.unknown,
        "damaged_lines": damaged,
        "violations": [
            {
                "promise": each.promise.value,
                "why": each.why,
                "event": facts_of(each.event),
                "other": None if each.other is None else facts_of(each.other),
            }
            for each in findings.violations
        ],
    }
    print_result("\n".join([*broken, findings_text(findings, damaged)]), facts, as_json=options.json)
    return NO if findings.violations else YES


def check_histories(histories: Sequence[Sequence[Event]], *, complete: bool = True) -> Findings:
    """Return what *histories* show together: those of one cluster are one, by their revisions, and each other is of its own."""
    of_a_cluster = [events for events in histories if any(event.revision is not None for event in events)]
    found = [check(events, complete=complete) for events in histories if events not in of_a_cluster]
    if of_a_cluster:
        found.append(check(by_revision(of_a_cluster)))
    whole = Findings()
    for each in found:
        for name, value in vars(each).items():
            setattr(whole, name, getattr(whole, name) + value)
    return whole


def _history_in(path: str) -> str:
    """Return the history in *path*, a claims directory or a history; raises `UsageError` if it is neither."""
    if not os.path.isdir(path):
        raise UsageError(f"There is no directory {path}.")
    inside = os.path.join(path, DIRECTORY)
    return inside if os.path.isdir(inside) else path
