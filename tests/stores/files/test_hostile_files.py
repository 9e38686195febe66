"""Whatever lies where a claim belongs: it is reported, never free, never followed, and goes only as it was seen."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mcp_claims.errors import StoreUnavailableError
from mcp_claims.model.codec import to_json
from mcp_claims.model.records import Unreadable
from mcp_claims.stores.base import Swap
from mcp_claims.stores.files.store import MAX_RECORD_BYTES, FileStore
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, OTHER_KEY, claim, fresh, grant, lock_file, place, renewed

if sys.platform == "win32":
    pytest.skip("has no FIFOs, and no links without a privilege", allow_module_level=True)

pytestmark = pytest.mark.timeout(20)

VALID = to_json(claim()._replace(generation=1))
ROOT = Path(__file__).parents[3]
Maker = Callable[[Path], None]


def content(data: bytes) -> Maker:
    def make(path: Path) -> None:
        path.write_bytes(data)

    return make


def fields(**changed: Any) -> Maker:
    return content(json.dumps(json.loads(VALID) | changed).encode())


def outside(path: Path) -> Path:
    """Return a file beside the claims directory, for links that lead there."""
    return path.parents[2] / "outside.json"


def link_to_a_valid_claim(path: Path) -> None:
    path.symlink_to(outside(path))


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parents[2] / "nothing.json")


def link_to_a_directory(path: Path) -> None:
    path.symlink_to(path.parents[2])


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def directory(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    # By its name alone: the whole path may be longer than an address can be.
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


HOSTILE = [
    pytest.param(content(b""), "not JSON", id="empty"),
    pytest.param(content(VALID[:150]), "not JSON", id="half"),
    pytest.param(content(bytes(range(256))), "not JSON", id="binary"),
    pytest.param(content(b"\0" * 4_096), "not JSON", id="zeros"),
    pytest.param(content(b"[" * 60_000), "not JSON", id="nested"),
    pytest.param(content(b"[]"), "not a JSON object", id="list"),
    pytest.param(content(VALID + b" " * MAX_RECORD_BYTES), "larger than 65,536 bytes", id="just-too-large"),
    pytest.param(content(b"x" * 10_000_000), "larger than 65,536 bytes", id="10-megabytes"),
    pytest.param(directory, "not a file", id="directory"),
    pytest.param(link_to_a_valid_claim, "symbolic link", id="link-to-a-valid-claim"),
    pytest.param(link_to_nothing, "symbolic link", id="link-to-nothing"),
    pytest.param(link_to_a_directory, "symbolic link", id="link-to-a-directory"),
    pytest.param(link_to_itself, "symbolic link", id="link-to-itself"),
    pytest.param(fifo, "not a file", id="fifo"),
    pytest.param(bound_socket, "No such device", id="socket"),
    pytest.param(fields(pid="101"), "pid is not a whole number", id="wrong-type"),
    pytest.param(fields(generation=0), "generation is not a whole number", id="no-generation"),
    pytest.param(fields(expiresAt="2026-11-23T12:30:00"), "expiresAt has no time zone", id="no-time-zone"),
    pytest.param(fields(key="review"), "about another key", id="another-key-s-claim"),
    pytest.param(fields(namespace="deploy"), "about another key", id="another-namespace-s-claim"),
]
REMOVABLE = [case for case in HOSTILE if case.id != "directory"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    """A store whose namespace exists, and a file outside, which has to stay as it is."""
    store = FileStore(tmp_path / "claims")
    store.swap(KEY, grant(store, claim()), None)
    target = outside(place(store))
    target.write_bytes(VALID)
    before = target.stat()
    yield store
    after = target.stat()
    assert (after.st_ino, after.st_size, after.st_ctime_ns) == (before.st_ino, before.st_size, before.st_ctime_ns)
    assert not (tmp_path / "nothing.json").exists()


def find(store: FileStore) -> Unreadable:
    found = store.read(KEY)
    assert isinstance(found, Unreadable)
    return found


@pytest.mark.rule("S5")
@pytest.mark.parametrize(("make", "problem"), HOSTILE)
def test_it_is_reported_as_unreadable_and_is_never_free(store: FileStore, make: Maker, problem: str) -> None:
    make(place(store))
    found = find(store)
    assert problem in found.problem
    assert found.where == str(place(store))
    assert abs(found.changed - datetime.now(UTC)) < timedelta(minutes=1)
    seen = claim()._replace(generation=1)
    for old, new in ((None, claim(session=2)), (seen, renewed(seen)), (seen, None), (None, None)):
        assert store.swap(KEY, old, new, lock_timeout=0) == Swap(False, found)
    assert not store.discard(seen)
    assert list(store.scan()) == list(store.scan("ci")) == [found]


@pytest.mark.parametrize(("make", "problem"), REMOVABLE)
def test_once_it_is_discarded_the_key_is_free(store: FileStore, make: Maker, problem: str) -> None:
    make(place(store))
    assert store.discard(find(store), lock_timeout=0)
    assert store.read(KEY) is None
    granted = grant(store, claim())
    assert store.read(KEY) == granted


@pytest.mark.parametrize(("make", "problem"), REMOVABLE)
def test_a_claim_that_has_taken_its_place_is_not_discarded(
    store: FileStore,
    make: Maker,
    problem: str,
) -> None:
    make(place(store))
    found = find(store)
    place(store).unlink()
    granted = grant(store, claim())
    assert not store.discard(found, lock_timeout=0)
    assert store.read(KEY) == granted


def test_another_file_of_the_same_kind_is_not_discarded_in_its_place(store: FileStore) -> None:
    place(store).write_bytes(b"{1")
    found = find(store)
    place(store).with_name("x").write_bytes(b"{2")
    place(store).with_name("x").replace(place(store))
    assert find(store).problem == found.problem
    assert not store.discard(found, lock_timeout=0)
    assert place(store).read_bytes() == b"{2"


def test_what_is_gone_is_not_discarded(store: FileStore) -> None:
    place(store).write_bytes(b"")
    found = find(store)
    place(store).unlink()
    assert not store.discard(found, lock_timeout=0)


@pytest.mark.rule("S5")
def test_a_directory_where_a_claim_belongs_is_put_aside_with_all_that_is_in_it(store: FileStore) -> None:
    directory(place(store))
    place(store).joinpath("work").write_text("mine")
    assert not store.swap(KEY, None, claim(), lock_timeout=0).won
    assert store.discard(find(store), lock_timeout=0)
    (aside,) = place(store).parent.glob(".aside-*")
    assert aside.joinpath("work").read_text() == "mine"
    assert store.swap(KEY, None, claim(), lock_timeout=0).won


def test_a_directory_where_a_claim_is_written_first_is_put_aside(store: FileStore) -> None:
    grant(store, claim())
    directory(fresh(store))
    assert store.swap(OTHER_KEY, None, claim(OTHER_KEY), lock_timeout=0).won


@pytest.mark.rule("S5")
def test_a_file_made_to_look_old_is_as_new_as_its_last_change(store: FileStore) -> None:
    # `touch` sets the time of the last write to anything; that of the last change of the inode is the kernel's.
    place(store).write_bytes(b"{")
    os.utime(place(store), (0, 0))
    assert datetime.now(UTC) - find(store).changed < timedelta(minutes=1)


def test_a_time_that_no_calendar_has_counts_as_just_now(store: FileStore) -> None:
    class NoCalendar(HookedFileSystem):
        def status(self, fd: int) -> os.stat_result:
            fields = list(super().status(fd))
            return os.stat_result([*fields[:7], 1 << 60, 1 << 60, 1 << 60])

    place(store).write_bytes(b"{")
    found = find(FileStore(store.directory, fs=NoCalendar()))
    assert found.changed > datetime.now(UTC)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_a_file_that_may_not_be_opened_is_unreadable(store: FileStore, error: int) -> None:
    class Forbidden(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "open" and where == str(place(store)):
                raise OSError(error, os.strerror(error), where)

    grant(store, claim())
    found = find(FileStore(store.directory, fs=Forbidden()))
    assert os.strerror(error) in found.problem


def test_a_file_without_permissions_is_unreadable_to_its_owner() -> None:
    script = """
import tempfile
from mcp_claims.stores.files.store import FileStore
from tests.core.process import become_nobody
from tests.stores.samples import KEY, claim, fresh, grant, place

become_nobody()
with tempfile.TemporaryDirectory() as directory:
    store = FileStore(f"{directory}/claims")
    granted = grant(store, claim())
    place(store).chmod(0)
    found = store.read(KEY)
    print(found.problem)
    print(store.swap(KEY, None, claim(session=2)).won, store.swap(KEY, granted, None).won, [found] == list(store.scan()))
    print(store.discard(found), store.read(KEY))
"""
    child = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, encoding="utf-8", check=False, timeout=20
    )
    assert child.stdout.splitlines() == ["Permission denied", "False False True", "True None"], child.stderr


@pytest.mark.rule("S5")
@pytest.mark.parametrize("make", [link_to_a_valid_claim, link_to_nothing, directory, fifo, bound_socket])
def test_a_lock_file_that_is_none_lets_nobody_in(store: FileStore, make: Maker) -> None:
    granted = grant(store, claim())
    lock_file(store).unlink()
    make(lock_file(store))
    with pytest.raises(StoreUnavailableError, match=str(lock_file(store).parent)):
        store.swap(KEY, granted, None, lock_timeout=0)
    assert store.read(KEY) == granted


@pytest.mark.parametrize("where", ["claims", "claims/ci"])
def test_a_file_where_a_directory_belongs_is_a_clear_error(tmp_path: Path, where: str) -> None:
    (tmp_path / where).parent.mkdir(mode=0o700, exist_ok=True)
    (tmp_path / where).touch(mode=0o600)
    store = FileStore(tmp_path / "claims")
    for use in (
        lambda: store.read(KEY),
        lambda: store.swap(KEY, None, claim(), lock_timeout=0),
        lambda: list(store.scan("ci")),
    ):
        with pytest.raises(StoreUnavailableError, match="Not a directory"):
            use()
