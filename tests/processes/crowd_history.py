"""What the logs of `crowds.py` prove, found out without any of the code under test.

As in `history.py`, each period is time in which its holder acted and had been told that it holds the keys.  Two that share a
moment, and that may not, are proof.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SLOTS = 3
OVERTAKEN = 1_000_000_000
"""Nanoseconds for which a caller without a ticket may overtake one."""

_ALL = frozenset(f"{directory}/{name}" for directory in ("a", "b") for name in ("x.py", "y.py", "z.md"))
FILES: dict[str, frozenset[str]] = {
    "": _ALL,
    "a/": frozenset(each for each in _ALL if each.startswith("a/")),
    "b/": frozenset(each for each in _ALL if each.startswith("b/")),
    "a/*.py": frozenset({"a/x.py", "a/y.py"}),
    "b/?.py": frozenset({"b/x.py", "b/y.py"}),
    "**/*.md": frozenset({"a/z.md", "b/z.md"}),
    "*/x.py": frozenset({"a/x.py", "b/x.py"}),
    **{each: frozenset({each}) for each in sorted(_ALL)},
}
"""Keys of files below one directory, and which of six files each is for."""


class Period(NamedTuple):
    """Time in which *holder* acted on *keys*, for which it *asked* before."""

    holder: str
    keys: tuple[str, ...]
    shared: bool
    slot: int | None
    asked: int
    start: int
    end: int


class Wait(NamedTuple):
    """A wait from the moment at which it had its ticket to its grant, of which `period` was what it held then."""

    joined: int
    period: Period


@dataclass
class History:
    periods: list[Period] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    generations: list[tuple[str, int]] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)


def read(logs: Iterable[Path]) -> History:
    history = History()
    for log in logs:
        joined = None
        # A process that is killed while it writes may leave half a line.
        for line in log.read_text().rpartition("\n")[0].splitlines():
            output = json.loads(line)
            history.events[output["event"]] += 1
            match output["event"]:
                case "joined":
                    joined = output["at"]
                case "enter":
                    period = Period(
                        output["holder"],
                        tuple(output["keys"]),
                        output["shared"],
                        output["slot"],
                        output["asked"],
                        output["at"],
                        output["at"],
                    )
                    history.periods.append(period)
                    history.generations += [(key, generation) for key, generation in output["generations"]]
                    if joined is not None:
                        history.waits.append(Wait(joined, period))
                        joined = None
                case "stay":
                    history.periods[-1] = history.periods[-1]._replace(end=output["at"])
                case "lost":
                    history.lost.append(line)
    return history


def files_of(period: Period) -> frozenset[str]:
    """Return the files that *period* was about; what is none counts as one."""
    return frozenset[str]().union(*(FILES.get(key, frozenset({key})) for key in period.keys))


def beside(history: History) -> Iterator[tuple[Period, Period]]:
    """Yield each two periods of different holders that share a moment."""
    going_on: list[Period] = []
    for period in sorted(history.periods, key=lambda period: period.start):
        going_on = [each for each in going_on if each.end >= period.start]
        yield from ((each, period) for each in going_on if each.holder != period.holder)
        going_on.append(period)


def overlaps(history: History) -> list[tuple[Period, Period]]:
    """Return pairs of different holders who acted on one file at one moment, not both sharing it."""
    return [(one, other) for one, other in beside(history) if _exclude(one, other)]


def _exclude(one: Period, other: Period) -> bool:
    if one.slot is not None and other.slot is not None:
        return one.slot == other.slot
    return not (one.shared and other.shared) and not files_of(one).isdisjoint(files_of(other))


def most_at_once(history: History) -> int:
    """Return how many periods, each of another holder, shared one moment."""
    ends = [(period.start, 1) for period in history.periods] + [(period.end, -1) for period in history.periods]
    most = now = 0
    # At one moment an end comes first: the clock may not have gone on between a release and the next grant.
    for _, change in sorted(ends):
        now += change
        most = max(most, now)
    return most


def repeated_generations(history: History) -> list[tuple[str, int]]:
    """Return keys that were granted twice under one generation."""
    return [granted for granted, times in Counter(history.generations).items() if times > 1]


def joins_before(history: History, wait: Wait) -> list[Period]:
    """Return what was granted while *wait* had its ticket, to those who share what it is for."""
    return [
        each
        for each in history.periods
        if each.shared and wait.joined < each.start < wait.period.start and _meets(each, wait.period)
    ]


def overtaken(history: History) -> list[tuple[Wait, Period]]:
    """Return each wait with what was granted before it to one who came more than a second after its ticket."""
    return [
        (wait, each)
        for wait in history.waits
        for each in joins_before(history, wait)
        if each.asked > wait.joined + OVERTAKEN
    ]


def _meets(shared: Period, waited_for: Period) -> bool:
    return any(key in waited_for.keys or f"{key.rpartition('/')[0]}/" in waited_for.keys for key in shared.keys)
