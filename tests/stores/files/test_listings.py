"""A walk in pages lists a large directory once, and still shows each claim that was there throughout, once."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_claims.errors import UnsafeDirectoryError
from mcp_claims.model.records import Claim, ScopedKey
from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.files import listings
from mcp_claims.stores.files.listings import Listings
from mcp_claims.stores.files.store import FileStore
from tests.stores.files.hooked import HookedFileSystem
from tests.stores.samples import claim, grant, place

NAMESPACES = ("ci", "deploy")
PER_NAMESPACE = 12


class Noting(HookedFileSystem):
    """Notes which directories are listed; `later` is added to the clock."""

    def __init__(self) -> None:
        self.listed: list[str] = []
        self.later = 0.0

    def before(self, call: str, where: str | int) -> None:
        if call == "names":
            self.listed.append(Path(str(where)).name)

    def monotonic(self) -> float:
        return super().monotonic() + self.later


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "_MIN_KEPT", 2)
    monkeypatch.setattr(listings, "_RUN", 5)


@pytest.fixture
def fs() -> Noting:
    return Noting()


@pytest.fixture
def store(tmp_path: Path, fs: Noting) -> FileStore:
    """Return a store with claims that were made by other processes."""
    for namespace in NAMESPACES:
        for number in range(PER_NAMESPACE):
            grant(FileStore(tmp_path / "claims"), claim(ScopedKey(namespace, f"key-{number:02}")))
    return FileStore(tmp_path / "claims", fs=fs)


def elsewhere(store: FileStore) -> FileStore:
    """Return the store of another process."""
    return FileStore(store.directory)


def walk(
    session: Session, namespace: str | None = None, *, after: str = "", between: Callable[[], None] = lambda: None
) -> list[str]:
    """Read pages of three behind *after*; act *between* two of them; return the keys in their order."""
    keys: list[str] = []
    following: str | None = after
    while following is not None:
        page = session.list_claims(namespace, after=following, limit=3)
        keys += [listed.found.scoped.key for listed in page.claims if isinstance(listed.found, Claim)]
        following = page.after
        between()
    return keys


def expected(namespaces: int = 1) -> list[str]:
    return [f"key-{number:02}" for number in range(PER_NAMESPACE)] * namespaces


@pytest.mark.rule("C12")
def test_a_walk_lists_each_directory_once(store: FileStore, fs: Noting) -> None:
    session = process_session(store)
    assert walk(session, "ci") == expected()
    assert fs.listed == ["ci"]
    assert walk(session) == expected(2)
    assert fs.listed == ["ci", "claims", "ci", "deploy"], "a new walk lists anew"


def test_two_walks_at_once_share_the_names(store: FileStore, fs: Noting) -> None:
    session = process_session(store)
    first = session.list_claims("ci", limit=3)
    assert walk(session, "ci") == expected()
    assert walk(session, "ci", after=first.after or "") == expected()[3:]
    assert fs.listed == ["ci", "ci"]


def test_a_small_directory_is_listed_for_each_page(
    store: FileStore, fs: Noting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "_MIN_KEPT", 1_000)
    assert walk(process_session(store), "ci") == expected()
    assert len(fs.listed) == PER_NAMESPACE / 3


@pytest.mark.rule("C12")
def test_claims_that_come_and_go_hide_no_other(store: FileStore) -> None:
    numbers = iter(range(100))

    def between() -> None:
        number = next(numbers)
        grant(elsewhere(store), claim(ScopedKey("ci", f"key-{number:02}-new")))
        if number % 2:
            place(store, ScopedKey("ci", f"key-{number:02}")).unlink(missing_ok=True)

    keys = walk(process_session(store), "ci", between=between)
    assert len(keys) == len(set(keys)) and keys == sorted(keys)
    assert {f"key-{number:02}" for number in range(0, PER_NAMESPACE, 2)} <= set(keys)


@pytest.mark.rule("C12")
def test_a_walk_that_began_elsewhere_shows_what_was_made_after_the_names_were_listed(store: FileStore) -> None:
    """A client may get its next page from another process, which listed the same names earlier for somebody else."""
    session = process_session(store)
    assert session.list_claims("ci", limit=3).after is not None
    grant(elsewhere(store), claim(ScopedKey("ci", "key-99")))
    begun = process_session(elsewhere(store)).list_claims("ci", limit=3)
    assert begun.after is not None
    assert walk(session, "ci", after=begun.after) == [*expected()[3:], "key-99"]


def test_a_position_without_a_walk_lists_anew(store: FileStore, fs: Noting) -> None:
    """An earlier version returned such positions as cursors."""
    session = process_session(store)
    first = session.list_claims("ci", limit=3)
    position = store.position(first.claims[-1].found)
    for after in (position, f"\1later\0{position}", first.after or ""):
        assert walk(session, "ci", after=after)[:9] == (expected()[3:] if "later" not in after else expected()[:9])
    assert "\1" not in position and len(fs.listed) == 3


def test_names_are_kept_for_half_a_minute_after_the_last_page(store: FileStore, fs: Noting) -> None:
    session = process_session(store)
    page = session.list_claims("ci", limit=3)
    fs.later += 29
    page = session.list_claims("ci", after=page.after or "", limit=3)
    fs.later += 29
    page = session.list_claims("ci", after=page.after or "", limit=3)
    assert fs.listed == ["ci"]
    fs.later += 31
    assert walk(session, "ci", after=page.after or "") == expected()[9:]
    assert fs.listed == ["ci", "ci"]


def test_old_names_are_dropped_by_the_next_change(store: FileStore, fs: Noting) -> None:
    process_session(store).list_claims("ci", limit=3)
    assert store._listings._kept
    fs.later += 31
    grant(store, claim(ScopedKey("another", "key")))
    assert not store._listings._kept


def test_more_names_than_there_is_room_for_drop_those_used_longest_ago(
    store: FileStore, fs: Noting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "_MAX_KEPT", 2 * PER_NAMESPACE + 1)  # The lock file has a name, too.
    session = process_session(store)
    ci, deploy = (session.list_claims(namespace, limit=3) for namespace in NAMESPACES)
    assert walk(session, "deploy", after=deploy.after or "") == expected()[3:]
    assert fs.listed == ["ci", "deploy"]
    assert walk(session, "ci", after=ci.after or "") == expected()[3:]
    assert fs.listed == ["ci", "deploy", "ci"], "they were dropped for those of the other"
    monkeypatch.setattr(listings, "_MAX_KEPT", PER_NAMESPACE)
    fs.listed.clear()
    assert walk(session, "ci") == expected()
    assert len(fs.listed) == PER_NAMESPACE / 3, "one directory has too many"


@pytest.mark.rule("S8")
def test_a_namespace_that_becomes_unsafe_during_a_walk_is_not_read(store: FileStore, fs: Noting) -> None:
    session = process_session(store)
    page = session.list_claims("ci", limit=3)
    place(store, ScopedKey("ci", "key-00")).parent.chmod(0o777)
    fs.later += 2
    with pytest.raises(UnsafeDirectoryError):
        session.list_claims("ci", after=page.after or "", limit=3)


def test_a_namespace_that_is_removed_during_a_walk_is_empty(store: FileStore, fs: Noting) -> None:
    session = process_session(store)
    page = session.list_claims("ci", limit=3)
    for file in (directory := place(store, ScopedKey("ci", "key-00")).parent).iterdir():
        file.unlink()
    directory.rmdir()
    fs.later += 2
    assert walk(session, "ci", after=page.after or "") == []


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 23])
def test_names_are_in_order_from_any_start_and_each_comes_once(count: int) -> None:
    names = [f"{number:02}" for number in range(count)]

    class Twice(HookedFileSystem):
        def names(self, path: str, limit: int | None = None) -> list[str]:
            return random.sample([*names, *names], 2 * count)

    listed = Listings(Twice())
    assert list(listed.names("/x")) == names
    for start in ("", "00", "045", "05", "99"):
        assert list(listed.names("/x", start)) == [name for name in names if name >= start]
