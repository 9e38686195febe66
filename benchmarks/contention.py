"""Grants a second as more and more processes claim in one namespace, each a key of its own."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from benchmarks.measure import Bar, Effort, Figure, in_unit, p99
from benchmarks.system_calls import BareClaims
from mcp_claims import ClaimsError, FileStore, open_session
from mcp_claims.session.results import Status

_PROCESSES = (1, 2, 4, 8, 16, 32)
_OURS, _BARE = "ours", "bare"
_SLICE = 1.0  # s
_SLICES = 5
_FLOOR_IS = "the bare system calls"


@dataclass(frozen=True)
class _Task:
    """Claim and release on *side* from *begin* to *end* of the monotonic clock."""

    side: str
    begin: float
    end: float


@dataclass(frozen=True)
class _Report:
    """The seconds of each grant, and how many tries were not granted, or failed."""

    grants: array[float]
    failed: int


def measure(effort: Effort) -> Iterator[Figure]:
    """Let 1 to 32 processes claim and release, ours and the bare system calls alternately."""
    for processes in sorted({effort.of(count, 1) for count in _PROCESSES}):
        with tempfile.TemporaryDirectory() as directory, _start(processes, Path(directory)) as workers:
            yield from _compare(workers, effort)


def _compare(workers: list[Connection], effort: Effort) -> Iterator[Figure]:
    seconds = max(0.05, min(_SLICE, _SLICE * effort.share * 5))
    rates: dict[str, list[float]] = {_OURS: [], _BARE: []}
    slowest: dict[str, list[float]] = {_OURS: [], _BARE: []}
    failed = 0
    for _ in range(effort.of(_SLICES)):
        for side in (_OURS, _BARE):
            begin = time.monotonic() + 0.05
            for worker in workers:
                worker.send(_Task(side, begin, begin + seconds))
            reports: list[_Report] = [worker.recv() for worker in workers]
            grants = [took for report in reports for took in report.grants]
            rates[side].append(len(grants) / seconds)
            slowest[side].append(p99(grants))
            failed += sum(report.failed for report in reports)
    what = f"{len(workers)} process{'es' if len(workers) > 1 else ''}"
    yield Figure("contention", f"{what}: grants", "/s", median(rates[_OURS]), median(rates[_BARE]), _FLOOR_IS)
    yield Figure(
        "contention",
        f"{what}: one grant, p99",
        "ms",
        in_unit("ms", median(slowest[_OURS])),
        in_unit("ms", median(slowest[_BARE])),
        _FLOOR_IS,
    )
    if failed:
        yield Figure("contention", f"{what}: tries without a grant", "", failed, bar=Bar(0, "value"))


@contextmanager
def _start(count: int, directory: Path) -> Iterator[list[Connection]]:
    """Start *count* processes; yields a pipe to each, which takes a `_Task` and returns a `_Report`."""
    (directory / _BARE).mkdir()
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    processes = [context.Process(target=_work, args=(there, directory)) for _, there in pipes]
    for process in processes:
        process.start()
    workers = [here for here, _ in pipes]
    try:
        for worker in workers:
            worker.recv()  # Its imports are done.
        yield workers
    finally:
        for worker in workers:
            worker.send(None)
        for process in processes:
            process.join()


def _work(pipe: Connection, directory: Path) -> None:
    session = open_session(FileStore(directory / _OURS))
    key = session.holder.name
    session.try_claim(key)
    (record, *_) = (path.read_bytes() for path in (directory / _OURS / "default").glob("*.json"))
    session.release(key)
    bare = BareClaims(directory / _BARE, record)
    sides: dict[str, tuple[Callable[[str], bool], Callable[[str], object]]] = {
        _OURS: (lambda key: session.try_claim(key).status is Status.ACQUIRED, session.release),
        _BARE: (bare.claim, bare.release),
    }
    pipe.send(None)
    while (task := pipe.recv()) is not None:
        pipe.send(_claim_and_release(task, key, *sides[task.side]))


def _claim_and_release(
    task: _Task, key: str, claim: Callable[[str], bool], release: Callable[[str], object]
) -> _Report:
    """Count grants alone: a refusal takes no lock, and a renewal no generation."""
    grants: array[float] = array("d")
    failed = 0
    time.sleep(max(0.0, task.begin - time.monotonic()))
    while not grants or time.monotonic() < task.end:
        began = time.perf_counter()
        try:
            granted = claim(key)
            took = time.perf_counter() - began
            release(key)
        except ClaimsError:
            failed += 1
            continue
        if granted:
            grants.append(took)
        else:
            failed += 1
    return _Report(grants, failed)
