"""Directories that other users can write to are refused: they could forge or remove claims there."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcp_claims.errors import ReplaceableDirectoryError, StoreUnavailableError, UnsafeDirectoryError
from mcp_claims.model.records import Claim, ScopedKey, Unreadable
from mcp_claims.stores.files.ancestors import find_replaceable
from mcp_claims.stores.files.filesystem import FileSystem
from mcp_claims.stores.files.store import FileStore
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import KEY, claim, grant, place

if sys.platform == "win32":
    pytest.skip("modes and owners are those of POSIX", allow_module_level=True)


class Clocked(FileSystem):
    """Has a clock that the test sets."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


class Foreign(FileSystem):
    """Sees what is at *path*, a link perhaps, as another user's."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def status_of(self, path: str) -> os.stat_result:
        return self._seen(path, super().status_of(path))

    def status_behind(self, path: str) -> os.stat_result:
        return self._seen(path, super().status_behind(path))

    def find_replaceable(self, path: str) -> tuple[str, str, bool] | None:
        return find_replaceable(path, self.status_of)

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
    """Use *store* in every way, each of which must be refused, and return the messages."""
    return refused_by(UnsafeDirectoryError, store)


def refused_by(error: type[UnsafeDirectoryError], store: FileStore, namespace: str | None = "ci") -> list[str]:
    messages = []
    for use in (
        lambda: store.read(KEY),
        lambda: store.swap(KEY, None, claim()),
        lambda: store.discard(claim()),
        lambda: list(store.scan(namespace)),
        lambda: store.names("ci", 10),
    ):
        with pytest.raises(error) as refusal:
            use()
        messages.append(str(refusal.value))
    return messages


def scanned(store: FileStore) -> str:
    """Scan all namespaces, one or all of which are unsafe, and return the problem."""
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
    assert scanned(FileStore(tmp_path / "claims")).startswith(f"{directory} can be written by others")
    directory.chmod(0o700)
    assert isinstance(FileStore(tmp_path / "claims").read(KEY), Claim)


@pytest.mark.parametrize("safe", [0o700, 0o750, 0o755], ids=oct)
def test_a_directory_that_others_can_only_read_is_accepted(tmp_path: Path, safe: int) -> None:
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
    assert "belongs to another user" in scanned(store)


@pytest.mark.rule("S8")
def test_an_unsafe_namespace_does_not_hide_the_others(store: FileStore) -> None:
    granted, other = grant(store, claim()), grant(store, claim(ScopedKey("other", "red-check"), session=2))
    place(store).parent.chmod(0o777)
    unsafe, seen = FileStore(store.directory).scan()
    assert isinstance(unsafe, Unreadable) and unsafe.where == str(place(store).parent)
    assert seen == other
    place(store).parent.chmod(0o700)
    assert list(FileStore(store.directory).scan()) == [granted, other]


def test_a_namespace_that_cannot_be_listed_does_not_hide_the_others(store: FileStore) -> None:
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
def test_a_directory_that_becomes_unsafe_is_noticed_a_second_later(tmp_path: Path) -> None:
    fs = Clocked()
    store = FileStore(tmp_path / "claims", fs=fs)
    grant(store, claim())
    place(store).parent.chmod(0o777)
    fs.seconds += 1
    with pytest.raises(UnsafeDirectoryError):
        store.read(KEY)


@pytest.mark.rule("S8")
def test_a_scan_leaves_directories_that_are_not_namespaces_alone(store: FileStore) -> None:
    granted = grant(store, claim())
    photos = Path(store.directory, "photos")
    photos.mkdir()
    (photos / "holiday.json").write_text("{}")
    Path(store.directory, "notes.txt").write_text("a file")
    assert list(store.scan()) == [granted]


def test_an_unsafe_directory_that_another_process_makes_first_is_refused(tmp_path: Path) -> None:
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


def test_the_directory_that_the_claims_directory_leads_to_must_be_private(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk").chmod(0o777)
    (tmp_path / "claims").symlink_to(tmp_path / "disk")
    with pytest.raises(UnsafeDirectoryError):
        store.swap(KEY, None, claim())
    assert not list((tmp_path / "disk").rglob("*.json"))


def replaceable(store: FileStore) -> str:
    """Use *store* in every way, each of which must be refused because of what is above it, and return the message."""
    (message,) = {*refused_by(ReplaceableDirectoryError, store), *refused_by(ReplaceableDirectoryError, store, None)}
    return message


@pytest.mark.rule("S8")
@pytest.mark.parametrize("mode", [0o777, 0o707, 0o775], ids=oct)
@pytest.mark.parametrize("above", ["", "state", "state/mcp-claims"])
def test_a_directory_above_in_which_others_could_rename_is_refused_with_the_remedy(
    tmp_path: Path, above: str, mode: int
) -> None:
    directory = tmp_path / "state/mcp-claims/claims"
    grant(FileStore(directory), claim())
    shared = tmp_path / above
    if mode == 0o775:
        os.chown(shared, -1, 12_345) if os.geteuid() == 0 else pytest.skip("needs a group that is not ours")
    shared.chmod(mode)
    message = replaceable(FileStore(directory))
    assert f"{shared} can be written by others (mode {mode:04o})" in message
    assert f"`chmod go-w {shared}`" in message and "MCP_CLAIMS_DIR" in message
    shared.chmod(0o755)
    assert isinstance(FileStore(directory).read(KEY), Claim)


@pytest.mark.rule("S8")
def test_a_claims_directory_that_others_have_renamed_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    store = FileStore(tmp_path / "shared" / "claims")
    assert "can be written by others" in replaceable(store)
    assert list((tmp_path / "shared").iterdir()) == []


@pytest.mark.rule("S8")
def test_in_a_sticky_directory_what_is_ours_cannot_be_replaced(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    grant(FileStore(shared / "mine" / "claims"), claim())
    assert "belongs to another user" in replaceable(FileStore(shared / "mine" / "claims", fs=Foreign(shared / "mine")))


@pytest.mark.rule("S8")
@pytest.mark.parametrize("above", ["", "state"])
def test_a_directory_above_that_belongs_to_another_user_is_refused(tmp_path: Path, above: str) -> None:
    directory = tmp_path / "state" / "claims"
    grant(FileStore(directory), claim())
    message = replaceable(FileStore(directory, fs=Foreign(tmp_path / above)))
    assert f"{tmp_path / above} belongs to another user (uid {os.geteuid() + 1})" in message
    assert message.endswith("Choose with MCP_CLAIMS_DIR a directory below ones that belong to this user or root.")


@pytest.mark.rule("S8")
def test_a_link_on_the_way_that_belongs_to_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(0o700)
    for link, rest in (("link", "claims"), ("claims", ".")):
        (tmp_path / link).symlink_to(tmp_path / "disk")
        store = FileStore(tmp_path / link / rest, fs=Foreign(tmp_path / link))
        assert f"{tmp_path / link} is a link of another user" in replaceable(store)
        grant(FileStore(tmp_path / link / rest), claim(ScopedKey("ci", link)))


@pytest.mark.rule("S8")
def test_the_way_that_a_link_leads_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "shared" / "disk").mkdir(parents=True)
    (tmp_path / "shared" / "disk").chmod(0o700)
    (tmp_path / "home").mkdir()
    for target in (tmp_path / "shared" / "disk", "../shared/disk", "./..//shared/./disk/../disk"):
        (tmp_path / "home" / "claims").symlink_to(target)
        (tmp_path / "shared").chmod(0o777)
        assert f"{tmp_path}/shared can be written by others" in replaceable(FileStore(tmp_path / "home" / "claims"))
        (tmp_path / "shared").chmod(0o755)
        FileStore(tmp_path / "home" / "claims").read(KEY)
        (tmp_path / "home" / "claims").unlink()


def test_links_in_a_circle_are_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StoreUnavailableError, match="symbolic links"):
        FileStore(tmp_path / "a" / "claims").read(KEY)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077], ids=oct)
def test_directories_above_that_the_store_makes_are_not_refused_by_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        grant(FileStore(tmp_path / "state" / "mcp-claims" / "claims"), claim())
    finally:
        os.umask(before)
    assert isinstance(FileStore(tmp_path / "state" / "mcp-claims" / "claims").read(KEY), Claim)


def test_the_users_own_group_may_write_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many systems make a group for each user, and let it write by the umask 002."""
    directory = tmp_path / "state" / "claims"
    grant(FileStore(directory), claim())
    (tmp_path / "state").chmod(0o775)
    if (tmp_path / "state").stat().st_gid != os.geteuid():
        pytest.skip("this user has no such group")
    members: list[str] = []
    monkeypatch.setattr("grp.getgrgid", lambda gid: SimpleNamespace(gr_name=pwd.getpwuid(gid).pw_name, gr_mem=members))
    assert isinstance(FileStore(directory).read(KEY), Claim)
    members.append("somebody")
    assert "can be written by others" in replaceable(FileStore(directory))
