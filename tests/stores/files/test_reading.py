"""Reading and scanning: they make nothing, change nothing, and stumble over nothing that comes and goes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.model.records import Found, ScopedKey
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, claim, grant, lock_file, place, renewed

EARLIER_NAMESPACE = ScopedKey("brief", "red-check")


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "claims")


def test_looking_makes_nothing(store: FileStore, tmp_path: Path) -> None:
    assert store.read(KEY) is None
    assert list(store.scan()) == []
    assert list(store.scan("ci")) == []
    assert list(tmp_path.iterdir()) == []


def test_looking_leaves_files_and_times_alone(store: FileStore) -> None:
    grant(store, claim())
    watched = [Path(store.directory), place(store).parent, place(store), lock_file(store)]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in watched]
    store.read(KEY)
    store.read(ScopedKey("ci", "another"))
    list(store.scan())
    assert [(path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in watched] == before


def test_things_that_are_not_ours_are_left_alone(store: FileStore) -> None:
    granted = grant(store, claim())
    notes = [Path(store.directory, "README"), place(store).with_name("notes.txt"), place(store).with_name(".x.json")]
    for path in notes:
        path.write_text("mine")
    assert list(store.scan()) == [granted]
    store.swap(KEY, granted, None)
    assert all(path.read_text() == "mine" for path in notes)


@pytest.mark.parametrize("name", [".git", "lost+found", "Old Claims"])
def test_a_directory_that_no_namespace_has_is_left_alone(store: FileStore, name: str) -> None:
    granted = grant(store, claim())
    stray = Path(store.directory, name)
    stray.mkdir()
    # As `mkdir` makes it for people whose umask is 002; it says nothing about our claims.
    stray.chmod(0o775)
    stray.joinpath("x.json").write_text("{}")
    assert list(store.scan()) == [granted]


@pytest.mark.skipif(sys.platform != "linux", reason="not every system allows such names")
@pytest.mark.parametrize("name", ["Notes.json", "two\nlines.json", "\udcff.json"], ids=ascii)
def test_a_file_that_no_key_has_is_left_alone(store: FileStore, name: str) -> None:
    granted = grant(store, claim())
    place(store).with_name(name).write_text("{}")
    assert list(store.scan()) == [granted]


def test_one_claim_that_cannot_be_read_does_not_hide_the_others(store: FileStore) -> None:
    granted = grant(store, claim(ScopedKey("ci", "review")))
    place(store).write_bytes(b"")
    assert set(store.scan()) == {granted, store.read(KEY)}


@pytest.mark.rule("C12")
def test_what_comes_before_a_page_is_not_read_for_it(store: FileStore) -> None:
    found = [
        grant(store, claim(ScopedKey(space, f"key-{number}"))) for space in ("ci", "deploy") for number in range(5)
    ]
    opened: list[str] = []

    class Noting(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "open":
                opened.append(str(where))

    looker = FileStore(store.directory, fs=Noting())
    assert list(looker.scan(after=store.position(found[7]))) == found[8:]
    assert opened == [str(place(store, each.scoped)) for each in found[8:]]


def test_a_file_that_goes_away_between_two_calls_of_a_look_is_gone(store: FileStore) -> None:
    class Vanishing(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "status_of" and where == str(place(store)):
                place(store).unlink()

    store.swap(KEY, grant(store, claim()), None)
    looks: list[Callable[[FileStore], Found]] = [lambda store: store.read(KEY), lambda store: next(store.scan(), None)]
    for look in looks:
        # A link cannot be opened, so its status is asked for next.
        place(store).symlink_to("nothing")
        assert look(FileStore(store.directory, fs=Vanishing())) is None


def test_a_claim_that_goes_away_during_a_scan_is_not_seen(store: FileStore) -> None:
    class Releasing(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "open" and where == str(place(store)):
                place(store).unlink(missing_ok=True)

    grant(store, claim())
    granted = grant(store, claim(ScopedKey("ci", "review")))
    assert list(FileStore(store.directory, fs=Releasing()).scan()) == [granted]


def test_a_namespace_that_goes_away_during_a_scan_does_not_end_it(store: FileStore) -> None:
    class Vanishing(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "status_of" and where == str(place(store, EARLIER_NAMESPACE).parent):
                shutil.rmtree(where)

    grant(store, claim(EARLIER_NAMESPACE))
    granted = grant(store, claim())
    assert list(FileStore(store.directory, fs=Vanishing()).scan()) == [granted]


@pytest.mark.rule("S4")
def test_a_claim_replaced_while_it_is_read_is_seen_whole(store: FileStore) -> None:
    class Slow(FileSystem):
        replaced = False

        def read(self, fd: int, size: int) -> bytes:
            part = super().read(fd, min(size, 50))
            if not self.replaced:
                self.replaced = True
                grant(store, renewed(granted), over=granted)
            return part

    granted = grant(store, claim())
    slow = FileStore(store.directory, fs=Slow())
    assert slow.read(KEY) == granted
    assert slow.read(KEY) == renewed(granted)
