"""`KeyboardInterrupt`, or what a signal handler raises, at any line of the store: no lock stays held, nothing leaks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mcp_claims.stores.files
from mcp_claims.model.records import Claim, Found, Unreadable
from mcp_claims.stores.files.filesystem import OpenFile
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.history import Limits
from tests.stores.samples import KEY, claim, grant, place, renewed
from tests.support.descriptors import open_files
from tests.support.interrupts import Interrupt, InterruptAtLine, no_lock_is_held

if sys.platform == "win32":
    pytest.skip("counts descriptors in /dev/fd", allow_module_level=True)

# An exception in `__del__` is reported and goes no further.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

MIN_LINES = 20  # Fewer would mean that the lines are not traced.


class Operation(NamedTuple):
    """A use of a store: what is stored before it, and what it does to that."""

    prepare: Callable[[FileStore], Found]
    run: Callable[[FileStore, Any], object]


def nothing(_store: FileStore) -> Found:
    return None


def a_released_claim(store: FileStore) -> Found:
    store.swap(KEY, grant(store, claim()), None)
    return None


def a_claim(store: FileStore) -> Found:
    return grant(store, claim())


def something_unreadable(store: FileStore) -> Found:
    grant(store, claim())
    place(store).write_bytes(b"{")
    return store.read(KEY)


def a_claim_and_a_rest_of_a_crash(store: FileStore) -> Found:
    Path(store.directory, f".new-{KEY.namespace}").mkdir(parents=True, mode=0o700)
    Path(store.directory).chmod(0o700)
    return grant(store, claim())


def a_secret(store: FileStore) -> Found:
    store.secret()
    return None


OPERATIONS = {
    "read": Operation(a_claim, lambda store, _: store.read(KEY)),
    "scan": Operation(a_claim, lambda store, _: list(store.scan())),
    "first claim": Operation(nothing, lambda store, _: store.swap(KEY, None, claim())),
    "claim": Operation(a_released_claim, lambda store, _: store.swap(KEY, None, claim())),
    "lost": Operation(a_claim, lambda store, _: store.swap(KEY, None, claim(session=2))),
    "renewal": Operation(a_claim, lambda store, held: store.swap(KEY, held, renewed(held))),
    "takeover": Operation(a_claim_and_a_rest_of_a_crash, lambda store, held: store.swap(KEY, held, claim(session=2))),
    "release": Operation(a_claim, lambda store, held: store.swap(KEY, held, None)),
    "discard": Operation(something_unreadable, lambda store, found: store.discard(found)),
    "first secret": Operation(a_released_claim, lambda store, _: store.secret()),
    "secret": Operation(a_secret, lambda store, _: store.secret()),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupt_at_any_line_leaves_no_lock_held_and_no_descriptor_open(tmp_path: Path, name: str) -> None:
    operation = OPERATIONS[name]
    for at in count(1):
        # The history, which keeps a file open, has a test of its own.
        prepared = FileStore(tmp_path / str(at), history=Limits(days=0))
        before = operation.prepare(prepared)
        descriptors = open_files()
        line = InterruptAtLine(at, mcp_claims.stores.files)
        store = FileStore(prepared.directory, history=Limits(days=0))
        try:
            with line:
                operation.run(store, before)
        except Interrupt:
            # Already now: who handles it, like a server that goes on or a REPL, may keep the traceback for ever.
            assert no_lock_is_held(prepared.directory), f"interrupted in {line.interrupted}"
        # Between forgetting a descriptor and closing it nothing can be done; by then it is unlocked.
        leaked = open_files() - descriptors
        assert leaked == 0 or (leaked == 1 and line.interrupted is OpenFile.close.__code__), line.interrupted
        check_that_it_goes_on(store)
        if line.interrupted is None:
            assert at > MIN_LINES
            break


def check_that_it_goes_on(store: FileStore) -> None:
    """Use the store again: what is there can be replaced, and the secret stays the same."""
    found = store.read(KEY)
    if isinstance(found, Unreadable):
        assert store.discard(found, lock_timeout=0)
        found = None
    taken = grant(store, claim(session=3), over=found)
    assert isinstance(taken, Claim)
    assert taken.generation > (found.generation if found is not None else 0)
    assert store.secret(lock_timeout=0) == store.secret(lock_timeout=0)
