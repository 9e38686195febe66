"""The table of claims: one line for each, cut with an ellipsis to the width of a terminal, in local time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache

from rich.table import Table
from rich.text import Text

from mcp_claims.cli.holders import branch_in, branch_of, lives_in_process
from mcp_claims.model import expiry
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Moment, OriginalHolder
from mcp_claims.render import phrases
from mcp_claims.session.results import ListedClaim

_COLUMNS = ("NAMESPACE", "KEY", "STATE", "SINCE", "AGE", "LEFT", "GEN", "HOLDER", "PID", "WHERE", "NOTE")
_CUT_TO_WIDTH = frozenset({"NAMESPACE", "KEY", "HOLDER", "WHERE", "NOTE"})
# Terminals narrower than this number of columns do without.
_LEFT_OUT_BELOW = {"GEN": 140, "SINCE": 110, "NOTE": 100}
_KEY_SHARE = 0.45  # of the width at most: most keys of a repository begin alike
_STYLES = {"held": "green", "yours": "bold green", "reserved": "yellow", "done": "blue"}
_UNREADABLE_STYLE = "red"
_SHOWN_OF_NAME = 6  # characters of the part that is random


class ClaimTable:
    """Draws claims for a session that holds those of which *is_ours* is true; with *local*, they are on this machine, in files.

    *width* is that of a terminal in columns; without one nothing is cut or left out.
    """

    def __init__(self, is_ours: Callable[[Claim], bool], *, local: bool, width: int | None = None) -> None:
        self._is_ours, self._local, self._width = is_ours, local, width

    def draw(self, claims: Sequence[ListedClaim], now: Moment) -> Table:
        """Return the table of *claims*; those of the own session are `yours` instead of `held`."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        find = cache(branch_in)  # Once for each drawing: somebody may change to another one meanwhile.
        rows = [self._row(listed, now, branch_of(listed, find) if self._local else None) for listed in claims]
        _tell_apart(claims, rows)
        columns = [column for column in _COLUMNS if self._is_shown(column, rows)]
        for column in columns:
            longest = max((len(row[column]) for row in rows), default=0)
            width = min(longest, int(self._width * _KEY_SHARE)) if column == "KEY" and self._width else None
            # A cell is cut only if the column may be wrapped and the text may not.
            title = Text(column, no_wrap=True, overflow="ellipsis")
            table.add_column(title, no_wrap=column not in _CUT_TO_WIDTH, width=width)
        for listed, row in zip(claims, rows, strict=True):
            style = _STYLES.get(row["STATE"], "dim") if isinstance(listed.found, Claim) else _UNREADABLE_STYLE
            # As `Text`, never as markup: others have written keys and notes.
            cells = {column: Text(row[column], no_wrap=True, overflow="ellipsis") for column in columns}
            cells["STATE"].stylize(style)
            table.add_row(*cells.values())
        return table

    def _is_shown(self, column: str, rows: list[dict[str, str]]) -> bool:
        if self._width is None:
            return True
        if column == "NAMESPACE":
            return len({row[column] for row in rows}) > 1
        return self._width >= _LEFT_OUT_BELOW.get(column, 0) and (
            column in ("KEY", "STATE") or not rows or any(row[column] for row in rows)
        )

    def _row(self, listed: ListedClaim, now: Moment, branch: str | None) -> dict[str, str]:
        row, found = dict.fromkeys(_COLUMNS, ""), listed.found
        row["STATE"] = listed.state.value
        if not isinstance(found, Claim):
            remedy = f"; {phrases.shown(found.remedy)}" if found.remedy else ""
            return row | {
                "KEY": phrases.shown(found.where),
                "NOTE": f"cannot be read: {phrases.shown(found.problem)}{remedy}",
            }
        began = found.claimed if found.ended is None else found.ended.at
        if listed.state is ClaimState.HELD and self._is_ours(found):
            row["STATE"] = "yours"
        return row | {
            "NAMESPACE": phrases.shown(found.scoped.namespace),
            "KEY": phrases.shown(found.scoped.base.key),
            "SINCE": _local_time(began, now),
            "AGE": _span(-expiry.remaining(began, now)),
            "LEFT": _span(left) if (left := expiry.remaining(found.expires, now)) > timedelta(0) else "",
            "GEN": str(found.generation or ""),
            "HOLDER": _holder(found),
            "PID": str(found.holder.pid) if lives_in_process(found) else "",
            "WHERE": self._where(found.holder.directory, branch),
            "NOTE": phrases.shown(found.note or ""),
        }

    def _where(self, directory: str | None, branch: str | None) -> str:
        if directory is None:
            return ""
        # On a terminal the end, in which two working directories differ as a rule.
        place = directory if self._width is None else os.path.basename(directory) or directory
        return phrases.shown(f"{place} ({branch})" if branch else place)


def _tell_apart(claims: Sequence[ListedClaim], rows: Sequence[dict[str, str]]) -> None:
    """Put a part of its name before each holder that looks like another one, as two clients of a server over HTTP do."""
    names = [listed.found.holder.name if isinstance(listed.found, Claim) else "" for listed in claims]
    looks = [(row["HOLDER"], row["PID"], row["WHERE"]) for row in rows]
    alike = Counter(look for look, _ in set(zip(looks, names, strict=True)))
    for row, look, name in zip(rows, looks, names, strict=True):
        if alike[look] > 1:
            row["HOLDER"] = f"{name.rpartition(':')[2][:_SHOWN_OF_NAME]} {row['HOLDER']}"


def headline(claims: Sequence[ListedClaim], *, more: bool) -> str:
    """Return how many *claims* there are in each state; with *more*, these are only the first."""
    counts = Counter(listed.state.value for listed in claims)
    states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    what = f"{'the first ' if more else ''}{len(claims):,} {'claim' if len(claims) == 1 else 'claims'}"
    return f"{what}: {states}" if states else "no claims"


def _holder(claim: Claim) -> str:
    """Return what tells the holder from others first, since the end may be cut."""
    if isinstance(claim.holder, OriginalHolder):
        return "agent-awareness"
    if (person := phrases.person(claim.holder.name)) is not None:
        return person
    _, _, session = claim.holder.name.partition(":session:")
    known = [part for part in (claim.holder.label, session, claim.holder.client) if part]
    return phrases.shown(", ".join(known) if known else claim.holder.name)


def _local_time(moment: Moment, now: Moment) -> str:
    then, today = (each.wall.astimezone() for each in (moment, now))
    return f"{then:%H:%M}" if then.date() == today.date() else f"{then:%b %d}"


def _span(time: timedelta) -> str:
    seconds = max(0, round(time.total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3_600:
        return f"{seconds // 60}m"
    return f"{seconds // 3_600}h{seconds % 3_600 // 60:02}m" if seconds < 172_800 else f"{seconds // 86_400}d"
