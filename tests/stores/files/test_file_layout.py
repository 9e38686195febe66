"""The files: their places, their permissions, and which of them stay."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mcp_claims.errors import StoreBusyError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.lock import LockFile, NamespaceLock
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.files import DIRECTORY
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, claim, fresh, grant, lock_file, place, renewed
from tests.support.machines import World

if sys.platform == "win32":
    pytest.skip("modes and owners are those of POSIX", allow_module_level=True)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "claims")


@pytest.fixture(params=[0, 0o022, 0o077, 0o277, 0o777], ids=lambda mask: f"umask-{mask:03o}")
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def entries(store: FileStore) -> list[str]:
    return sorted(path.name for path in place(store).parent.iterdir())


@pytest.mark.rule("S8")
@pytest.mark.usefixtures("umask")
def test_directories_and_files_are_private_whatever_the_umask(store: FileStore) -> None:
    granted = grant(store, claim())
    grant(store, renewed(granted), over=granted)
    assert mode(Path(store.directory)) == 0o700
    assert mode(place(store).parent) == 0o700
    assert mode(place(store)) == 0o600
    assert mode(lock_file(store)) == 0o600


def test_a_claim_is_a_json_file_in_the_directory_of_its_namespace(store: FileStore, tmp_path: Path) -> None:
    grant(store, claim(ScopedKey("ci", "red-check")))
    assert (tmp_path / "claims" / "ci" / "red-check.json").is_file()
    assert entries(store) == [".lock", "red-check.json"]


def test_a_claim_has_the_time_at_which_its_file_was_last_changed(store: FileStore) -> None:
    grant(store, claim())

    def stored() -> float | None:
        found = store.read(KEY)
        assert isinstance(found, Claim)
        return found.stored

    assert stored() == place(store).stat().st_ctime
    before = place(store).stat().st_ctime
    while place(store).stat().st_ctime == before:  # The clock of a file system ticks in milliseconds.
        place(store).write_bytes(place(store).read_bytes())
    assert stored() == place(store).stat().st_ctime > before


def test_directories_above_the_claims_directory_are_made_too(tmp_path: Path) -> None:
    grant(FileStore(tmp_path / "state" / "mcp" / "claims"), claim())
    assert mode(tmp_path / "state" / "mcp" / "claims") == 0o700


@pytest.mark.rule("S2")
def test_the_lock_file_stays_the_same_file_whatever_happens_to_the_claims(store: FileStore) -> None:
    world = World()
    first, second = world.session(store), world.session(store)
    first.try_claim(KEY.key, KEY.namespace)
    inode = lock_file(store).stat().st_ino

    def still_the_same() -> bool:
        return lock_file(store).stat().st_ino == inode

    first.try_claim(KEY.key, KEY.namespace)
    assert still_the_same(), "after a renewal"
    first.release(KEY.key, KEY.namespace)
    assert still_the_same(), "after a release"
    first.try_claim(KEY.key, KEY.namespace)
    world.kill(first)
    assert second.try_claim(KEY.key, KEY.namespace).taken_over
    assert still_the_same(), "after a takeover"
    world.pass_time(3_600)
    assert second.prune().expired == 1
    assert entries(store) == [".lock"]
    assert still_the_same(), "after a prune"
    place(store).write_bytes(b"{")
    found = store.read(KEY)
    assert found is not None
    assert store.discard(found)
    assert still_the_same(), "after a discard"


def test_only_the_claims_and_the_lock_file_stay(store: FileStore) -> None:
    first = grant(store, claim())
    assert entries(store) == [".lock", "red-check.json"]
    second = grant(store, renewed(first), over=first)
    assert not store.swap(KEY, None, claim()).won
    assert entries(store) == [".lock", "red-check.json"]
    store.swap(KEY, second, None)
    assert entries(store) == [".lock"]
    assert sorted(os.listdir(store.directory)) == [DIRECTORY, KEY.namespace]


@pytest.mark.rule("S4")
@pytest.mark.parametrize("left", ["half", "link"])
def test_the_rest_of_a_write_that_crashed_is_replaced(store: FileStore, tmp_path: Path, left: str) -> None:
    granted = grant(store, claim())
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    new = fresh(store)
    if left == "half":
        new.write_bytes(b'{"holder": "somebo')
    else:
        new.symlink_to(outside)
    assert list(store.scan()) == [granted]
    longer = grant(store, renewed(granted), over=granted)
    assert store.read(KEY) == longer
    assert entries(store) == [".lock", "red-check.json"]
    assert outside.read_text() == "untouched"
    assert sorted(os.listdir(store.directory)) == [DIRECTORY, KEY.namespace]


@pytest.mark.rule("S4")
def test_the_records_of_a_namespace_that_is_a_mount_are_written_inside_it(store: FileStore) -> None:
    class Mounted(HookedFileSystem):
        def replace(self, source: str, target: str) -> None:
            if os.path.dirname(source) != os.path.dirname(target):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)
            super().replace(source, target)

    mounted = FileStore(store.directory, fs=Mounted())
    granted = grant(mounted, claim())
    longer = grant(mounted, renewed(granted), over=granted)
    assert store.read(KEY) == longer
    assert entries(store) == [".lock", "red-check.json"]
    assert os.listdir(store.directory) == [KEY.namespace]


def test_a_claims_directory_removed_while_stores_use_it_is_made_anew_and_still_excludes(store: FileStore) -> None:
    another = FileStore(store.directory)
    grant(store, claim(session=1))
    assert another.read(KEY)
    shutil.rmtree(store.directory)
    assert store.read(KEY) is None
    granted = grant(another, claim(session=2))
    assert not store.swap(KEY, None, claim(session=1)).won
    assert store.read(KEY) == granted


@pytest.mark.usefixtures("umask")
def test_a_claims_directory_made_anew_is_private_again(store: FileStore) -> None:
    grant(store, claim())
    shutil.rmtree(store.directory)
    grant(store, claim())
    assert mode(Path(store.directory)) == 0o700
    assert isinstance(FileStore(store.directory).read(KEY), Claim)


def test_a_directory_removed_during_a_wait_for_its_lock_does_not_let_two_in(store: FileStore) -> None:
    inside = ExitStack()

    class Removed(HookedFileSystem):
        done = False

        def before(self, call: str, where: str | int) -> None:
            if call == "try_lock" and not self.done:
                self.done = True
                shutil.rmtree(store.directory)
                file = inside.enter_context(LockFile(FileSystem(), str(place(store).parent)))
                inside.enter_context(NamespaceLock(file, 0))

    grant(store, claim())
    with inside, pytest.raises(StoreBusyError):
        FileStore(store.directory, fs=Removed()).swap(KEY, None, claim(session=2), lock_timeout=0)
    assert store.read(KEY) is None
