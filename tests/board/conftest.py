"""One browser for the tests of a module; each looks at a board of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from mcp_claims import FileStore, open_session
from mcp_claims.session.session import Session
from tests.support.boards import RunningBoard, chromium, running_board


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window.

    No longer than a module: while it is there an event loop runs in this thread, and tests of other modules need their own.
    """
    with chromium() as started:
        yield started


@pytest.fixture
def board(claims_dir: Path) -> Iterator[RunningBoard]:
    """A board of the claims in `claims_dir`."""
    with running_board(claims_dir) as started:
        yield started


@pytest.fixture
def store(claims_dir: Path) -> FileStore:
    return FileStore(claims_dir)


@pytest.fixture
def session(store: FileStore) -> Iterator[Session]:
    """A session with all that tells people which one it is."""
    with open_session(store) as opened:
        opened.describe_client("claude-code 2.1")
        opened.describe(label="web fixer", directory="~/src/web")
        yield opened
