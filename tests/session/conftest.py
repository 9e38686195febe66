"""Every test of the policy runs on every store of one machine; `test_state_machine` and `tests/stores/etcd` run on etcd."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from tests.session.bench import Bench, FileBench, LayoutBench, MemoryBench


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
