"""One namespace with more and more claims: what one grant, a listing in pages, and a prune cost."""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.http import HttpClient, connected, http_server
from benchmarks.measure import Bar, Effort, Figure, in_unit, interleaved, medians, p99
from benchmarks.servers import OURS, tool_call
from mcp_claims import Claim, FileStore, Session, open_session
from mcp_claims.model.codec import to_json

_SIZES = (10, 100, 10_000, 100_000)
_LARGEST = 1_000_000  # Only in a full run: it takes minutes and 4 GB.
_PRUNED = 10_000  # the largest namespace that is pruned
_BARS_AT = 100_000
_PAGE = 50
_EXPIRED = 5_000
_SLICE = 2.0  # s


def measure(effort: Effort) -> Iterator[Figure]:
    """Fill one namespace in each of several directories; then claim, list and prune in all of them alternately."""
    sizes = (*_SIZES, _LARGEST) if effort.share >= 1 else _SIZES
    with tempfile.TemporaryDirectory() as name:
        directories = {size: Path(name, str(size)) for size in sorted({effort.of(size, 10) for size in sizes})}
        for size, directory in directories.items():
            fill(directory, open_session(FileStore(directory)), size)
        yield from _one_grant(directories, effort)
        for size, directory in list(directories.items())[1:]:
            yield from _pages(size, directory, effort)
            if size <= _PRUNED:
                yield _prune(size, directory, effort)
        listed = effort.of(_BARS_AT, 10)
        yield asyncio.run(_calls_during_a_walk(listed, directories[listed], effort))
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
    record = to_json(granted._replace(claimed=claimed, expires=expires))
    for number in range(claims):
        written = record.replace(b'"key-0"', b'"key-%d"' % number)
        (directory / "default" / f"key-{number}.json").write_bytes(written)


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


def _pages(size: int, directory: Path, effort: Effort) -> Iterator[Figure]:
    """List one namespace, page by page."""
    session, claims = open_session(FileStore(directory)), directory / "default"
    of_claims = f"of {size:,} claims"
    first, listed = interleaved(effort.of(9), session.list_claims, partial(os.listdir, claims))
    bar = Bar(1.8) if size == _BARS_AT else None
    yield medians("scale", f"first page {of_claims}", "ms", first, listed, "list the directory", bar)
    later: list[float] = []
    walks: list[float] = []
    bare_walks: list[float] = []
    for _ in range(effort.of(3, 1) if size < _LARGEST else 1):
        pages = _walk(session)
        later += pages[1:]
        walks.append(sum(pages))
        (bare_walk,) = interleaved(1, partial(_read_records, claims))
        bare_walks += bare_walk
    bare_page = median(bare_walks) * min(1.0, _PAGE / size)
    what, floor_is = f"a later page {of_claims}", f"read and parse {_PAGE} files"
    bar = Bar(5, "value") if size == _BARS_AT else None
    if later:
        yield Figure("scale", what, "ms", in_unit("ms", median(later)), in_unit("ms", bare_page), floor_is, bar)
    bar = Bar(3) if size == _BARS_AT else None
    yield medians("scale", f"all pages {of_claims}", "s", walks, bare_walks, "read and parse all files", bar)


def _walk(session: Session) -> list[float]:
    """List everything; return the seconds of each page."""
    took: list[float] = []
    after: str | None = ""
    while after is not None:
        began = time.perf_counter()
        after = session.list_claims(after=after).after
        took.append(time.perf_counter() - began)
    return took


def _prune(size: int, directory: Path, effort: Effort) -> Figure:
    session = open_session(FileStore(directory))
    ours, bare = interleaved(effort.of(3), session.prune, partial(_read_records, directory / "default"))
    return medians("scale", f"prune of {size:,} live claims", "ms", ours, bare, "read and parse all files")


async def _calls_during_a_walk(size: int, directory: Path, effort: Effort) -> Figure:
    """Claim and release in another namespace while another client of the same server lists page after page."""
    during: list[float] = []
    alone: list[float] = []
    seconds = max(0.2, _SLICE * effort.share)
    with http_server(*OURS, str(directory), "--http", "--port", "0") as address:
        async with connected(address, 2) as (walker, caller):
            for _ in range(effort.of(5)):
                alone += await _calls(caller, seconds)
                calls = asyncio.create_task(_calls(caller, seconds))
                await _walk_until(walker, calls)
                during += await calls
    bar = Bar(6) if size == _BARS_AT else None
    what = f"try_claim or release while another client lists {size:,} claims, p99"
    return Figure("scale", what, "ms", in_unit("ms", p99(during)), in_unit("ms", p99(alone)), "nobody lists", bar)


async def _calls(client: HttpClient, seconds: float) -> list[float]:
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for tool in ("try_claim", "release"):
            began = time.perf_counter()
            await client.post(tool_call(tool, {"key": "red", "namespace": "another"}, 1))
            took.append(time.perf_counter() - began)
    return took


async def _walk_until(client: HttpClient, calls: asyncio.Task[list[float]]) -> None:
    arguments: dict[str, str] = {}
    while not calls.done():
        _, body = await client.post(tool_call("list_claims", arguments, 1))
        cursor = re.search(rb'"cursor":"([^"]+)"', body)
        arguments = {"cursor": cursor[1].decode()} if cursor else {}


def _read_records(directory: Path) -> None:
    for name in sorted(name for name in os.listdir(directory) if name.endswith(".json")):
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
