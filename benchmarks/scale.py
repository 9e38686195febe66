"""One namespace with more and more claims: what one grant, one page of a listing, and a prune cost."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Effort, Figure, in_unit, interleaved, medians
from mcp_claims import Claim, FileStore, Session, open_session
from mcp_claims.model.codec import to_json

_SIZES = (10, 1_000, 10_000)
_PAGE = 50
_EXPIRED = 5_000


def measure(effort: Effort) -> Iterator[Figure]:
    """Fill one namespace in each of several directories; then claim, list and prune in all of them alternately."""
    with tempfile.TemporaryDirectory() as name:
        directories = {size: Path(name, str(size)) for size in sorted({effort.of(size, 10) for size in _SIZES})}
        for size, directory in directories.items():
            fill(directory, open_session(FileStore(directory)), size)
        yield from _one_grant(directories, effort)
        yield from _whole_namespace(directories, effort)
        yield from _grants_during_prune(Path(name, "expired"), effort)


def fill(directory: Path, holder: Session, claims: int, *, age: timedelta = timedelta(0)) -> None:
    """Write *claims* claims of *holder*, granted *age* ago; through the store that would take minutes."""
    granted = holder.try_claim("key-0").found
    assert isinstance(granted, Claim)
    claimed, expires = (
        # A machine that has just booted has no earlier time than its boot.
        moment._replace(wall=moment.wall - age, ticks=max(0.0, moment.ticks - age.total_seconds()))
        for moment in (granted.claimed, granted.expires)
    )
    for number in range(claims):
        scoped = granted.scoped._replace(key=f"key-{number}")
        record = to_json(granted._replace(scoped=scoped, claimed=claimed, expires=expires))
        (directory / "default" / f"key-{number}.json").write_bytes(record)


def _one_grant(directories: dict[int, Path], effort: Effort) -> Iterator[Figure]:
    sessions = [open_session(FileStore(directory)) for directory in directories.values()]
    # All grants, then all releases: a call that follows its like finds the processor's caches warm.
    sides: list[Callable[[], object]] = [partial(session.try_claim, "red") for session in sessions]
    sides += [partial(session.release, "red") for session in sessions]
    interleaved(effort.of(100), *sides)
    took = interleaved(effort.of(3_000), *sides)
    few, *more = directories
    for what, times in (("try_claim", took[: len(sessions)]), ("release", took[len(sessions) :])):
        for size, ours in zip(more, times[1:], strict=True):
            yield medians("scale", f"{what} among {size:,} claims", "µs", ours, times[0], f"among {few:,}")


def _whole_namespace(directories: dict[int, Path], effort: Effort) -> Iterator[Figure]:
    for size, directory in list(directories.items())[1:]:
        session = open_session(FileStore(directory))
        page, bare_page = interleaved(
            effort.of(20), session.list_claims, partial(_read_records, directory / "default", _PAGE)
        )
        floor_is = f"list the directory, read and parse {_PAGE} files"
        yield medians("scale", f"first page of {size:,} claims", "ms", page, bare_page, floor_is)
        prune, bare_prune = interleaved(effort.of(3), session.prune, partial(_read_records, directory / "default"))
        yield medians("scale", f"prune of {size:,} live claims", "ms", prune, bare_prune, "read and parse all files")


def _read_records(directory: Path, count: int | None = None) -> None:
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(".json"))
    for name in names[:count]:
        fd = os.open(f"{directory}/{name}", os.O_RDONLY)
        os.fstat(fd)
        json.loads(os.read(fd, 1 << 16))
        os.close(fd)


def _grants_during_prune(directory: Path, effort: Effort) -> Iterator[Figure]:
    """Measure the longest `try_claim` while another thread prunes expired claims in the same namespace."""
    during: list[float] = []
    alone: list[float] = []
    claims = effort.of(_EXPIRED, 50)
    session = open_session(FileStore(directory))
    for _ in range(effort.of(3)):
        with open_session(FileStore(directory)) as holder:
            fill(directory, holder, claims, age=timedelta(days=1))
            pruning = threading.Thread(target=open_session(FileStore(directory)).prune)
            began = time.perf_counter()
            pruning.start()
            during.append(_longest_grant(session, pruning.is_alive))
            pruning.join()
            end = 2 * time.perf_counter() - began
            alone.append(_longest_grant(session, lambda end=end: time.perf_counter() < end))  # type: ignore[misc]
    yield Figure(
        "scale",
        f"longest try_claim while a thread prunes {claims:,} expired claims",
        "ms",
        in_unit("ms", median(during)),
        in_unit("ms", median(alone)),
        "no prune, for as long",
    )


def _longest_grant(session: Session, goes_on: Callable[[], bool]) -> float:
    longest = 0.0
    while goes_on() or not longest:
        began = time.perf_counter()
        session.try_claim("red")
        longest = max(longest, time.perf_counter() - began)
        session.release("red")
    return longest
