"""How is measured: sides in turns, medians and 99th percentiles, figures beside their floors and bars."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Literal


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: *share* 1 is all, and what takes minutes then takes seconds at 0.1."""

    share: float = 1.0

    def of(self, full: int, least: int = 2) -> int:
        """Return the share of *full* rounds, claims or clients, *least* of them at least."""
        return min(full, max(least, round(full * self.share)))


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to reach: its ratio to the floor, or its value, is to be *limit* at most (or at least)."""

    limit: float
    of: Literal["ratio", "value"] = "ratio"
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{'' if self.of == 'value' else ' floor'}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One result: *ours*, in *unit*, beside the *floor*, which is what *floor_is* says."""

    subject: str
    what: str
    unit: str
    ours: float
    floor: float | None = None
    floor_is: str = ""
    bar: Bar | None = None

    @property
    def ratio(self) -> float | None:
        """How many times the floor it is."""
        return self.ours / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; `None` where there is none."""
        if self.bar is None:
            return None
        judged = self.ratio if self.bar.of == "ratio" else self.ours
        if judged is None:
            return False
        return judged >= self.bar.limit if self.bar.at_least else judged <= self.bar.limit


def interleaved(rounds: int, *sides: Callable[[], object]) -> list[list[float]]:
    """Run all *sides* in turns, *rounds* times; return the seconds that each of them took each time."""
    took: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, times in zip(sides, took, strict=True):
            began = time.perf_counter()
            side()
            times.append(time.perf_counter() - began)
    return took


def p99(times: Sequence[float]) -> float:
    """Return the time that 99 of 100 do not exceed."""
    return sorted(times)[ceil(len(times) * 0.99) - 1]


def in_unit(unit: str, seconds: float) -> float:
    """Return *seconds* as a number of *unit*."""
    return seconds * {"s": 1, "ms": 1e3, "µs": 1e6}[unit]


def beside(
    subject: str, what: str, unit: str, ours: Sequence[float], floor: Sequence[float], floor_is: str, bar: Bar | None
) -> Figure:
    """Return the figure of two series of seconds: their medians."""
    return Figure(subject, what, unit, in_unit(unit, median(ours)), in_unit(unit, median(floor)), floor_is, bar)


def tails(
    subject: str, what: str, unit: str, ours: Sequence[float], floor: Sequence[float], floor_is: str, bar: Bar | None
) -> Figure:
    """Return the figure of two series of seconds: their 99th percentiles."""
    return Figure(
        subject, f"{what}, p99", unit, in_unit(unit, p99(ours)), in_unit(unit, p99(floor)), f"{floor_is}, p99", bar
    )
