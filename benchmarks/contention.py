"""Many processes that try the same keys, beside the bare lock-read-write sequence under the same load."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from benchmarks.bare import Bare
from benchmarks.measure import Bar, Effort, Figure, in_unit, p99
from mcp_claims import ClaimsError, FileStore, process_session

_OURS, _BARE = "ours", "bare"
_SLICE = 1.0  # s
_SLICES = 5
_BARE_IS = "bare lock, read, write"


@dataclass(frozen=True, slots=True)
class _Order:
    """What a worker does next: try *keys* keys of *side* from *begin* to *end* of the monotonic clock."""

    side: str
    keys: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class _Report:
    took: array[float]
    failed: int


def measure(effort: Effort) -> Iterator[Figure]:
    """Let 8 and 32 processes try 1 and 100 keys, ours and bare in turns, each for some seconds."""
    for size in (8, 32):
        count = effort.of(size)
        with tempfile.TemporaryDirectory() as directory, _workers(count, Path(directory)) as workers:
            for keys in (1, 100):
                yield from _compare(workers, keys, effort)


def _compare(workers: list[Connection], keys: int, effort: Effort) -> Iterator[Figure]:
    seconds = max(0.05, min(_SLICE, _SLICE * effort.share * 5))
    rates: dict[str, list[float]] = {_OURS: [], _BARE: []}
    tail: dict[str, list[float]] = {_OURS: [], _BARE: []}
    failed = 0
    for _ in range(effort.of(_SLICES)):
        for side in (_OURS, _BARE):
            reports = _slice(workers, side, keys, seconds)
            took = [one for report in reports for one in report.took]
            rates[side].append(len(took) / seconds)
            tail[side].append(p99(took))
            failed += sum(report.failed for report in reports)
    what = f"{len(workers)} processes, {keys} {'key' if keys == 1 else 'keys'}"
    ours, bare = median(rates[_OURS]), median(rates[_BARE])
    yield Figure("contention", f"{what}: tries", "/s", ours, bare, _BARE_IS, Bar(0.7, at_least=True))
    yield Figure(
        "contention",
        f"{what}: one try, p99",
        "ms",
        in_unit("ms", median(tail[_OURS])),
        in_unit("ms", median(tail[_BARE])),
        f"{_BARE_IS}, p99",
        Bar(2),
    )
    yield Figure("contention", f"{what}: tries that failed", "", failed, bar=Bar(0, "value"))


def _slice(workers: list[Connection], side: str, keys: int, seconds: float) -> list[_Report]:
    begin = time.monotonic() + 0.05
    for worker in workers:
        worker.send(_Order(side, keys, begin, begin + seconds))
    return [worker.recv() for worker in workers]


@contextmanager
def _workers(count: int, directory: Path) -> Iterator[list[Connection]]:
    """Start *count* processes that do what they are told over the pipes that this yields."""
    record = _prepare(directory)
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    processes = [context.Process(target=_work, args=(there, directory, record)) for _, there in pipes]
    for process in processes:
        process.start()
    workers = [here for here, _ in pipes]
    try:
        for worker in workers:
            worker.recv()  # It has imported what it needs.
        yield workers
    finally:
        for worker in workers:
            worker.send(None)
        for process in processes:
            process.join()


def _prepare(directory: Path) -> bytes:
    Path(directory, _BARE).mkdir()
    with process_session(FileStore(directory / _OURS)) as claims:
        claims.try_claim("a key")
        return Path(directory, _OURS, "default", "a%20key.json").read_bytes()


def _work(pipe: Connection, directory: Path, record: bytes) -> None:
    claims = process_session(FileStore(directory / _OURS))
    bare = Bare(directory / _BARE, record)
    sides: dict[str, tuple[Callable[[str], bool], Callable[[str], object]]] = {
        _OURS: (lambda key: claims.try_claim(key).claimed, claims.release),
        _BARE: (bare.try_once, bare.release),
    }
    pipe.send(None)
    while (order := pipe.recv()) is not None:
        pipe.send(_tries(order, *sides[order.side]))


def _tries(order: _Order, try_once: Callable[[str], bool], release: Callable[[str], object]) -> _Report:
    keys = [f"key-{number}" for number in range(order.keys)]
    took: array[float] = array("d")
    failed = 0
    time.sleep(max(0.0, order.begin - time.monotonic()))
    while time.monotonic() < order.end:
        key = random.choice(keys)
        began = time.perf_counter()
        try:
            claimed = try_once(key)
        except ClaimsError:
            failed += 1
            continue
        took.append(time.perf_counter() - began)
        if claimed:
            release(key)
    return _Report(took, failed)
