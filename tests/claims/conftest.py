"""Every test of the policy runs on every store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.claims.bench import Bench, FileBench, MemoryBench


@pytest.fixture(params=["memory", "files"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return MemoryBench() if request.param == "memory" else FileBench(tmp_path / "claims")
