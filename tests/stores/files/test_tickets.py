"""The list of tickets and the alarms: what wakes whom, and what damage, crashes and interrupts leave behind."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

import mcp_claims.stores.files
from mcp_claims.errors import StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.model import tickets as rules
from mcp_claims.model.records import Claim, ScopedKey, Ticket
from mcp_claims.stores.base import Alarm
from mcp_claims.stores.files.filesystem import FileSystem, OpenFile
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.files.tickets import TICKETS_FILE
from tests.stores.samples import KEY, OTHER_KEY, claim, grant, place
from tests.support.descriptors import open_files
from tests.support.interrupts import Interrupt, InterruptAtLine, no_lock_is_held

if sys.platform == "win32":
    pytest.skip("has no FIFO", allow_module_level=True)

WAIT = timedelta(seconds=50)
MIN_LINES = 20  # Fewer would mean that the lines are not traced.


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """Return a store in which the namespace exists."""
    store = FileStore(tmp_path / "claims")
    grant(store, claim())
    return store


def join(store: FileStore, session: int = 1, scoped: ScopedKey = KEY) -> Ticket:
    """Return the ticket of *session*."""
    holder, now = claim(session=session).holder, claim().claimed
    found = store.change_tickets("ci", lambda before: rules.joined(before, (scoped,), holder, now, WAIT))
    return next(ticket for ticket in found if ticket.holder == holder and scoped in ticket.keys)


def leave(store: FileStore, session: int = 1) -> None:
    store.change_tickets("ci", lambda before: rules.left(before, KEY, claim(session=session).holder))


def listening(stack: ExitStack, store: FileStore, ticket: Ticket) -> Alarm:
    alarm = stack.enter_context(store.alarm(ticket, pytest.fail))
    assert alarm is not None
    return alarm


def listen(store: FileStore) -> None:
    with store.alarm(store.tickets("ci")[0], pytest.fail):
        pass


def rings(alarm: Alarm) -> bool:
    fd = alarm.fileno()
    assert fd is not None
    return bool(select.select([fd], [], [], 0)[0])


def alarms(store: FileStore) -> list[str]:
    return sorted(path.name for path in place(store).parent.glob(".alarm*"))


class TestTheList:
    @pytest.mark.rule("W1")
    def test_tickets_are_numbered_in_the_order_in_which_they_were_taken(self, store: FileStore) -> None:
        numbers = [join(store, session).number for session in (1, 2, 3)]
        leave(store, 2)
        assert numbers == [1, 2, 3] and join(store, 4).number == 4 and join(store, 2).number == 5
        assert [ticket.holder.pid for ticket in FileStore(store.directory).tickets("ci")] == [101, 103, 104, 102]

    def test_the_tickets_of_all_namespaces_are_read_for_cycles(self, store: FileStore) -> None:
        grant(store, claim(ScopedKey("deploy", "red")))
        ours = join(store)
        theirs = store.change_tickets(
            "deploy",
            lambda found: rules.joined(found, (ScopedKey("deploy", "red"),), ours.holder, ours.taken, WAIT),
        )
        assert set(store.tickets(None)) == {ours, *theirs} and store.tickets("deploy") == theirs

    def test_one_hidden_file_holds_them_and_goes_with_the_last(self, store: FileStore) -> None:
        for session in range(5):
            join(store, session)
        path = place(store).parent / TICKETS_FILE
        assert path.stat().st_mode & 0o777 == 0o600
        assert [found.scoped for found in store.scan() if isinstance(found, Claim)] == [KEY] and len(
            list(store.scan())
        ) == 1
        for session in range(5):
            leave(store, session)
        assert {each.name for each in path.parent.iterdir()} == {".lock", place(store).name}

    @pytest.mark.rule("W1")
    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"[]\n", b"{}\n", b"\xff", b"9" * 5_000_000])
    def test_a_damaged_list_is_empty_and_the_next_ticket_replaces_it(self, store: FileStore, damage: bytes) -> None:
        join(store)
        (place(store).parent / TICKETS_FILE).write_bytes(damage)
        assert store.tickets("ci") == store.tickets(None) == ()
        assert join(store, 2).number == 1 and len(store.tickets("ci")) == 1

    @pytest.mark.rule("W1")
    @pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
    def test_what_is_planted_in_its_place_leads_nowhere_and_hangs_nobody(
        self, store: FileStore, tmp_path: Path, kind: str
    ) -> None:
        path, elsewhere = place(store).parent / TICKETS_FILE, tmp_path / "elsewhere"
        elsewhere.write_text("precious")
        if kind == "link":
            path.symlink_to(elsewhere)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()
        assert store.tickets("ci") == ()
        if kind == "directory":
            with pytest.raises(StoreUnavailableError):
                join(store)
        else:
            assert join(store).number == 1
        assert elsewhere.read_text() == "precious" and grant(store, claim(OTHER_KEY)).generation

    def test_a_namespace_that_others_can_write_to_has_none(self, store: FileStore) -> None:
        join(store)
        place(store).parent.chmod(0o777)
        with pytest.raises(UnsafeDirectoryError):
            FileStore(store.directory).tickets("ci")
        with pytest.raises(UnsafeDirectoryError):
            join(FileStore(store.directory))

    def test_a_full_disk_is_an_error_and_the_list_stays(self, store: FileStore) -> None:
        ticket = join(store)

        class Full(FileSystem):
            def __init__(self) -> None:
                self.write = self._full

            def _full(self, fd: int, data: bytes) -> int:
                raise OSError(28, "No space left on device")

        with pytest.raises(StoreUnavailableError):
            join(FileStore(store.directory, fs=Full()), 2)
        assert store.tickets("ci") == (ticket,) and no_lock_is_held(store.directory)

    def test_a_directory_that_cannot_be_listed_is_an_error_of_the_store(self, store: FileStore) -> None:
        class NoDescriptors(FileSystem):
            def names(self, path: str, limit: int | None = None) -> list[str]:
                raise OSError(24, "Too many open files")

        with pytest.raises(StoreUnavailableError):
            FileStore(store.directory, fs=NoDescriptors()).tickets(None)


class TestAlarms:
    @pytest.mark.rule("W7")
    def test_a_ring_wakes_one_waiter_and_no_other_until_it_is_taken_notice_of(self, store: FileStore) -> None:
        with ExitStack() as stack:
            first, second = (listening(stack, store, join(store, session)) for session in (1, 2))
            assert not rings(first)
            for _ in range(3):
                assert FileStore(store.directory).wake(store.tickets("ci")[0])
            assert rings(first) and not rings(second)
            first.reset()
            assert not rings(first)

    @pytest.mark.rule("W7")
    def test_one_that_does_not_listen_hears_nothing(self, store: FileStore) -> None:
        ticket = join(store)
        assert not store.wake(ticket)
        with ExitStack() as stack:
            listening(stack, store, ticket)
        assert alarms(store) == [".alarm-1"] and not store.wake(ticket)
        leave(store)
        assert alarms(store) == [] and not store.wake(ticket)

    def test_a_full_fifo_rings(self, store: FileStore) -> None:
        with ExitStack() as stack:
            ticket = join(store)
            alarm = listening(stack, store, ticket)
            writer = os.open(place(store).parent / ".alarm-1", os.O_WRONLY | os.O_NONBLOCK)
            with suppress(BlockingIOError):
                while os.write(writer, b"!" * 4096):
                    pass
            os.close(writer)
            assert store.wake(ticket) and rings(alarm)

    @pytest.mark.rule("W7")
    @pytest.mark.parametrize("kind", ["link", "file", "directory"])
    def test_what_is_planted_in_the_place_of_one_is_no_alarm(self, store: FileStore, tmp_path: Path, kind: str) -> None:
        ticket, path, elsewhere = join(store), place(store).parent / ".alarm-1", tmp_path / "elsewhere"
        elsewhere.write_text("precious")
        if kind == "link":
            path.symlink_to(elsewhere)
        elif kind == "file":
            path.write_text("precious")
        else:
            path.mkdir()
        before = open_files()
        with store.alarm(ticket, pytest.fail) as alarm:
            assert alarm is None, "a file would be readable all the time"
        assert not store.wake(ticket) and open_files() == before and elsewhere.read_text() == "precious"

    @pytest.mark.rule("W7")
    def test_without_fifos_there_is_no_alarm(self, store: FileStore) -> None:
        class NoFifo(FileSystem):
            def make_fifo(self, path: str) -> None:
                raise PermissionError(1, "Operation not permitted", path)

        with FileStore(store.directory, fs=NoFifo()).alarm(join(store), pytest.fail) as alarm:
            assert alarm is None

    @pytest.mark.rule("W7")
    @pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
    def test_a_forked_child_does_not_listen_for_its_parent(self, store: FileStore) -> None:
        ticket = join(store)
        reading, writing = os.pipe()
        with ExitStack() as stack:
            listening(stack, store, ticket)
            child = os.fork()
            if not child:
                os.write(writing, b"!")
                signal.pause()
            try:
                os.read(reading, 1)
                assert store.wake(ticket)
                stack.close()
                assert not store.wake(ticket)
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                os.close(reading)
                os.close(writing)

    def test_they_go_with_their_tickets(self, store: FileStore) -> None:
        with ExitStack() as stack:
            for session in (1, 2, 3):
                listening(stack, store, join(store, session))
            leave(store, 2)
            assert alarms(store) == [".alarm-1", ".alarm-3"]
            store.change_tickets("ci", lambda _: ())
            assert alarms(store) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda store: join(store, 2), id="join"),
        pytest.param(leave, id="leave"),
        pytest.param(lambda store: store.wake(store.tickets("ci")[0]), id="wake"),
        pytest.param(listen, id="listen"),
    ],
)
def test_an_interrupt_at_any_line_leaves_no_descriptor_and_no_lock(
    store: FileStore, change: Callable[[FileStore], object]
) -> None:
    for at in count(1):
        store.change_tickets("ci", lambda _: ())
        ticket = join(store)
        before = open_files()
        line = InterruptAtLine(at, mcp_claims.stores.files)
        with suppress(Interrupt), line:
            change(store)
        # Between forgetting a descriptor and closing it nothing can be done; by then it is unlocked.
        leaked = open_files() - before
        assert leaked == 0 or (leaked == 1 and line.interrupted is OpenFile.close.__code__), line.interrupted
        assert no_lock_is_held(store.directory)
        assert set(store.tickets("ci")) - {ticket} <= {join(store, 2)}, "the list is whole"
        if line.interrupted is None:
            assert at > MIN_LINES
            break
