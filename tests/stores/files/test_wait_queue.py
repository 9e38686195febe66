"""The wait queue of a key: first come, first served, without a ticket that could go stale."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Event

import pytest

import mcp_claims.stores.files
from mcp_claims.errors import UnsafeDirectoryError
from mcp_claims.model.records import ScopedKey
from mcp_claims.stores.files import wait_queue
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.files.wait_queue import MAX_TICKETS
from tests.stores.samples import KEY, claim, grant, place
from tests.support.descriptors import open_files
from tests.support.interrupts import Interrupt, InterruptAtLine

WITHIN = 20.0  # s, on a machine that is busy with other things
MIN_LINES = 20  # Fewer would mean that the lines are not traced.


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """Return a store in which the namespace exists; no other test has taken a ticket, or was interrupted while it left."""
    wait_queue._TICKETS._reset()
    store = FileStore(tmp_path / "claims")
    grant(store, claim())
    return store


def join(stack: ExitStack, store: FileStore, scoped: ScopedKey = KEY) -> Event:
    """Take a ticket; return an event that is set when it is the first."""
    first = Event()
    assert stack.enter_context(store.wait_queue(scoped, first.set))
    return first


@pytest.mark.rule("V9")
def test_tickets_are_served_in_the_order_in_which_they_were_taken(store: FileStore) -> None:
    with ExitStack() as ada, ExitStack() as ben, ExitStack() as cleo:
        first, second = join(ada, store), join(ben, store)
        assert first.is_set() and not second.is_set()
        wait_until_blocked(store, 1)
        third = join(cleo, store)
        wait_until_blocked(store, 2)
        ada.close()
        assert second.wait(WITHIN)
        assert not third.wait(0.1)
        ben.close()
        assert third.wait(WITHIN)


def test_a_waiter_that_leaves_early_delays_nobody(store: FileStore) -> None:
    with ExitStack() as ada, ExitStack() as ben, ExitStack() as cleo:
        join(ada, store)
        second = join(ben, store)
        wait_until_blocked(store, 1)
        third = join(cleo, store)
        wait_until_blocked(store, 2)
        ben.close()
        ada.close()
        assert third.wait(WITHIN)
        assert not second.is_set()
    wait_until_blocked(store, 0)


@pytest.mark.rule("V9")
def test_the_ticket_of_a_dead_process_is_gone(store: FileStore) -> None:
    with another_process_first(store) as kill, ExitStack() as ada:
        first = join(ada, store)
        assert not first.wait(0.1)
        kill()
        assert first.wait(WITHIN)


@pytest.mark.rule("V9")
def test_a_waiter_that_gives_up_and_returns_takes_no_second_ticket(store: FileStore) -> None:
    with another_process_first(store) as kill:
        threads, files = threading.active_count(), open_files()
        for _ in range(200):
            with ExitStack() as ada:
                assert not join(ada, store).is_set()
        with ExitStack() as ben:
            first = join(ben, store)
            assert (threading.active_count(), open_files()) == (threads + 1, files + 1)
            kill()
            assert first.wait(WITHIN)
    wait_until_blocked(store, 0)


@pytest.mark.rule("V9")
def test_a_process_has_a_limited_number_of_tickets_and_every_waiter_has_a_turn(store: FileStore) -> None:
    with another_process_first(store) as kill, ExitStack() as crowd:
        threads, files = threading.active_count(), open_files()
        waiting = [ExitStack() for _ in range(MAX_TICKETS + 20)]
        turns = [join(crowd.enter_context(each), store) for each in waiting]
        assert (threading.active_count(), open_files()) == (threads + MAX_TICKETS, files + MAX_TICKETS)
        # A waiter that gives up makes room for one without a ticket.
        waiting.pop(3).close()
        turns.pop(3)
        kill()
        served = 0
        while waiting:
            deadline = time.monotonic() + WITHIN
            while not (first := [number for number, turn in enumerate(turns) if turn.is_set()]):
                assert time.monotonic() < deadline, f"nobody is first after {served} were"
                time.sleep(0.001)
            assert len(first) == 1
            turns.pop(first[0])
            waiting.pop(first[0]).close()
            served += 1
    wait_until_blocked(store, 0)
    with ExitStack() as ada:
        assert join(ada, store).is_set()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_keeps_no_ticket_of_its_parent(store: FileStore) -> None:
    with ExitStack() as ada, ExitStack() as ben:
        join(ada, store)
        second = join(ben, store)
        wait_until_blocked(store, 1)
        child = os.fork()
        if not child:
            signal.pause()
        try:
            ada.close()
            assert second.wait(WITHIN)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_each_key_has_its_own_queue(store: FileStore) -> None:
    with ExitStack() as ada:
        assert join(ada, store).is_set()
        assert join(ada, store, ScopedKey("ci", "review")).is_set()


def test_all_queues_of_a_namespace_share_one_empty_hidden_file(store: FileStore) -> None:
    for number in range(20):
        with ExitStack() as ada:
            join(ada, store, ScopedKey("ci", f"event {number}"))
    files = {path.name: path.stat() for path in place(store).parent.iterdir()}
    assert files.keys() == {".lock", ".line", place(store).name}
    assert (files[".line"].st_size, files[".line"].st_mode & 0o777) == (0, 0o600)
    assert [found.scoped for found in store.scan()] == [KEY]  # type: ignore[union-attr]


def test_without_a_queue_every_waiter_is_first(store: FileStore) -> None:
    with store.wait_queue(ScopedKey("nowhere", "red"), pytest.fail) as queued:
        assert not queued
    assert not Path(store.directory, "nowhere").exists()
    (place(store).parent / ".line").symlink_to("elsewhere")
    with store.wait_queue(KEY, pytest.fail) as queued:
        assert not queued
    assert not (place(store).parent / "elsewhere").exists()


def test_a_namespace_that_others_can_write_to_has_no_queue(store: FileStore) -> None:
    place(store).parent.chmod(0o777)
    with pytest.raises(UnsafeDirectoryError), FileStore(store.directory).wait_queue(KEY, pytest.fail):
        pytest.fail("it is not safe")
    assert not (place(store).parent / ".line").exists()


@contextmanager
def another_process_first(store: FileStore) -> Iterator[Callable[[], None]]:
    """Let another process have the first ticket; yields a function that kills it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with store.wait_queue(KEY, lambda: None):
            os.write(writing, b"!")
            signal.pause()
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)

    alive = [child]

    def kill() -> None:
        while alive:
            os.kill(alive[0], signal.SIGKILL)
            os.waitpid(alive.pop(), 0)

    try:
        yield kill
    finally:
        kill()


def wait_until_blocked(store: FileStore, number: int) -> None:
    """Return once *number* threads wait for a lock on the queue's file, by `/proc/locks`."""
    inode = (place(store).parent / ".line").stat().st_ino
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        locks = Path("/proc/locks").read_text().splitlines()
        if sum("-> OFDLCK" in lock and f":{inode} " in lock for lock in locks) == number:
            return
    pytest.fail(f"not {number} tickets wait")


def test_an_interrupt_at_any_line_before_the_block_leaves_no_ticket_behind(store: FileStore) -> None:
    before = open_files()
    for at in count(1):
        line = InterruptAtLine(at, mcp_claims.stores.files)
        with ExitStack() as joined, suppress(Interrupt), line:
            joined.enter_context(store.wait_queue(KEY, lambda: None))
        assert open_files() == before, f"interrupted in {line.interrupted}"
        with ExitStack() as stack:
            assert join(stack, store).is_set()
        if line.interrupted is None:
            assert at > MIN_LINES
            break
