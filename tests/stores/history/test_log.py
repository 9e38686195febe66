"""Appending to a history: whatever dies, fails or is in the way, the change stands and the log reads."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from threading import Thread

import pytest

import mcp_claims.stores.history
from mcp_claims.errors import InvalidInputError, StoreUnavailableError
from mcp_claims.model.history import Event, Kind
from mcp_claims.model.promises import check
from mcp_claims.model.records import ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import Change
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history import history
from mcp_claims.stores.history.files import file_of, parse_name
from mcp_claims.stores.history.history import Limits
from mcp_claims.stores.history.reader import HistoryReader
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, OTHER_KEY, claim, grant, renewed
from tests.support.descriptors import open_files
from tests.support.interrupts import Interrupt, InterruptAtLine, no_lock_is_held
from tests.support.machines import World

ON = Limits()


def events(store: FileStore, *, damaged: int = 0) -> list[Event]:
    """Return what is in the history of *store*, of which so many lines are *damaged*."""
    reader = HistoryReader(store.history.directory)
    found = list(reader.events())
    assert reader.damaged == damaged
    return found


def kinds(store: FileStore, *, damaged: int = 0) -> list[str]:
    return [event.kind.value for event in events(store, damaged=damaged)]


class Crash(BaseException):
    """The process has died: nothing of it runs any more."""


class Torn(HookedFileSystem):
    """Dies after *size* bytes of the next line, or writes no more than that of it if it *fails* instead."""

    def __init__(self, size: int, *, fails: bool = False) -> None:
        self.size, self.fails = size, fails
        self.logs: set[int] = set()
        self.is_whole = False

    def open(self, path: str, flags: int) -> int:
        fd = super().open(path, flags)
        (self.logs.add if path.endswith(".jsonl") else self.logs.discard)(fd)
        return fd

    def write(self, fd: int, data: bytes) -> int:
        if fd not in self.logs or self.size < 0:
            return super().write(fd, data)
        size, self.size = self.size, -1
        self.is_whole = size >= len(data)
        written = super().write(fd, data[:size]) if size else 0
        if self.fails:
            return written
        raise Crash


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_reported_in", set())


def test_the_log_and_its_directory_are_for_this_user_alone(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "claims")
    grant(store, claim())
    (log,) = Path(store.history.directory).iterdir()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    assert parse_name(log.name) == file_of(datetime.now(UTC).date().isoformat(), KEY.namespace)


@pytest.mark.rule("J3")
def test_a_crash_at_any_byte_of_a_line_costs_that_line_and_no_other(tmp_path: Path) -> None:
    for size in count():
        store = FileStore(tmp_path / str(size), history=ON)
        first = grant(store, claim(OTHER_KEY))
        with pytest.raises(Crash):
            FileStore(store.directory, fs=Torn(size), history=ON).swap(KEY, None, claim())
        (log,) = Path(store.history.directory).iterdir()
        is_whole = size > 0 and log.read_bytes().endswith(b"\n")
        assert store.swap(OTHER_KEY, first, None).won
        if is_whole:
            assert kinds(store) == ["granted", "granted", "released"] and size > 150
            break
        assert kinds(store, damaged=min(size, 1)) == ["granted", "released"]
        assert [event.kind for event in HistoryReader(str(log.parent), gaps=True).events()].count(Kind.GAP) == min(
            size, 1
        )


@pytest.mark.rule("J2", "J3")
@pytest.mark.parametrize("what", ["released", "two granted", "two released"])
def test_a_crash_at_any_byte_of_the_lines_of_a_change_breaks_no_promise_and_no_line_of_another(
    tmp_path: Path, what: str
) -> None:
    keys = [KEY, OTHER_KEY] if "two" in what else [KEY]
    for size in count():
        store, dying = FileStore(tmp_path / str(size), history=ON), Torn(size)
        held = [grant(store, claim(key)) if "released" in what else None for key in keys]
        changes = [Change(key, old, claim(key) if old is None else None) for key, old in zip(keys, held, strict=True)]
        with pytest.raises(Crash):
            FileStore(store.directory, fs=dying, history=ON).swap_all(changes)
        next_one = FileStore(store.directory, history=ON)
        for key in keys:  # As the next one who meets what is left.
            if (found := next_one.read(key)) is not None:
                assert next_one.discard(found)
            grant(next_one, claim(key, session=2))
        reader = HistoryReader(store.history.directory, gaps=True)
        found_events = list(reader.events())
        assert check(found_events).violations == []
        assert reader.damaged <= 1
        begun = [event.key for event in found_events if event.holder == claim(session=2).holder.name]
        assert [key for key in begun if key] == [key.key for key in keys], "what follows is whole"
        if dying.is_whole:
            assert reader.damaged == 0 and size > 150
            break


@pytest.mark.rule("J2")
def test_a_crash_before_any_system_call_of_a_release_leaves_no_hold_without_its_end(tmp_path: Path) -> None:
    class Dying(HookedFileSystem):
        left = sys.maxsize

        def before(self, call: str, where: str | int) -> None:
            self.left -= 1
            if not self.left:
                raise Crash

    for at in count(1):
        fs = Dying()
        store = FileStore(tmp_path / str(at), fs=fs, history=ON)
        held = grant(store, claim())
        fs.left, crashed = at, False
        try:
            store.swap(KEY, held, None)
        except Crash:
            crashed = True
        fs.left = sys.maxsize
        next_one = FileStore(store.directory, history=ON)
        found = next_one.read(KEY)
        # As the next one who meets it.
        if found is not None:
            assert found == held
            assert next_one.discard(found)
        grant(next_one, claim(session=2))
        findings = check(events(next_one))
        assert findings.violations == [] and findings.unknown == 0 and findings.grants == 2
        if not crashed:
            assert at > 8
            break


@pytest.mark.rule("J1")
@pytest.mark.parametrize("size", [0, 20])
def test_a_change_stands_although_its_line_cannot_be_written_and_that_is_said_once(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    fs = Torn(-1, fails=True)
    store = FileStore(tmp_path / "claims", fs=fs, history=ON)
    held = grant(store, claim())
    for _ in range(2):
        fs.size = size
        held = grant(store, renewed(held), over=held)
    assert store.read(KEY) == held
    assert store.swap(KEY, held, None).won
    # Two that are torn, one behind the other, are one line that cannot be read.
    found = events(store, damaged=int(size > 0))
    assert [(event.kind.value, event.times) for event in found] == [("granted", None), ("gap", 2), ("released", None)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert store.history.directory in caplog.text


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_no_error_of_the_system_fails_a_change(tmp_path: Path, error: int) -> None:
    class Broken(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if "history" in str(where):
                raise OSError(error, os.strerror(error), where)

    store = FileStore(tmp_path / "claims", fs=Broken(), history=ON)
    held = grant(store, claim())
    assert store.swap_all([Change(KEY, held, renewed(held)), Change(OTHER_KEY, None, claim(OTHER_KEY))]).won
    assert events(store) == []


@pytest.mark.skipif(sys.platform == "win32", reason="has neither FIFOs nor links for everybody")
@pytest.mark.parametrize("thing", ["fifo", "link", "directory", "file instead of the directory"])
def test_what_is_in_the_way_of_the_log_neither_hangs_nor_leads_elsewhere(tmp_path: Path, thing: str) -> None:
    store, elsewhere = FileStore(tmp_path / "claims"), tmp_path / "elsewhere"
    elsewhere.write_bytes(b"")
    path = Path(store.history.directory, file_of(datetime.now(UTC).date().isoformat(), KEY.namespace).name)
    if thing == "file instead of the directory":
        path.parent.parent.mkdir(mode=0o700)
        path.parent.write_bytes(b"")
    else:
        path.parent.mkdir(parents=True, mode=0o700)
        os.chmod(path.parent.parent, 0o700)
        if thing == "fifo":
            os.mkfifo(path)
        elif thing == "link":
            path.symlink_to(elsewhere)
        else:
            path.mkdir()
    grant(store, claim())
    assert elsewhere.read_bytes() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="has no modes")
def test_a_directory_that_others_can_write_gets_no_line(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "claims")
    Path(store.history.directory).mkdir(parents=True)
    os.chmod(store.directory, 0o700)
    os.chmod(store.history.directory, 0o777)
    grant(store, claim())
    assert os.listdir(store.history.directory) == []


@pytest.mark.parametrize("limits", [Limits(days=0), Limits(megabytes=0)])
def test_zero_turns_it_off(tmp_path: Path, limits: Limits) -> None:
    store = FileStore(tmp_path / "claims", history=limits)
    grant(store, claim())
    assert not os.path.exists(store.history.directory)


def test_the_environment_sets_the_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MCP_CLAIMS_HISTORY_DAYS", "7")
    monkeypatch.setenv("MCP_CLAIMS_HISTORY_MEGABYTES", " 1 ")
    assert FileStore(tmp_path).history.limits == Limits(7, 1)
    for wrong in ("-1", "seven", "1e3", "99999999999", "٣"):
        monkeypatch.setenv("MCP_CLAIMS_HISTORY_DAYS", wrong)
        with pytest.raises(InvalidInputError, match="MCP_CLAIMS_HISTORY_DAYS"):
            FileStore(tmp_path)


def days(store: FileStore) -> list[str]:
    return sorted(file.day for name in os.listdir(store.history.directory) if (file := parse_name(name)))


@pytest.mark.rule("J4")
def test_a_new_day_has_a_new_file_and_removes_what_is_too_old(tmp_path: Path) -> None:
    world = World()
    store = FileStore(tmp_path / "claims", history=Limits(days=3), machine=world.process())
    held = grant(store, claim())
    for _ in range(6):
        world.pass_time(86_400)
        held = grant(store, renewed(held), over=held)
    last = world.wall.date()
    assert days(store) == [(last - timedelta(days=age)).isoformat() for age in (2, 1, 0)]
    (Path(store.history.directory) / "notes.txt").write_text("not ours")
    world.pass_time(86_400)
    grant(store, renewed(held), over=held)
    assert "notes.txt" in os.listdir(store.history.directory)


@pytest.mark.rule("J3", "J5")
def test_a_refusal_which_is_written_without_the_lock_overwrites_no_line(tmp_path: Path) -> None:
    class Interrupted(Torn):
        then: Callable[[], object] | None = None

        def write(self, fd: int, data: bytes) -> int:
            if fd in self.logs and self.then is not None:
                then, self.then = self.then, None
                then()
            return super().write(fd, data)

    fs = Interrupted(-1)
    store = FileStore(tmp_path / "claims", fs=fs, history=ON)
    mine, other = process_session(store), process_session(FileStore(store.directory, history=ON))
    assert mine.try_claim("red").claimed
    fs.then = lambda: other.try_claim("red")
    assert mine.try_claim("blue").claimed
    assert kinds(store) == ["granted", "refused", "granted"]


@pytest.mark.rule("J4")
def test_two_who_write_over_midnight_lose_no_line_and_keep_the_order(tmp_path: Path) -> None:
    world = World()
    stores = [FileStore(tmp_path / "claims", history=ON, machine=world.process()) for _ in range(2)]
    held = grant(stores[0], claim())
    written = [held.generation]
    for number in range(1, 60):
        world.pass_time(3_600)
        assert stores[number % 2].swap(KEY, held, None).won
        held = grant(stores[(number + number // 7) % 2], claim())
        written.append(held.generation)
    assert [event.generation for event in events(stores[0]) if event.kind is Kind.GRANTED] == written
    assert len(days(stores[0])) == 3 and check(events(stores[0])).violations == []


@pytest.mark.rule("J2")
@pytest.mark.parametrize("keys", [[KEY], [KEY, OTHER_KEY]], ids=["one key", "two keys"])
def test_each_line_of_a_change_is_written_under_the_lock_of_its_namespace(
    tmp_path: Path, keys: list[ScopedKey]
) -> None:
    class Watched(HookedFileSystem):
        def __init__(self) -> None:
            self.locked, self.logs, self.under_lock = 0, set[int](), list[bool]()

        def try_lock(self, fd: int) -> bool:
            taken = super().try_lock(fd)
            self.locked += taken
            return taken

        def unlock(self, fd: int) -> None:
            super().unlock(fd)
            self.locked -= 1

        def open(self, path: str, flags: int) -> int:
            fd = super().open(path, flags)
            (self.logs.add if path.endswith(".jsonl") else self.logs.discard)(fd)
            return fd

        def before(self, call: str, where: str | int) -> None:
            if call == "write" and where in self.logs:
                self.under_lock.append(self.locked > 0)

    fs = Watched()
    store = FileStore(tmp_path / "claims", fs=fs, history=ON)
    held = store.swap_all([Change(key, None, claim(key)) for key in keys]).found
    assert store.swap_all([Change(key, old, None) for key, old in zip(keys, held, strict=True)]).won  # type: ignore[arg-type]
    assert kinds(store) == ["granted"] * len(keys) + ["released"] * len(keys)
    assert fs.under_lock and all(fs.under_lock) and fs.locked == 0


@pytest.mark.rule("J4")
def test_the_size_is_bounded_within_a_day_too_and_order_is_kept(tmp_path: Path) -> None:
    stores = [FileStore(tmp_path / "claims", history=Limits(megabytes=1)) for _ in range(2)]
    held = grant(stores[0], claim()._replace(note="x" * 500))
    directory = Path(stores[0].history.directory)
    generations = []
    for number in range(2_200):
        store = stores[number % 2]
        assert store.swap(KEY, held, None).won
        held = grant(store, claim()._replace(note="x" * 500))
        generations.append(held.generation)
    size = sum(path.stat().st_size for path in directory.iterdir())
    assert size <= 1 << 20
    assert len(list(directory.iterdir())) > 4
    kept = [event.generation for event in events(stores[0]) if event.kind is Kind.GRANTED]
    assert kept == generations[-len(kept) :] and len(kept) > 500


def test_a_log_that_somebody_removes_is_made_again(tmp_path: Path) -> None:
    class Later(HookedFileSystem):
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    fs = Later()
    store = FileStore(tmp_path / "claims", fs=fs, history=ON)
    held = grant(store, claim())
    for path in Path(store.history.directory).iterdir():
        path.unlink()
    fs.now = 2.0
    assert store.swap(KEY, held, None).won
    assert kinds(store) == ["released"]


@pytest.mark.rule("J2")
def test_a_removal_that_fails_is_noted_as_one_that_was_not_made(tmp_path: Path) -> None:
    class Unremovable(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "remove" and str(where).endswith(".json"):
                raise OSError(errno.EIO, os.strerror(errno.EIO), where)

    store = FileStore(tmp_path / "claims", history=ON)
    held = grant(store, claim())
    with pytest.raises(StoreUnavailableError):
        FileStore(store.directory, fs=Unremovable(), history=ON).swap(KEY, held, None)
    grant(store, renewed(held), over=held)
    assert kinds(store) == ["granted", "released", "kept", "renewed"]
    assert check(events(store)).violations == []


def test_an_interrupt_at_any_line_leaves_no_lock_held_and_one_file_open(tmp_path: Path) -> None:
    for at in count(1):
        directory = tmp_path / str(at)
        grant(FileStore(directory), claim(OTHER_KEY))
        line = InterruptAtLine(at, mcp_claims.stores.history)
        store = FileStore(directory)
        before = open_files()
        try:
            with line:
                store.swap(KEY, None, claim())
        except Interrupt:
            assert no_lock_is_held(store.directory), f"interrupted in {line.interrupted}"
        assert open_files() - before <= 1
        found = store.read(KEY)
        assert store.swap(KEY, found if found is None else claim()._replace(generation=2), None).found in (None, found)
        if line.interrupted is None:
            assert at > 50
            break


@pytest.mark.rule("J1")
def test_threads_and_stores_that_write_at_once_lose_no_line(tmp_path: Path) -> None:
    sessions = [process_session(FileStore(tmp_path / "claims")) for _ in range(3)]

    def work(number: int) -> None:
        for piece in range(40):
            assert sessions[number % 3].try_claim(f"{number} {piece}").claimed
            assert sessions[number % 3].release(f"{number} {piece}").released

    threads = [Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = FileStore(tmp_path / "claims")
    findings = check(events(store))
    assert findings.violations == [] and findings.grants == 240 and findings.in_force == 0


def test_names_are_injective_and_sort_by_day_and_part() -> None:
    namespaces = ["ci", "CI", "a/b", "..", "a.0.b", "1.ci", "x" * 300, "x" * 299 + "y"]
    files = [file_of(day, namespace, part) for day in ("2026-11-28", "2026-11-29") for part in (0, 2, 10) for namespace in namespaces]  # fmt: skip
    names = [file.name for file in files]
    assert len(set(names)) == len(names)
    assert list(map(parse_name, names)) == files
    assert all(len(name) <= 143 for name in names)
    assert all(
        parse_name(name) is None for name in ("notes.txt", "2026-11-28.ci.jsonl", ".new", "2026-11-28.0.CI.jsonl")
    )
