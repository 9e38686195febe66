"""What a server over HTTP counts: grants, refusals, takeovers, waits, hold times, the store's latency and errors.

It counts what its own sessions do.  What other processes do with the same claims shows in the numbers of claims by state, and
in the history.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from threading import Lock
from typing import Any, cast

from mcp_claims.errors import ClaimsError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.history import Event, Kind
from mcp_claims.model.records import Claim
from mcp_claims.session.results import ClaimResult
from mcp_claims.stores.base import Change, Store, Swap, Swaps
from mcp_claims.stores.history import events

_DEAD = ("expired", "orphaned")
_SECONDS = (0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_MINUTES = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 86_400.0)
_TIMED = ("read", "read_all", "swap", "swap_all", "discard", "tickets", "change_tickets")
_ENDS = {kind for kind in Kind if kind.ends} - {Kind.LOST}


class Histogram:
    """How many values there were up to each of *bounds*, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.sum = bounds, 0.0
        self.counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """The counters of one server; several threads may use them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.grants, self.takeovers = 0, 0
        self.refusals: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.held, self.waited = Histogram(_MINUTES), Histogram(_MINUTES)
        self.latency: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(_SECONDS))

    def count(self, made: Iterable[Event]) -> None:
        """Count what the store has changed."""
        with self._lock:
            for event in made:
                if event.kind is Kind.GRANTED:
                    self.grants += 1
                    self.takeovers += event.found in _DEAD
                elif event.kind in _ENDS and not event.turn:
                    self.ends[event.outcome or event.kind.value] += 1
                    self.held.add(event.duration_seconds or 0.0)

    def count_call(self, result: ClaimResult, waited: float | None) -> None:
        """Count a call of `try_claim` that ended with *result*, and that *waited* for so many seconds if it was to wait."""
        with self._lock:
            if not result.claimed:
                self.refusals[result.status.value] += 1
            if waited is not None:
                self.waited.add(waited)

    def time(self, operation: str, began: float, error: ClaimsError | None) -> None:
        """Count an *operation* of the store, which *began* at a time of `time.perf_counter`."""
        with self._lock:
            self.latency[operation].add(time.perf_counter() - began)
            if error is not None:
                self.errors[operation] += 1

    def text(self, states: Mapping[str, int], waiting: int) -> str:
        """Return everything in Prometheus' text format, with how many claims are in each of *states*, and who is *waiting*."""
        with self._lock:
            lines = [
                *_family("claims", "gauge", "stored claims and markers by state", _by("state", states)),
                *_family("waiting", "gauge", "sessions that wait for a key", {"": waiting}),
                *_family("grants_total", "counter", "keys granted to sessions of this server", {"": self.grants}),
                *_family("takeovers_total", "counter", "grants that replaced a dead claim", {"": self.takeovers}),
                *_family(
                    "refusals_total", "counter", "calls of try_claim that got no key", _by("status", self.refusals)
                ),
                *_family("ends_total", "counter", "claims that ended", _by("how", self.ends)),
                *_family("store_errors_total", "counter", "operations that failed", _by("operation", self.errors)),
                *_histogram("hold_seconds", "how long keys were held", {"": self.held}),
                *_histogram("wait_seconds", "how long calls waited for a holder", {"": self.waited}),
                *_histogram("store_seconds", "how long the store took", _by("operation", self.latency)),
            ]
        return "\n".join(lines) + "\n"


def _by(label: str, values: Mapping[str, Any]) -> dict[str, Any]:
    # The values are words of ours: other people's text would need escapes, and make a series for each key.
    return {f'{label}="{value}"': number for value, number in sorted(values.items())}


def _family(name: str, kind: str, about: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP mcp_claims_{name} {about[0].upper()}{about[1:]}."
    yield f"# TYPE mcp_claims_{name} {kind}"
    for labels, value in values.items():
        yield f"mcp_claims_{name}{f'{{{labels}}}' if labels else ''} {value}"


def _histogram(name: str, about: str, values: Mapping[str, Histogram]) -> Iterator[str]:
    yield from _family(name, "histogram", about, {})
    for labels, histogram in values.items():
        total, more = 0, f"{labels}," if labels else ""
        for bound, number in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            total += number
            limit = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield f'mcp_claims_{name}_bucket{{{more}le="{limit}"}} {total}'
        braces = f"{{{labels}}}" if labels else ""
        yield f"mcp_claims_{name}_sum{braces} {histogram.sum}"
        yield f"mcp_claims_{name}_count{braces} {total}"


def metered(store: Store, metrics: Metrics, machine: Machine | None = None) -> Store:
    """Return *store*, whose operations are counted."""
    return cast("Store", _Metered(store, metrics, machine or local_machine()))


class _Metered:
    """A store like the one it stands for: any attribute is that of the other, operations that take time are counted."""

    def __init__(self, store: Store, metrics: Metrics, machine: Machine) -> None:
        self._store, self._metrics, self._machine = store, metrics, machine
        for name in _TIMED:
            setattr(self, name, self._counting(name, getattr(store, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def counting(*arguments: Any, **options: Any) -> Any:
            began, error = time.perf_counter(), None
            try:
                result = call(*arguments, **options)
            except ClaimsError as problem:
                error = problem
                raise
            finally:
                self._metrics.time(name, began, error)
            if changes := _changes(arguments, result):
                now = self._machine.now()
                self._metrics.count(events.ends(changes, now, lambda _: None) + events.begins(changes, now))
            return result

        return counting


def _changes(arguments: tuple[Any, ...], result: object) -> list[Change]:
    """Return what a call of the store with *arguments* has changed."""
    if isinstance(result, Swap) and result.won:
        scoped, old, _ = arguments
        return [Change(scoped, old, cast("Claim | None", result.found))]
    if isinstance(result, Swaps) and result.won:
        made = zip(arguments[0], result.found, strict=True)
        return [change._replace(new=found) for change, found in made]
    if result is True and isinstance(arguments[0], Claim):  # Of `discard`.
        return [Change(arguments[0].scoped, arguments[0], None, found_dead=True)]
    return []
