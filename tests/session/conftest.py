"""Every test of the policy runs on every store of one machine; `test_state_machine` and `tests/stores/etcd` run on etcd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from mcp_claims.model.records import Claim, Unreadable
from tests.session.bench import Bench, EtcdBench, FileBench, LayoutBench, MemoryBench


@pytest.fixture(params=["memory", "files", "agent-awareness"])
def new_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Bench]:
    """Make a bench with nothing on it."""
    numbers = count()

    def make() -> Bench:
        directory = tmp_path / f"claims {next(numbers)}"
        match request.param:
            case "memory":
                return MemoryBench()
            case "files":
                return FileBench(directory)
            case _:
                return LayoutBench(directory)

    return make


@pytest.fixture
def bench(new_bench: Callable[[], Bench]) -> Bench:
    return new_bench()


@pytest.fixture(params=["memory", "files", "etcd"])
def bench_of_several(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Return a bench whose store takes several keys at once; in the end each claim in a place is one that its head lists."""
    match request.param:
        case "memory":
            made: Bench = MemoryBench()
        case "files":
            made = FileBench(tmp_path / "claims")
        case _:
            made = EtcdBench()
    yield made
    for found in made.store.scan():
        if isinstance(found, Claim) and found.scoped.member and found.ended is None:
            above = made.store.read(found.scoped.base)
            assert isinstance(above, Unreadable) or (isinstance(above, Claim) and found.scoped in above.places)


@pytest.fixture(params=["memory", "files"])
def queues(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Return a bench whose store lets a test take tickets and wake nobody."""
    return MemoryBench() if request.param == "memory" else FileBench(tmp_path / "claims")
