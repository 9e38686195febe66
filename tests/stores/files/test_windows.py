"""The file store with the system calls of Windows: locks by `msvcrt`, files that cannot be replaced while somebody reads them.

Windows itself is not run; `tests.support.on_windows` has what stands in for it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcp_claims.model.validation import ClaimRequest
from mcp_claims.session.acquire import acquire
from mcp_claims.session.identity import process_session
from mcp_claims.stores.base import Store
from mcp_claims.stores.files.filesystem import CREATE_LOCK, FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.cli.commands import eventually
from tests.stores.files import test_store
from tests.support.on_windows import on_windows

windows = on_windows("mcp_claims.stores.files.filesystem")


def filesystem() -> FileSystem:
    made: FileSystem = windows.FileSystem()
    return made


@pytest.fixture
def paths(tmp_path: Path) -> tuple[str, str]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old")
    return str(source), str(target)


class TestTwoFileStoresOnWindows(test_store.TestFileStore):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        here = tmp_path / "claims"
        return test_store.Alternating(FileStore(here, fs=filesystem()), FileStore(here, fs=filesystem()))

    def test_a_release_wakes_one_waiter_and_its_grant_the_next(self, store: Store) -> None:
        """Not there: it has no FIFOs, so each waiter watches the claim, as the next test shows."""


@pytest.mark.rule("V9")
def test_without_fifos_a_release_ends_a_wait_all_the_same(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "claims", fs=filesystem())
    holder, waiter = process_session(store), process_session(FileStore(tmp_path / "claims", fs=filesystem()))
    assert holder.try_claim("red").claimed
    request = ClaimRequest.parse("red", wait_seconds=120)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(acquire, waiter, request)
        eventually(lambda: store.tickets("default"))
        holder.release("red")
        assert answer.result(120).claimed


@pytest.mark.rule("S1")
def test_a_lock_keeps_out_every_other_opening_of_the_file_until_it_is_dropped_or_closed(tmp_path: Path) -> None:
    fs, path = filesystem(), str(tmp_path / "lock")
    first, second = fs.open(path, CREATE_LOCK), fs.open(path, CREATE_LOCK)
    assert fs.try_lock(first)
    assert not fs.try_lock(second)
    fs.unlock(first)
    assert fs.try_lock(second)
    fs.close(second)
    assert fs.try_lock(first)
    fs.close(first)


def test_the_content_of_a_locked_file_can_be_read_and_written(tmp_path: Path) -> None:
    """The lock of Windows is mandatory, so it must not lie on the bytes of the generation counter."""
    fs, path = filesystem(), str(tmp_path / "lock")
    locked = fs.open(path, CREATE_LOCK)
    assert fs.try_lock(locked)
    assert os.lseek(locked, 0, os.SEEK_CUR) >= 1 << 30
    os.lseek(locked, 0, os.SEEK_SET)
    fs.write(locked, b"7")
    assert Path(path).read_bytes() == b"7"
    fs.close(locked)


def test_a_file_is_replaced_and_removed_as_soon_as_its_readers_have_gone(
    paths: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter(range(3))

    def with_readers(change: object) -> object:
        def attempt(*arguments: str) -> None:
            for _ in refusals:
                raise PermissionError
            change(*arguments)  # type: ignore[operator]

        return attempt

    calls = SimpleNamespace(**vars(os))
    calls.replace, calls.unlink = with_readers(os.replace), with_readers(os.unlink)
    monkeypatch.setattr(windows, "os", calls)
    source, target = paths
    filesystem().replace(source, target)
    assert next(refusals, None) is None and Path(target).read_text() == "new"
    refusals = iter(range(3))
    filesystem().remove(target)
    assert next(refusals, None) is None and not Path(target).exists()


def test_a_file_that_stays_open_is_an_error_after_a_while(
    paths: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = list[int]()

    def refuse(*_: str) -> None:
        attempts.append(1)
        raise PermissionError

    monkeypatch.setattr(windows, "os", SimpleNamespace(**vars(os) | {"replace": refuse}))
    with pytest.raises(PermissionError):
        filesystem().replace(*paths)
    assert 10 < len(attempts) < 100


def test_there_is_no_fifo_and_the_time_of_the_last_change_is_that_of_the_content(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not implemented"):
        filesystem().make_fifo(str(tmp_path / "fifo"))
    status = SimpleNamespace(st_mtime=7.0, st_ctime=3.0)
    assert windows.last_change(status) == 7.0
