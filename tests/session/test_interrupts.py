"""`KeyboardInterrupt`, or what a signal handler raises, at any line: an ended session holds no key and no lock.

MCP_CLAIMS_LONG=1 interrupts at every line of every operation.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

import mcp_claims
from mcp_claims.errors import NotClaimedError
from mcp_claims.model.records import Claim
from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.base import deadline_in
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.support.interrupts import Interrupt, InterruptAtLine, no_lock_is_held

if sys.platform == "win32":
    pytest.skip("opens lock files as POSIX does", allow_module_level=True)

# An exception in `__del__` is reported and goes no further.
pytestmark = [
    pytest.mark.rule("C8"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEY = "red"
MIN_LINES = 50  # Fewer would mean that the lines are not traced.
SLOW = ("claim for a block", "wait")
EACH = 1 if "MCP_CLAIMS_LONG" in os.environ else 3  # of the lines of these, by day


class Unsynced(FileSystem):
    """No power is cut in these tests, and each first grant syncs three times."""

    def sync(self, fd: int) -> None:
        """Do nothing."""

    def sync_directory(self, path: str) -> None:
        """Do nothing."""


def hold(session: Session) -> None:
    assert session.try_claim(KEY).claimed


def held_by_another(session: Session) -> None:
    hold(process_session(session._store))


def nothing(session: Session) -> None:
    """Nothing is stored."""


def wait_in_vain(session: Session) -> None:
    with pytest.raises(NotClaimedError), session.claim(KEY, wait=0.02):
        pytest.fail("another session holds the key")


def claim_for_a_block(session: Session) -> None:
    with session.claim(KEY, wait=0.02):
        pass


class Operation(NamedTuple):
    """A use of a session: what happens before it, and what it does."""

    prepare: Callable[[Session], None]
    run: Callable[[Session], object]


OPERATIONS = {
    "try": Operation(nothing, lambda session: session.try_claim(KEY)),
    "renew": Operation(hold, lambda session: session.try_claim(KEY)),
    "inspect": Operation(hold, lambda session: session.inspect(KEY)),
    "release": Operation(hold, lambda session: session.release(KEY)),
    "release as done": Operation(hold, lambda session: session.release(KEY, outcome="done")),
    "claim for a block": Operation(nothing, claim_for_a_block),
    "wait": Operation(held_by_another, wait_in_vain),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupt_at_any_line_leaves_no_key_with_an_ended_session_and_no_lock(tmp_path: Path, name: str) -> None:
    operation = OPERATIONS[name]
    for at in count(1, EACH if name in SLOW else 1):
        store = FileStore(tmp_path / str(at), fs=Unsynced())
        session = process_session(store)
        operation.prepare(session)
        line = InterruptAtLine(at, mcp_claims)
        try:
            with line:
                operation.run(session)
        except Interrupt:
            assert no_lock_is_held(store.directory), f"interrupted in {line.interrupted}"
        assert deadline_in(60) - time.monotonic() > 30, (
            f"later calls have no time left; interrupted in {line.interrupted}"
        )
        session.close()
        held = [found for found in store.scan() if isinstance(found, Claim) and found.ended is None]
        assert session.holder not in [claim.holder for claim in held], f"interrupted in {line.interrupted}"
        if line.interrupted is None:
            assert at > MIN_LINES
            break
