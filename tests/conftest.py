from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def claims_dir(tmp_path: Path) -> Path:
    """A claims directory that does not exist yet."""
    return tmp_path / "claims"
