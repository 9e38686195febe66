"""Every test of the policy runs on every store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.session.bench import Bench, FileBench, LayoutBench, MemoryBench


@pytest.fixture(params=["memory", "files", "agent-awareness"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    match request.param:
        case "memory":
            return MemoryBench()
        case "files":
            return FileBench(tmp_path / "claims")
        case _:
            return LayoutBench(tmp_path / "claims")
