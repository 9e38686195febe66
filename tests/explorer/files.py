"""Processes that claim files that overlap, and faults of that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mcp_claims.model.keys import PLACES
from mcp_claims.model.records import ALONE, Claim, Holder, ScopedKey, Use
from mcp_claims.session.results import Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import LOCK_TIMEOUT, Blocks, Swap
from mcp_claims.stores.files.intents import Locks
from mcp_claims.stores.files.overlaps import read_patterns
from mcp_claims.stores.files.store import FileStore
from tests.explorer.process import Process, Script
from tests.explorer.schedules import Run, Scenario

DIRECTORY, FILE, OTHER_FILE, PATTERN = (
    ScopedKey(PLACES, f"file:/explored/{path}") for path in ("src/", "src/a.py", "src/b.py", "**/*.py")
)


def works_on(scoped: ScopedKey, *more: ScopedKey) -> Script:
    """Claim each key and release all."""

    def script(process: Process) -> None:
        for each in (scoped, *more):
            process.try_claim(each)
        for each in (scoped, *more):
            process.release(scoped=each)

    return script


def keeps(scoped: ScopedKey) -> Script:
    def script(process: Process) -> None:
        process.try_claim(scoped)

    return script


def renews_late(scoped: ScopedKey) -> Script:
    def script(process: Process) -> None:
        process.try_claim(scoped)
        process.let_others_go_first()
        process.try_claim(scoped)

    return script


def renews(scoped: ScopedKey) -> Script:
    def script(process: Process) -> None:
        process.try_claim(scoped)
        process.try_claim(scoped)
        process.release(scoped=scoped)

    return script


def waits_for(scoped: ScopedKey, *, late: bool = False) -> Script:
    """Wait as an agent does, which takes its turn by a second call."""

    def script(process: Process) -> None:
        if late:
            process.let_others_go_first()
        attempt = process.wait(scoped)
        if attempt is not None and attempt.status is Status.YOUR_TURN:
            process.try_claim(scoped)
        process.release(scoped=scoped)

    return script


def warm(run: Run) -> None:
    """Let the namespace exist, so that schedules are not spent on making directories."""
    first = Process(run, 0, None)
    first.try_claim(PATTERN)
    first.release(scoped=PATTERN)
    run.processes.append(first)


FILES = [
    Scenario("one keeps a directory, one its file", (keeps(DIRECTORY), keeps(FILE)), warm),
    Scenario("one keeps a file, one a pattern", (keeps(FILE), keeps(PATTERN)), warm),
    Scenario("one renews a directory late, one keeps its file", (renews_late(DIRECTORY), keeps(FILE)), warm),
    Scenario("a directory and its file", (works_on(DIRECTORY), works_on(FILE)), warm),
    Scenario("a file and a pattern in an empty directory", (works_on(FILE), works_on(PATTERN))),
    Scenario("a directory, a pattern and a file", (works_on(PATTERN), works_on(DIRECTORY), works_on(FILE)), warm),
    Scenario(
        "two files and their directory", (works_on(FILE, OTHER_FILE), works_on(DIRECTORY), renews(OTHER_FILE)), warm
    ),
    Scenario("renewals of what overlaps", (renews(DIRECTORY), renews(FILE)), warm),
    Scenario(
        "a file and its directory wait for a pattern", (works_on(PATTERN), waits_for(FILE), waits_for(DIRECTORY)), warm
    ),
    Scenario("two files wait for their directory", (works_on(DIRECTORY), waits_for(FILE), waits_for(OTHER_FILE)), warm),
    Scenario(
        "a directory waits for two files, and one comes late",
        (works_on(FILE), waits_for(DIRECTORY), works_on(OTHER_FILE), waits_for(FILE, late=True)),
        warm,
    ),
]


class JudgesBeforeTheLock(FileStore):
    def swap(
        self,
        scoped: ScopedKey,
        old: Claim | None,
        new: Claim | None,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        blocks: Blocks | None = None,
        **options: Any,
    ) -> Swap:
        if blocks is not None and (overlap := next(filter(blocks, self.overlapping(scoped)), None)) is not None:
            return Swap(False, self.read(scoped), overlap=overlap)
        return super().swap(scoped, old, new, lock_timeout=lock_timeout, **options)


class ListsNoPatterns(FileStore):
    def _patterns(self, files: list[ScopedKey], locks: Locks) -> list[str]:
        return read_patterns(self._fs, self._directory_of(files[0])) or []


class RenewsWithoutALook(Session):
    def _blocks(self, scoped: ScopedKey, holder: Holder, use: Use = ALONE) -> Blocks | None:
        return None if self._held.get(scoped) is not None else super()._blocks(scoped, holder, use)


FILE_FAULTS: dict[str, type[Session | FileStore]] = {
    "overlap is judged before the lock": JudgesBeforeTheLock,
    "patterns are not listed": ListsNoPatterns,
    "renewal does not look at what overlaps": RenewsWithoutALook,
}


def planted(fault: str) -> Iterator[Scenario]:
    """Yield the scenarios with *fault*."""
    what = FILE_FAULTS[fault]
    for each in FILES:
        scenario = replace(each, name=f"{fault}: {each.name}", planted=True)
        if issubclass(what, FileStore):
            yield replace(scenario, make_store=lambda fs: what("/claims", fs=fs))
        else:
            yield replace(scenario, make_claims=what)
