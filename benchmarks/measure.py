"""How to measure: sides in alternation, medians, and figures beside their floors and bars."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Literal


@dataclass(frozen=True)
class Effort:
    """How much to measure: a *share* of 1 is everything, 0.1 a tenth of the rounds, claims and clients."""

    share: float = 1.0

    def of(self, full: int, least: int = 2) -> int:
        """Return the share of *full*, at least *least*, at most *full*."""
        return min(full, max(least, round(full * self.share)))


@dataclass(frozen=True)
class Bar:
    """The highest value, or ratio to the floor, at which a figure is good enough; the lowest if *more* is better."""

    limit: float
    of: Literal["ratio", "value"] = "ratio"
    more: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.more else '≤'} {self.limit:g}{'' if self.of == 'value' else ' floor'}"


@dataclass(frozen=True)
class Figure:
    """One result: *ours*, in *unit*, beside the *floor*; *floor_is* describes what the floor measures."""

    subject: str
    what: str
    unit: str
    ours: float
    floor: float | None = None
    floor_is: str = ""
    bar: Bar | None = None

    @property
    def ratio(self) -> float | None:
        """`ours` as a multiple of the floor; `None` without a floor."""
        return self.ours / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; `None` without a bar."""
        if self.bar is None:
            return None
        judged = self.ratio if self.bar.of == "ratio" else self.ours
        return judged is not None and (judged >= self.bar.limit if self.bar.more else judged <= self.bar.limit)


def interleaved(rounds: int, *sides: Callable[[], object]) -> list[list[float]]:
    """Run all *sides* alternately, *rounds* times; return the seconds of each run, one list for each side."""
    took: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, times in zip(sides, took, strict=True):
            began = time.perf_counter()
            side()
            times.append(time.perf_counter() - began)
    return took


def p99(times: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return sorted(times)[ceil(len(times) * 0.99) - 1]


def in_unit(unit: str, seconds: float) -> float:
    """Return *seconds* as a number of *unit*: s, ms or µs."""
    return seconds * {"s": 1, "ms": 1e3, "µs": 1e6}[unit]


def medians(
    subject: str,
    what: str,
    unit: str,
    ours: Sequence[float],
    floor: Sequence[float],
    floor_is: str,
    bar: Bar | None = None,
) -> Figure:
    """Return the figure of two series of seconds."""
    return Figure(subject, what, unit, in_unit(unit, median(ours)), in_unit(unit, median(floor)), floor_is, bar)
