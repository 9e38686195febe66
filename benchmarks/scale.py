"""100,000 claims in 100 namespaces: one key, `prune` and `list_claims` beside a few claims and the bare reading."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median

from benchmarks.bare import Bare
from benchmarks.measure import Bar, Effort, Figure, beside, in_unit, interleaved
from mcp_claims import Claim, FileStore, Moment, ScopedKey, Session, process_session
from mcp_claims.cli.serve import SWITCH_EVERY
from mcp_claims.model.codec import to_json
from mcp_claims.stores.files.filenames import file_name

_NAMESPACES = 100
_CLAIMS = 100_000
_DEAD = 10_000
_FEW = 10
_PRUNE = "import sys; from mcp_claims import *; process_session(FileStore(sys.argv[1])).prune()"


def measure(effort: Effort) -> Iterator[Figure]:
    """Fill a directory with claims, and another with few; then claim, release, list and prune in both."""
    namespaces, claims = effort.of(_NAMESPACES), effort.of(_CLAIMS, 50)
    with tempfile.TemporaryDirectory() as name:
        many, few, dead = (Path(name, kind) for kind in ("many", "few", "dead"))
        holder = process_session(FileStore(many))
        fill(many, holder, namespaces, claims)
        fill(few, process_session(FileStore(few)), 1, _FEW)
        yield from _one_key(many, few, effort)
        yield from _listing(many, claims, effort)
        yield from _pruning(many, namespaces, claims, effort)
        yield from _blocking(dead, effort)


def fill(directory: Path, holder: Session, namespaces: int, claims: int, *, age: timedelta = timedelta(0)) -> None:
    """Write *claims* claims of *holder* in *namespaces* namespaces, as if each were *age* old."""
    each = claims // namespaces
    for space in range(namespaces):
        granted = holder.try_claim("key-0", f"space-{space}").found
        assert isinstance(granted, Claim)
        granted = granted._replace(claimed=_earlier(granted.claimed, age), expires=_earlier(granted.expires, age))
        folder = directory / file_name(f"space-{space}")
        for number in range(each):
            key = f"key-{number}"
            record = to_json(granted._replace(scoped=ScopedKey(f"space-{space}", key)))
            (folder / f"{file_name(key)}.json").write_bytes(record)


def _earlier(moment: Moment, age: timedelta) -> Moment:
    # A machine that has just booted has no such time; then it is the time of its boot.
    return moment._replace(wall=moment.wall - age, ticks=max(0.0, moment.ticks - age.total_seconds()))


def _one_key(many: Path, few: Path, effort: Effort) -> Iterator[Figure]:
    crowded, lonely = (process_session(FileStore(directory)) for directory in (many, few))
    # Each after the same call of the other side: what follows its like is faster, as the processor has it at hand.
    sides: tuple[Callable[[], object], ...] = (
        lambda: crowded.try_claim("red", "space-0"),
        lambda: crowded.release("red", "space-0"),
        lambda: lonely.try_claim("red", "space-0"),
        lambda: lonely.release("red", "space-0"),
    )
    interleaved(effort.of(100), *sides)
    took = interleaved(effort.of(5_000), *sides)
    yield beside("scale", "try_claim among all", "µs", took[0], took[2], f"among {_FEW} claims", Bar(1.1))
    yield beside("scale", "release among all", "µs", took[1], took[3], f"among {_FEW} claims", Bar(1.1))
    # The file system's share; nobody claims in these namespaces any more, whose marks are overwritten by this.
    record = Path(many, "space-0", "key-1.json").read_bytes()
    full, empty = Bare(many / "space-0", record), Bare(few / "space-0", record)
    bare_sides: tuple[Callable[[], object], ...] = (
        lambda: full.try_once("red"),
        lambda: full.release("red"),
        lambda: empty.try_once("red"),
        lambda: empty.release("red"),
    )
    interleaved(effort.of(100), *bare_sides)
    took = interleaved(effort.of(5_000), *bare_sides)
    floor_is = f"the same among {_FEW} claims"
    yield beside("scale", "the bare calls of try_claim among all", "µs", took[0], took[2], floor_is, None)
    yield beside("scale", "the bare calls of release among all", "µs", took[1], took[3], floor_is, None)


def _listing(many: Path, claims: int, effort: Effort) -> Iterator[Figure]:
    read_only = process_session(FileStore(many))
    middle = read_only.listing("space-0").after or ""

    def read_page() -> None:
        _read_some(many / "space-0", 50)

    sides: tuple[Callable[[], object], ...] = (
        read_only.listing,
        lambda: read_only.listing("space-0"),
        lambda: read_only.listing(after=middle),
        read_page,
    )
    all_of_it, one, later, floor = interleaved(effort.of(40), *sides)
    floor_is = "scandir, read and parse 50 files"
    bar = Bar(20, "value")
    yield beside("scale", f"first page of {claims:,} claims", "ms", all_of_it, floor, floor_is, bar)
    yield beside("scale", "first page of one namespace", "ms", one, floor, floor_is, bar)
    yield beside("scale", "second page", "ms", later, floor, floor_is, None)


def _pruning(many: Path, namespaces: int, claims: int, effort: Effort) -> Iterator[Figure]:
    cleaner = process_session(FileStore(many))

    def read_all() -> None:
        for space in range(namespaces):
            _read_some(many / f"space-{space}", claims)

    pruned, floor = interleaved(effort.of(5), cleaner.prune, read_all)
    yield beside("scale", f"prune of {claims:,} live claims", "s", pruned, floor, "scandir, read and parse all", Bar(2))


def _read_some(directory: Path, count: int) -> None:
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(".json"))
    for name in names[:count]:
        fd = os.open(f"{directory}/{name}", os.O_RDONLY)
        os.fstat(fd)
        json.loads(os.read(fd, 1 << 16))
        os.close(fd)


def _blocking(dead: Path, effort: Effort) -> Iterator[Figure]:
    """Let a prune remove expired claims while others claim beside it, from a process or a thread of its own."""

    def in_a_process() -> None:
        subprocess.run([sys.executable, "-c", _PRUNE, dead], check=True)

    def in_a_thread() -> None:
        process_session(FileStore(dead)).prune("space-0")

    sys.setswitchinterval(SWITCH_EVERY)  # As in the server, whose `prune` runs in a thread.
    for where, prune in (("another process", in_a_process), ("a thread", in_a_thread)):
        for space, limit in (("another", 5), ("the same", 20)):
            worst, quiet = _worst_waits(dead, prune, "elsewhere" if space == "another" else "space-0", effort)
            yield Figure(
                "scale",
                f"longest try_claim in {space} namespace while {where} prunes",
                "ms",
                in_unit("ms", worst),
                in_unit("ms", quiet),
                "nobody prunes, as long",
                Bar(limit, "value"),
            )


def _worst_waits(dead: Path, prune: Callable[[], None], space: str, effort: Effort) -> tuple[float, float]:
    """Return the medians, of some prunes, of the longest try meanwhile and of the longest in as much time without."""
    worst: list[float] = []
    quiet: list[float] = []
    claims = process_session(FileStore(dead))
    for _ in range(effort.of(3)):
        with process_session(FileStore(dead)) as holder:
            fill(dead, holder, 1, effort.of(_DEAD, 50), age=timedelta(days=1))
            pruning = threading.Thread(target=prune)
            began = time.perf_counter()
            pruning.start()
            worst.append(_longest_try(claims, space, pruning.is_alive))
            pruning.join()
            quiet.append(_longest_try(claims, space, _until(2 * time.perf_counter() - began)))
    return median(worst), median(quiet)


def _until(end: float) -> Callable[[], bool]:
    return lambda: time.perf_counter() < end


def _longest_try(claims: Session, space: str, going: Callable[[], bool]) -> float:
    longest = 0.0
    while going():
        began = time.perf_counter()
        claims.try_claim("red", space)
        longest = max(longest, time.perf_counter() - began)
        claims.release("red", space)
    return longest
