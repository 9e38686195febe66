"""What is in the way of git, in the process itself: many files, odd names, links, and a store that hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_claims.guard import git
from mcp_claims.guard.git import commit_conflicts, push_conflicts
from mcp_claims.model.records import Claim, Found, ScopedKey, Unreadable
from mcp_claims.session.host_session import HostSession, Whose
from mcp_claims.session.identity import process_session
from mcp_claims.session.places import Resolver
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store
from mcp_claims.stores.memory import MemoryStore

US = HostSession()


@pytest.fixture(autouse=True)
def _every_claim_is_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sessions live in this process, which would be one host."""
    monkeypatch.setattr(git, "whose", lambda *_: Whose.OTHERS)


@pytest.fixture
def store() -> Store:
    return MemoryStore()


@pytest.fixture
def ours(store: Store) -> Session:
    return process_session(store)


@pytest.fixture
def theirs(store: Store) -> Session:
    return process_session(store)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def found(session: Session, *paths: Path | str, beside: int = 0) -> dict[str, tuple[str, ...]]:
    """Return the keys in the way of *paths*, each with what it is about; *beside* more files are committed with them."""
    others = [str(Path("/elsewhere") / str(number)) for number in range(beside)]
    conflicts = commit_conflicts(session, US, [*map(str, paths), *others])
    return {each.listed.found.scoped.key: each.names for each in conflicts if isinstance(each.listed.found, Claim)}


FEW_OR_MANY = pytest.mark.parametrize("beside", [0, 100], ids=["few", "many"])


@pytest.mark.rule("Y1")
@FEW_OR_MANY
def test_a_file_is_known_by_its_key_through_links_and_in_odd_forms(
    ours: Session, theirs: Session, top: Path, beside: int
) -> None:
    (top / "real").mkdir()
    (top / "link").symlink_to("real")
    (top / "file").symlink_to("real/a.py")
    for key in ("real/a.py", "Ünïcode/É.py", "gone/x"):
        theirs.try_claim(f"file:{top}/{key}")
    held = {each: f"file:{top}/{each}" for each in ("real/a.py", "Ünïcode/É.py", "gone/x")}
    assert found(ours, top / "link" / "a.py", beside=beside) == {held["real/a.py"]: (f"{top}/link/a.py",)}
    assert found(ours, top / "file", beside=beside) == {held["real/a.py"]: (f"{top}/file",)}
    decomposed = f"{top}/U\u0308ni\u0308code/E\u0301.py"
    assert found(ours, decomposed, beside=beside) == {held["Ünïcode/É.py"]: (decomposed,)}
    assert found(ours, top / "gone" / "x", top / "real" / "b.py", beside=beside) == {held["gone/x"]: (f"{top}/gone/x",)}


@pytest.mark.rule("Y1")
@FEW_OR_MANY
def test_a_name_that_no_key_can_have_counts_as_its_directory(
    ours: Session, theirs: Session, top: Path, beside: int
) -> None:
    theirs.try_claim(f"file:{top}/src/")
    theirs.try_claim(f"file:{top}/docs/a.md")
    for name in ("line\nbreak", "not\udcffutf8", " blank ", "n" * 1_100):
        assert list(found(ours, f"{top}/src/{name}", beside=beside)) == [f"file:{top}/src/"]
    assert list(found(ours, f"{top}/src/line\nbreak/deep.py", beside=beside)) == [f"file:{top}/src/"]


@pytest.mark.rule("Y1")
@FEW_OR_MANY
def test_of_a_claim_on_many_files_some_are_named(ours: Session, theirs: Session, top: Path, beside: int) -> None:
    theirs.try_claim(f"file:{top}/")
    names = found(ours, *[top / f"{number}" for number in range(12)], beside=beside)[f"file:{top}/"]
    assert len(names) == git.MAX_NAMES + 1


@pytest.mark.rule("Y1")
def test_for_many_files_the_store_is_read_once_and_no_file_is_looked_at_where_no_claim_is_near(
    ours: Session, theirs: Session, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs.try_claim(f"file:{top}/d7/x.py")
    resolved: list[str] = []
    file_key = git._file_key

    def counted(resolver: Resolver, path: str) -> ScopedKey:
        resolved.append(path)
        return file_key(resolver, path)

    monkeypatch.setattr(git, "_file_key", counted)
    monkeypatch.setattr(ours, "read", None)
    paths = [top / f"d{number // 100}" / f"{letter}{number}.py" for number in range(10_000) for letter in "aA"]
    assert found(ours, *paths, top / "d7" / "x.py") == {f"file:{top}/d7/x.py": (f"{top}/d7/x.py",)}
    assert len(resolved) == 100, "the names with a capital in that one directory"


class Hanging(MemoryStore):
    """A store on a network that has gone."""

    def __init__(self) -> None:
        super().__init__()
        self.back = threading.Event()

    def read(self, scoped: ScopedKey) -> Found:
        self.back.wait()
        return None

    def scan(self, *_: object, **__: object) -> Iterator[Claim | Unreadable]:
        self.back.wait()
        return iter(())


@pytest.mark.rule("Y2")
@FEW_OR_MANY
def test_a_store_that_hangs_is_given_up(top: Path, beside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "STORE_TIMEOUT", 0.01)
    store = Hanging()
    session = process_session(store)
    refs = [f"refs/heads/{number}" for number in range(beside + 1)]
    try:
        with pytest.raises(TimeoutError):
            found(session, top / "a", beside=beside)
        with pytest.raises(TimeoutError):
            push_conflicts(session, US, "git@github.com:acme/web.git", refs)
        assert push_conflicts(session, US, "unknown://", ["refs/tags/v1"]) == []
    finally:
        store.back.set()
