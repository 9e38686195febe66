"""Processes that claim several keys at once, and a fault of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mcp_claims.model.records import ScopedKey
from mcp_claims.session.results import Status
from mcp_claims.stores.base import LOCK_TIMEOUT, Blocks, Change, GivesWay, Swaps
from mcp_claims.stores.files.store import FileStore
from tests.explorer.process import Process, Script
from tests.explorer.schedules import Run, Scenario

A, B, C = (ScopedKey("default", key) for key in ("a", "b", "c"))
ELSEWHERE = ScopedKey("elsewhere", "d")


def works_on(*keys: ScopedKey) -> Script:
    def script(process: Process) -> None:
        process.try_claim(keys[0], also=keys[1:])
        process.release(scoped=keys[-1])

    return script


def keeps(*keys: ScopedKey) -> Script:
    def script(process: Process) -> None:
        process.try_claim(keys[0], also=keys[1:])

    return script


def renews(*keys: ScopedKey) -> Script:
    def script(process: Process) -> None:
        process.try_claim(keys[0], also=keys[1:])
        process.let_others_go_first()
        process.try_claim(keys[-1])
        process.release(scoped=keys[0])

    return script


def waits_for(*keys: ScopedKey) -> Script:
    def script(process: Process) -> None:
        attempt = process.wait(keys[0], also=keys[1:])
        if attempt is not None and attempt.status is Status.YOUR_TURN:
            process.try_claim(keys[-1])
        process.release(scoped=keys[0])

    return script


def comes_late(*keys: ScopedKey) -> Script:
    def script(process: Process) -> None:
        process.let_others_go_first()
        process.try_claim(keys[0], also=keys[1:])
        process.release(scoped=keys[0])

    return script


def warm(run: Run) -> None:
    """Let the namespaces exist, so that schedules are not spent on making directories."""
    first = Process(run, 0, None)
    for key in (A, ELSEWHERE):
        first.try_claim(key)
        first.release(scoped=key)
    run.processes.append(first)


GROUPS = [
    Scenario("two keep sets with a key in common", (keeps(A, B), keeps(B, C)), warm),
    Scenario("one keeps a set, one a key of it", (keeps(A, B), keeps(B)), warm),
    Scenario("two sets in opposite orders", (works_on(A, B), works_on(B, A)), warm),
    Scenario("two sets in two namespaces", (works_on(A, ELSEWHERE), works_on(ELSEWHERE, A)), warm),
    Scenario("three sets in a ring", (works_on(A, B), works_on(B, C), works_on(C, A)), warm),
    Scenario("a set is renewed by one key while others try", (renews(A, B, C), works_on(B, C), works_on(C)), warm),
    Scenario("a set waits, and one comes late for a part", (renews(A), waits_for(A, B), comes_late(B)), warm),
    Scenario("two sets wait", (renews(B), waits_for(A, B), waits_for(B, C)), warm),
]


class WritesOneByOne(FileStore):
    """The records of a set are written one by one, and what was lost is passed over."""

    def swap_all(
        self,
        changes: Sequence[Change],
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        gives_way: GivesWay | None = None,
        blocks: Blocks | None = None,
    ) -> Swaps:
        swaps = [self.swap(*change[:3], lock_timeout=lock_timeout, blocks=blocks) for change in changes]
        granted = [swap.found if swap.won else change.new for swap, change in zip(swaps, changes, strict=True)]
        return Swaps(any(swap.won for swap in swaps), tuple(granted))


def planted() -> Iterator[Scenario]:
    """Yield the scenarios with the fault."""
    for each in GROUPS:
        name = f"written one by one: {each.name}"
        yield replace(each, name=name, planted=True, make_store=lambda fs: WritesOneByOne("/claims", fs=fs))
