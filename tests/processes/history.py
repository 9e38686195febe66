"""What the logs of `contenders.py` prove, found out without any of the code under test.

Each period is time in which its holder acted and had, by its own clock, the right to.  Two periods of one key by
different holders that share a moment are two holders at once: that is proof.  The absence of such a pair is not
proof of the opposite, since holders log only moments at which they read the clock; how much the absence is
worth shows in how many tries of different processes went on at the same time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar


class Period(NamedTuple):
    key: str
    holder: str
    generation: int
    start: int
    end: int


class Try(NamedTuple):
    key: str
    holder: str
    asked: int
    done: int
    status: str
    generation: int | None
    why: str | None


_Thing = TypeVar("_Thing", Period, Try)


@dataclass
class History:
    tries: list[Try] = field(default_factory=list)
    periods: list[Period] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    busy: int = 0


def read(logs: Iterable[Path]) -> History:
    history = History()
    for log in logs:
        generations: dict[str, int] = {}
        # A process that is killed while it writes may leave half a line, where that goes on in another page.
        for line in log.read_text().rpartition("\n")[0].splitlines():
            output = json.loads(line)
            key, holder = output["key"], output["holder"]
            match output["event"]:
                case "tried":
                    generations[key] = output["generation"]
                    history.tries.append(
                        Try(
                            key,
                            holder,
                            output["asked"],
                            output["done"],
                            output["status"],
                            output["generation"],
                            output["why"],
                        )
                    )
                case "enter":
                    history.periods.append(Period(key, holder, generations[key], output["at"], output["at"]))
                case "lost":
                    history.lost.append(line)
                case "busy":
                    history.busy += 1
                case "stay":
                    history.periods[-1] = history.periods[-1]._replace(end=output["at"])
    return history


def overlaps(history: History) -> list[tuple[Period, Period]]:
    """Return pairs of different holders who acted on one key at one moment."""
    pairs = []
    for periods in _by_key(history.periods).values():
        longest: Period | None = None
        for period in sorted(periods, key=lambda period: period.start):
            if longest and period.start <= longest.end and period.holder != longest.holder:
                pairs.append((longest, period))
            if longest is None or period.end >= longest.end:
                longest = period
    return pairs


def repeated_generations(history: History) -> list[Try]:
    """Return grants whose key had been granted under the same generation before."""
    granted: set[tuple[str, int | None]] = set()
    repeated = []
    for tried in history.tries:
        if tried.status == "acquired":
            if (tried.key, tried.generation) in granted:
                repeated.append(tried)
            granted.add((tried.key, tried.generation))
    return repeated


def generations_going_back(history: History) -> list[tuple[Period, Period]]:
    """Return neighbours in time of which the later has the lower generation, or another's."""
    return [
        (earlier, later)
        for periods in _by_key(history.periods).values()
        for earlier, later in pairwise(sorted(periods, key=lambda period: period.start))
        if later.generation < earlier.generation
        or (later.generation == earlier.generation and later.holder != earlier.holder)
    ]


def contested(history: History) -> int:
    """Count tries that began while one of another process for the same key was under way."""
    count = 0
    for tries in _by_key(history.tries).values():
        last: Try | None = None
        for tried in sorted(tries, key=lambda tried: tried.asked):
            count += last is not None and tried.asked <= last.done and tried.holder != last.holder
            if last is None or tried.done >= last.done:
                last = tried
    return count


def hand_overs(history: History) -> int:
    """Count neighbours in time that are periods of different holders."""
    return sum(
        earlier.holder != later.holder
        for periods in _by_key(history.periods).values()
        for earlier, later in pairwise(sorted(periods, key=lambda period: period.start))
    )


def _by_key(things: Iterable[_Thing]) -> dict[str, list[_Thing]]:
    sorted_out: dict[str, list[_Thing]] = defaultdict(list)
    for thing in things:
        sorted_out[thing.key].append(thing)
    return sorted_out
