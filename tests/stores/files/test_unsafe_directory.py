"""Whose directories claims may be in: others could forge or remove what lies where they can write."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from mcp_claims.errors import StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.model.records import Claim, ScopedKey, Unreadable
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, claim, grant, place

if sys.platform == "win32":
    pytest.skip("modes and owners are those of POSIX", allow_module_level=True)


class Clocked(FileSystem):
    """Has a clock that the test moves."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


class Foreign(FileSystem):
    """Sees the directory at *path* as another user's."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def status_of(self, path: str) -> os.stat_result:
        return self._seen(path, super().status_of(path))

    def status_behind(self, path: str) -> os.stat_result:
        return self._seen(path, super().status_behind(path))

    def _seen(self, path: str, status: os.stat_result) -> os.stat_result:
        if path != self._path:
            return status
        fields = list(status)
        fields[stat.ST_UID] = os.geteuid() + 1
        return os.stat_result(fields)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "claims")


def refused(store: FileStore) -> list[str]:
    """Use *store* in every way, each of which has to be refused, and return what it said."""
    messages = []
    for use in (
        lambda: store.read(KEY),
        lambda: store.swap(KEY, None, claim()),
        lambda: store.discard(claim()),
        lambda: list(store.scan("ci")),
    ):
        with pytest.raises(UnsafeDirectoryError) as refusal:
            use()
        messages.append(str(refusal.value))
    return messages


def seen_in_all(store: FileStore) -> str:
    """Look at all namespaces, one of which or all are unsafe, and return what is said of that."""
    try:
        (found,) = store.scan()
    except UnsafeDirectoryError as error:
        return f"{error.where} {error.problem}"
    assert isinstance(found, Unreadable)
    return f"{found.where} {found.problem}"


@pytest.mark.rule("S8")
@pytest.mark.parametrize("unsafe", [0o770, 0o707, 0o720, 0o702, 0o777, 0o1777], ids=oct)
@pytest.mark.parametrize("which", ["claims", "claims/ci"])
def test_a_directory_that_others_can_write_is_refused_with_the_remedy(tmp_path: Path, which: str, unsafe: int) -> None:
    grant(FileStore(tmp_path / "claims"), claim())
    directory = tmp_path / which
    directory.chmod(unsafe)
    for message in refused(FileStore(tmp_path / "claims")):
        assert "can be written by others" in message
        assert f"chmod 700 {directory}`" in message
        assert "MCP_CLAIMS_DIR" in message
    assert seen_in_all(FileStore(tmp_path / "claims")).startswith(f"{directory} can be written by others")
    directory.chmod(0o700)
    assert isinstance(FileStore(tmp_path / "claims").read(KEY), Claim)


@pytest.mark.parametrize("safe", [0o700, 0o750, 0o755], ids=oct)
def test_a_directory_that_others_can_only_read_is_taken(tmp_path: Path, safe: int) -> None:
    (tmp_path / "claims").mkdir(safe)
    (tmp_path / "claims").chmod(safe)
    grant(FileStore(tmp_path / "claims"), claim())


@pytest.mark.rule("S8")
@pytest.mark.parametrize("which", ["claims", "claims/ci"])
def test_a_directory_of_another_user_is_refused(tmp_path: Path, which: str) -> None:
    grant(FileStore(tmp_path / "claims"), claim())
    store = FileStore(tmp_path / "claims", fs=Foreign(tmp_path / which))
    for message in refused(store):
        assert f"{tmp_path / which} belongs to another user (uid {os.geteuid() + 1})" in message
    assert "belongs to another user" in seen_in_all(store)


@pytest.mark.rule("S8")
def test_an_unsafe_namespace_keeps_no_other_one_from_being_seen(store: FileStore) -> None:
    granted, other = grant(store, claim()), grant(store, claim(ScopedKey("other", "red-check"), session=2))
    place(store).parent.chmod(0o777)
    unsafe, seen = FileStore(store.directory).scan()
    assert isinstance(unsafe, Unreadable) and unsafe.where == str(place(store).parent)
    assert seen == other
    place(store).parent.chmod(0o700)
    assert list(FileStore(store.directory).scan()) == [granted, other]


def test_a_namespace_that_cannot_be_listed_keeps_no_other_one_from_being_seen(store: FileStore) -> None:
    closed, other = place(store).parent, grant(store, claim(ScopedKey("other", "red-check"), session=2))
    grant(store, claim())

    class Closed(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "names" and where == str(closed):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), where)

    denied, seen = FileStore(store.directory, fs=Closed()).scan()
    assert isinstance(denied, Unreadable) and (denied.where, denied.problem) == (str(closed), "Permission denied")
    assert seen == other
    with pytest.raises(StoreUnavailableError):
        list(FileStore(store.directory, fs=Closed()).scan("ci"))


@pytest.mark.rule("S8")
def test_a_directory_that_became_unsafe_is_noticed_by_a_store_that_trusted_it(tmp_path: Path) -> None:
    fs = Clocked()
    store = FileStore(tmp_path / "claims", fs=fs)
    grant(store, claim())
    place(store).parent.chmod(0o777)
    fs.seconds += 1
    with pytest.raises(UnsafeDirectoryError):
        store.read(KEY)


@pytest.mark.rule("S8")
def test_directories_that_are_not_namespaces_are_none_of_a_scans_business(store: FileStore) -> None:
    granted = grant(store, claim())
    photos = Path(store.directory, "photos")
    photos.mkdir()
    (photos / "holiday.json").write_text("{}")
    Path(store.directory, "notes.txt").write_text("a file")
    assert list(store.scan()) == [granted]


def test_a_directory_made_unsafe_by_somebody_faster_is_refused_at_the_first_claim(tmp_path: Path) -> None:
    class Raced(HookedFileSystem):
        def before(self, call: str, where: str | int) -> None:
            if call == "make_directory" and where == str(tmp_path / "claims"):
                (tmp_path / "claims").mkdir()
                (tmp_path / "claims").chmod(0o777)

    with pytest.raises(UnsafeDirectoryError):
        FileStore(tmp_path / "claims", fs=Raced()).swap(KEY, None, claim())
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.rule("S8")
def test_a_namespace_that_is_a_link_is_refused(store: FileStore, tmp_path: Path) -> None:
    outside = FileStore(tmp_path / "outside")
    granted = grant(outside, claim())
    Path(store.directory).mkdir(0o700)
    place(store).parent.symlink_to(place(outside).parent)
    for use in (lambda: store.read(KEY), lambda: store.swap(KEY, granted, None), lambda: list(store.scan("ci"))):
        with pytest.raises(UnsafeDirectoryError, match="is a link to elsewhere"):
            use()
    assert list(store.scan()) == []
    assert outside.read(KEY) == granted


def test_the_claims_directory_itself_may_be_a_link(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(0o700)
    (tmp_path / "claims").symlink_to(tmp_path / "disk")
    granted = grant(store, claim())
    assert FileStore(tmp_path / "disk").read(KEY) == granted


def test_what_the_claims_directory_leads_to_has_to_be_ours_alone(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk").chmod(0o777)
    (tmp_path / "claims").symlink_to(tmp_path / "disk")
    with pytest.raises(UnsafeDirectoryError):
        store.swap(KEY, None, claim())
    assert not list((tmp_path / "disk").rglob("*.json"))
