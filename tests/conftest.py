"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

# These hold assertions but are no test modules; said before anything imports them.
pytest.register_assert_rewrite("tests.stores.contract", "tests.stores.samples", "tests.stores.agent_awareness.samples")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def claims_dir(tmp_path: Path) -> Path:
    """A claims directory that does not exist yet."""
    return tmp_path / "claims"
